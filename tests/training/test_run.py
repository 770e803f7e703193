"""A run's models: what is taken as it is, what is trained, and from where."""

from pathlib import Path

import pytest
from support.training import QUIET

from switchkd.files import folder_sha256
from switchkd.recipes.recipe import Recipe
from switchkd.recipes.settings import build
from switchkd.runs import RUNS, latest_run
from switchkd.training.run import Run


def recipe(data: Path, **changes) -> Recipe:
    stage = {"data": "all", "steps": 1, "batch_size": 2, "warmup": 0}
    values = {
        "data": {"source": "files", "folder": str(data), "sets": {"all": {"file": "captions.json"}}},
        "roadscenes": {"train": 4, "text": 4},
        "stages": {"one": stage, "two": stage},
        "student": {"checkpoint": "unused"},
    }
    return build(Recipe, values | changes, "")


def test_a_ready_teacher_is_taken_as_it_is(tmp_path, road_scenes, teacher_folder):
    run = Run(tmp_path / "run", recipe(road_scenes, teacher={"checkpoint": str(teacher_folder)}), QUIET)
    assert run.teacher() == teacher_folder
    assert not list((tmp_path / "run" / "stages").iterdir())


def test_a_ready_teacher_with_stages_is_trained_on(tmp_path, road_scenes, teacher_folder):
    teacher = {"checkpoint": str(teacher_folder), "stages": ["one"]}
    run = Run(tmp_path / "run", recipe(road_scenes, teacher=teacher), QUIET)
    made = run.teacher()
    assert made.parent.name.startswith("teacher-one-") and (tmp_path / "run" / "teacher").resolve() == made.resolve()
    assert folder_sha256(made) != folder_sha256(teacher_folder)


def test_a_twin_is_found_again_whatever_else_the_recipe_says(tmp_path, road_scenes, student_folder):
    """It is named by what goes into it, which the teacher doesn't."""
    student = {"checkpoint": str(student_folder), "baseline": ["one"]}
    first = Run(tmp_path / "run", recipe(road_scenes, student=student), QUIET)
    assert first.finished_baseline() is None
    assert Run(tmp_path / "run", recipe(tmp_path, student=student), QUIET).finished_baseline() is None  # no data either
    made = first.baseline()
    again = Run(tmp_path / "run", recipe(road_scenes, student=student, teacher={"checkpoint": "t"}), QUIET)
    assert again.finished_baseline() == made
    changed = recipe(road_scenes, student=student, seed=1)
    assert Run(tmp_path / "run", changed, QUIET).finished_baseline() is None


def test_the_newest_run_is_the_last_that_succeeded(tmp_path, road_scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        run = Run(RUNS / name, recipe(road_scenes), QUIET)
        assert (RUNS / "latest").exists() == (name == "two")
        if name == "one":
            run.succeeded()
    assert latest_run() == RUNS / "one"
    Run(tmp_path / "elsewhere", recipe(road_scenes), QUIET).succeeded()
    assert latest_run() == RUNS / "one"


def test_a_reference_to_no_part_is_named():
    from switchkd.errors import RecipeError
    from switchkd.recipes.reader import load_recipe

    with pytest.raises(RecipeError, match="isn't in parts"):
        load_recipe("tinyllava-0.5b", ["teacher.vision=part:tower"])
