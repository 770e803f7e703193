"""A run's models: what is taken as it is, what is trained, and from where."""

from pathlib import Path

import pytest
from support.training import QUIET

from switchkd.recipes.recipe import Recipe
from switchkd.recipes.settings import build
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
    teacher = {"checkpoint": str(teacher_folder), "stages": ["one", "two"]}
    run = Run(tmp_path / "run", recipe(road_scenes, teacher=teacher), QUIET)
    assert run.teacher() == teacher_folder
    assert not list((tmp_path / "run" / "stages").iterdir())


def test_a_reference_to_no_part_is_named():
    from switchkd.errors import RecipeError
    from switchkd.recipes.reader import load_recipe

    with pytest.raises(RecipeError, match="isn't in parts"):
        load_recipe("tinyllava-0.5b", ["teacher.vision=part:tower"])
