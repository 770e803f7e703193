"""Names of runs, and of what they hold."""

from pathlib import Path

import pytest

from switchkd.errors import SkdError
from switchkd.runs import existing_run, find_in_runs, find_model, run_of


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Runs `one`, the newest, and `two`, with exports and models that links show."""
    monkeypatch.chdir(tmp_path)
    for run, exports in (("one", ["q4"]), ("two", ["q4", "q8"])):
        for export in exports:
            Path("runs", run, "exports", export).mkdir(parents=True)
        model = Path("runs", run, "stages", "student-dft-1", "model")
        model.mkdir(parents=True)
        Path("runs", run, "student").symlink_to(Path("stages", "student-dft-1", "model"))
        Path("runs", run, "recipe.yaml").write_text("{}")
    Path("runs/latest").symlink_to("one")


@pytest.mark.parametrize(
    ("name", "run", "found"),
    [
        ("q4", None, "runs/latest/exports/q4"),
        ("q4", "two", "runs/two/exports/q4"),
        ("two/q4", None, "runs/two/exports/q4"),
        ("two/q8", "one", "runs/two/exports/q8"),
        ("two/student", None, "runs/two/student"),
        ("student", None, "runs/latest/student"),
        ("student", "two", "runs/two/student"),
        ("latest/student", None, "runs/latest/student"),
        ("runs/two/student", "one", "runs/two/student"),
        ("asset:teacher", "two", "asset:teacher"),
        ("google/siglip", "two", "google/siglip"),
        ("nothing", None, "nothing"),
        ("teacher", None, "teacher"),
    ],
)
def test_what_a_name_means(name, run, found):
    assert find_in_runs(name, existing_run(run)) == found


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        ("two/q2", None, "runs/two has no q2; it has student, q4, q8"),
        ("q8", "one", "runs/one has no q8; it has student, q4"),
        ("q4", "three", "There is no run runs/three"),
        ("two/teacher", None, "has no teacher"),
    ],
)
def test_names_of_nothing_tell_what_there_is(name, run, message):
    with pytest.raises(SkdError, match=message):
        find_in_runs(name, existing_run(run))


def test_a_folder_of_this_name_comes_first():
    Path("two/q8").mkdir(parents=True)
    assert find_in_runs("two/q8") == "two/q8"


def test_recipes_name_what_a_link_shows_now():
    assert find_model("two/student") == str(Path("runs/two/stages/student-dft-1/model").absolute())
    Path("mine").mkdir()
    Path("link").symlink_to("mine")
    assert find_model("link") == str(Path("link").absolute()) and find_model("owner/name") == "owner/name"


def test_the_run_of_folders():
    assert run_of(["runs/two/exports/q4", "runs/two/student"]) == Path("runs/two")
    assert run_of(["runs/latest/student", "runs/one/student"]) == Path("runs/one")
    assert run_of(["runs/one/student", "runs/two/student"]) is None
    assert run_of(["elsewhere/one/student"]) is None and run_of([]) is None and run_of(["runs/one"]) is None
