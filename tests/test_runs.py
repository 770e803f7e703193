"""Names of runs, and of what they hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from switchkd.cli.main import main
from switchkd.errors import SkdError
from switchkd.run_contents import RunContents, all_runs
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


def test_runs_are_listed_with_what_they_hold():
    write("runs/two/stages/student-dft-1/stage.json", {"title": "student dft"})
    Path("runs/two/stages/student-pt-2/checkpoints").mkdir(parents=True)
    write("runs/two/recipe.yaml", {"name": "own"})
    scores = {"Switch-KD": {"all": {"right": 1, "total": 4, "accuracy": 0.25}}, "agreement_with_teacher": {"SFT": 0.5}}
    write("runs/two/reports/accuracy.json", scores)
    Path("runs/two/packages").mkdir()
    Path("runs/two/packages/q4-board-1.tar").touch()
    Path("runs/one/reports").mkdir()
    Path("runs/one/reports/accuracy.json").write_text("{torn")
    Path("runs/nothing").mkdir()

    one, two = all_runs()
    assert (one.newest, one.scores, one.models, one.exports, one.finished) == (True, {}, ["student"], ["q4"], [])
    assert two == RunContents(
        folder=Path("runs/two"),
        newest=False,
        recipe="own",
        finished=["student dft"],
        begun=["student-pt-2"],
        models=["student"],
        exports=["q4", "q8"],
        packages=["q4-board-1.tar"],
        scores={"Switch-KD": 0.25},
    )
    output = CliRunner().invoke(main, ["runs", "--json", "runs.json"], env={"COLUMNS": "200"}).output
    for words in ("one (newest)", "student dft", "student-pt-2, interrupted", "Switch-KD 25.0", "q4-board-1.tar"):
        assert words in output, words
    assert json.loads(Path("runs.json").read_text())["two"]["exports"] == ["q4", "q8"]


def test_no_run_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    result = CliRunner().invoke(main, ["runs"])
    assert result.exit_code == 1 and "There is no run" in result.output and result.output.count("\n") == 1


def test_listing_runs_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from switchkd.cli.main import main; main(['runs'])"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert listed.returncode == 0 and "(newest)" in listed.stdout, listed.stderr


def write(path: str, content: dict) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))
