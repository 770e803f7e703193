"""A teacher, a student and data of one's own in one line, by the real commands, on shrunken random models."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support.finished import coloured_records

from switchkd.cli.main import main
from switchkd.models.vlm import load_vlm, save_part
from switchkd.recipes.reader import load_recipe
from switchkd.runs import recorded_recipe

SMALL = ("--set", "data.max_length=1024")


def skd(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert (result.exit_code != 0) == fails, (result.output, result.exception)
    if fails:
        assert isinstance(result.exception, SystemExit), result.exception
        assert sum(line.startswith("Error: ") for line in result.output.splitlines()) == 1, result.output
    return result.output


@pytest.fixture(scope="module")
def owned(tmp_path_factory, teacher_folder, student_folder) -> Path:
    """A folder with teacher, student and their parts, talks.json, dev.json and pictures."""
    folder = tmp_path_factory.mktemp("owned")
    shutil.copytree(teacher_folder, folder / "teacher")
    shutil.copytree(student_folder, folder / "student")
    for part in ("vision", "language"):
        save_part(load_vlm(student_folder), part, folder / "parts" / part, student_folder)
    for split, name, number in (("train", "talks", 8), ("test", "dev", 9)):
        (folder / f"{name}.json").write_text(json.dumps(coloured_records(folder, split, number)))
    return folder


@pytest.fixture
def here(owned, tmp_path, monkeypatch) -> Path:
    shutil.copytree(owned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records_of(run: str) -> dict[str, dict]:
    """Stage → what it wrote down."""
    found = [json.loads(path.read_text()) for path in Path("runs", run, "stages").glob("*/stage.json")]
    return {record["title"]: record for record in found}


@pytest.mark.long
def test_one_line_distils_a_ready_student(here):
    """One pass by default, by the paper's settings."""
    line = ("--student", "student", "--data", "talks.json", "--images", ".", "--eval", "dev.json", *SMALL)
    said = skd("distill", "--teacher", "teacher", *line)
    assert "student dft  1 step of 8 samples: 1 pass over 8 records" in said
    for words in ("sampled evaluation questions", "teacher", "blind", "majority", "Switch-KD", "next: skd export"):
        assert words in said, words
    assert "--run own" in said and "SFT" not in said
    recipe, paper = recorded_recipe(Path("runs/own")), load_recipe("tinyllava-0.5b")
    assert recipe["teacher"]["checkpoint"] == str(here / "teacher")
    assert recipe["student"]["stages"] == ["dft"] and records_of("own").keys() == {"student dft"}
    dft = paper.stages["dft"]
    assert (recipe["stages"]["dft"]["learning_rate"], recipe["stages"]["dft"]["batch_size"]) == (dft.learning_rate, 128)
    assert recipe["distillation"]["temperature"] == 3 and recipe["distillation"]["lambda_switch"] == 1
    assert Path("runs/latest").resolve().name == "own" and Path("runs/own/student/config.json").exists()
    page = Path("runs/own/reports/index.html").read_text()
    assert "student dft" in page and "talks.json" in page and "dev.json" in page
    scores = json.loads(Path("runs/own/reports/accuracy.json").read_text())
    assert scores["Switch-KD"]["all"]["total"] == 9 == scores["teacher"]["all"]["total"]


@pytest.mark.slow
def test_a_twin_that_was_trained_before_stands_beside(here):
    line = ("--student", "student", "--data", "talks.json", "--images", ".", "--eval", "dev.json", *SMALL)
    twin = skd("train", "--role", "student", *line)
    assert "SFT" in twin and "step 1/1" in twin
    assert "SFT" in skd("distill", "--teacher", "teacher", *line)
    assert records_of("own").keys() == {"student dft", "student sft"}


@pytest.mark.long
def test_parts_are_put_together_and_aligned_first(here):
    parts = ("--student-vision", "parts/vision", "--student-language", "parts/language")
    said = skd("distill", "--teacher", "teacher", *parts, "--data", "talks.json", "--images", ".", "--steps", 1, *SMALL)
    assert "student pt  1 step of" in said and "student dft  1 step of" in said
    assert "nothing is measured" in said and "sampled training questions" in said
    records = records_of("own")
    assert {title: record["steps"] for title, record in records.items()} == {"student pt": 1, "student dft": 1}
    assert not Path("runs/own/reports/accuracy.json").exists()
    ours, theirs = (load_vlm(Path(name)) for name in ("runs/own/student", "student"))
    assert ours.config.text_config.hidden_size == theirs.config.text_config.hidden_size
    assert ours.config.vision_feature_layer == -2


@pytest.mark.slow
def test_a_ready_teacher_is_tuned_and_teaches(here):
    tuned = skd(
        "train",
        "--role",
        "teacher",
        "--teacher",
        "teacher",
        "--data",
        "talks.json",
        "--images",
        ".",
        "--steps",
        2,
        *SMALL,
    )
    assert "teacher sft  2 steps" in tuned and "next: skd distill --teacher runs/own-teacher/teacher" in tuned
    assert recorded_recipe(Path("runs/own-teacher"))["teacher"]["stages"] == ["sft"]
    line = ("--student", "student", "--data", "talks.json", "--images", ".", "--steps", 1, *SMALL)
    skd("distill", "--teacher", "own-teacher/teacher", *line)
    named = recorded_recipe(Path("runs/own"))["teacher"]["checkpoint"]
    assert Path(named) == Path("runs/own-teacher/teacher").resolve()


@pytest.mark.slow
def test_a_recipe_of_ones_own_takes_the_options_too(here):
    """What it states stays: stages, rates and its name. `--set` is stronger than an option."""
    Path("mine.yaml").write_text(
        "extends: own\nname: mine\nstages: {dft: {learning_rate: 1.0e-4, batch_size: 12, micro_batch: 4}}\n"
    )
    line = ("--teacher", "teacher", "--student", "student", "--data", "talks.json", "--images", ".", "--steps", 1)
    skd(
        "distill",
        "--recipe",
        "mine.yaml",
        *line,
        "--set",
        "student.stages=[dft]",
        "--set",
        "stages.dft.steps=2",
        *SMALL,
    )
    recipe = recorded_recipe(Path("runs/mine"))
    assert recipe["stages"]["dft"]["learning_rate"] == 1e-4 and recipe["stages"]["pt"]["steps"] == 1
    assert records_of("mine")["student dft"]["steps"] == 2
    assert yaml.safe_load(skd("recipe", "mine.yaml", "--diff"))["stages"] == {
        "dft": {"learning_rate": 1e-4, "batch_size": 12}
    }


TEACH = ("distill", "--teacher", "teacher")
DATA = ("--data", "talks.json", "--images", ".")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TEACH, *DATA), "the student has neither a checkpoint nor"),
        ((*TEACH, "--student", "student"), "name a LLaVA JSON file with --data"),
        (("distill", "--student", "student", *DATA), "name one with --teacher"),
        ((*TEACH, "--student", "student", "--data", "none.json"), "--data none.json: there is no such file"),
        ((*TEACH, "--student", "student", *DATA, "--eval", "none.json"), "--eval none.json: there is no such file"),
        ((*TEACH, "--student", "nowhere", *DATA), "There is no model folder"),
        ((*TEACH, "--student", "student", "--student-vision", "v", *DATA), "leave one out"),
        ((*TEACH, "--student-vision", "parts/vision", *DATA), "goes with --student-language"),
        ((*TEACH, "--student", "student", "--images", "."), "--images goes with --data"),
        ((*TEACH, "--student", "student", *DATA, "--eval-images", "."), "--eval-images goes with --eval"),
        ((*TEACH, "--recipe", "roadscenes"), "draws its own"),
        (("train", "--role", "teacher", *DATA), "the teacher has neither"),
        (
            ("train", "--role", "teacher", "--teacher", "teacher", "--student", "student", *DATA),
            "no meaning with --role teacher",
        ),
        ((*TEACH, "--student", "student", *DATA, "--steps", 0), "Invalid value for '--steps'"),
    ],
    ids=lambda value: " ".join(map(str, value[1:])) if isinstance(value, tuple) else "",
)
def test_what_does_not_go_is_one_line(here, arguments, message):
    assert message in skd(*arguments, fails=True)
    assert not Path("runs/latest").exists()
