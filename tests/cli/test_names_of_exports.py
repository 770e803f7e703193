"""RUN/VARIANT and --run, by the real commands."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.finished import coloured_records

from switchkd.cli.export import _beside
from switchkd.cli.main import main

TAKE_NAMES = (
    "attention",
    "bench",
    "chat",
    "data check",
    "eval",
    "export",
    "hardware fit",
    "linear-probe",
    "serve",
    "ship",
)


def skd(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert (result.exit_code != 0) == fails, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shelf) -> Path:
    """Runs `old` and `new`, the newest, with an export `small`; `old` has one named `only` too."""
    folder = tmp_path_factory.mktemp("names")
    for run, names in (("old", ("small", "only")), ("new", ("small",))):
        place = folder / "runs" / run
        for name in names:
            shutil.copytree(shelf.export("gguf", "q8"), place / "exports" / name)
        (place / "student").symlink_to(shelf.checkpoint())
        data = {"source": "files", "folder": run, "test": "test.json", "test_images": "."}
        (place / "recipe.yaml").write_text(json.dumps({"data": data}))
        (folder / run).mkdir()
        (folder / run / "test.json").write_text(
            json.dumps(coloured_records(folder / run, "test", 2 if run == "old" else 3))
        )
    (folder / "runs" / "latest").symlink_to("new")
    return folder


@pytest.fixture(autouse=True)
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)


def options_of(words: str) -> set[str]:
    command = main
    for word in words.split():
        command = command.commands[word]
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("command", TAKE_NAMES)
def test_every_command_that_takes_a_name_takes_a_run(command):
    assert "--run" in options_of(command)


def test_chat_asks_the_run_that_is_named():
    ask = ("--prompt", "What colour is it?", "--threads", 1, "--max-tokens", 8)
    for name in (("old/only",), ("only", "--run", "old"), ("old/student",)):
        skd("chat", *name, *ask)
    assert "There is no variant only" in skd("chat", "only", *ask, fails=True)
    assert "The run runs/new has no only" in skd("chat", "only", "--run", "new", *ask, fails=True)


def test_a_runs_models_are_asked_its_own_questions():
    common = ("--json", "scores.json", "--max-tokens", 2, "--threads", 1)
    for names, total in (
        (("old/small",), 2),
        (("small",), 3),
        ((), 3),
        (("--run", "old"), 2),
        (("student", "--run", "old"), 2),
    ):
        skd("eval", *names, *common)
        assert json.loads(Path("scores.json").read_text())["scores"]["all"]["total"] == total, names


def test_predictions_and_data_checks_take_them_too():
    for names in (("old/small",), ("small", "--run", "old")):
        assert "small" in skd("hardware", "fit", *names, "--target", "jetson-orin-nano")
    check = ("data", "check", "old/test.json", "--images", "old", "--max-length", 4000)
    assert "usable" in skd(*check, "--model", "old/student")
    assert "usable" in skd(*check, "--run", "old")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chat", "old/none", "--prompt", "x"), "The run runs/old has no none; it has student, only, small"),
        (("eval", "none", "--run", "old"), "The run runs/old has no none"),
        (("export", "student", "--run", "gone"), "There is no run runs/gone"),
        (("bench", "old/none"), "The run runs/old has no none"),
        (("attention", "none", "--run", "old", "--image", "x.png", "--prompt", "x"), "The run runs/old has no none"),
        (("ship", "none", "--run", "old", "--target", "x", "--key", "x"), "The run runs/old has no none"),
        (("serve", "old/none"), "The run runs/old has no none"),
        (("linear-probe", "--run", "gone"), "There is no run runs/gone"),
    ],
)
def test_names_of_nothing_are_one_line(arguments, message):
    output = skd(*arguments, fails=True)
    assert message in output and output.count("Error: ") == 1


def test_an_export_ends_with_its_neighbours():
    """Those of its own run, with the command that measures them."""
    assert _beside(Path("runs/old/exports/made")) == (
        "It stands beside only, small; `skd bench --run old` measures them all and says which to ship."
    )
    assert "first export of its run" in _beside(Path("runs/elsewhere/exports/made"))
    assert _beside(Path("some where")) == "How fast it is: `skd bench 'some where'`."
