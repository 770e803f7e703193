"""A run's models: what is taken as it is, what is trained, and from where."""

from pathlib import Path

import pytest
from helpers import QUIET

from switchkd.models.vlm import load_vlm
from switchkd.training.recipe import Recipe
from switchkd.training.run import Run
from switchkd.training.settings import build


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


def test_a_teacher_goes_on_from_the_whole_model_of_a_part(tmp_path, road_scenes):
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = {**width, "image_size": 56, "patch_size": 14}
    parts = {
        "words": {"kind": "language", "shape": {**width, "num_key_value_heads": 1}, "vision": tower, "stages": []},
        "tower": {"kind": "vision", "shape": tower, "language": "words", "stages": ["one"]},
    }
    teacher = {"checkpoint": "whole:tower", "stages": ["two"]}
    run = Run(tmp_path / "run", recipe(road_scenes, parts=parts, teacher=teacher), QUIET)
    trained = load_vlm(run.teacher())
    names = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "run" / "stages").glob("*-*"))
    assert "teacher-two" in names and "tower-one" in names
    whole = load_vlm(run.part("tower").parent / "model")
    assert trained.state_dict().keys() == whole.state_dict().keys()
    assert any(not a.equal(b) for a, b in zip(trained.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("reference", ["part:tower", "whole:tower"])
def test_a_reference_to_no_part_is_named(reference):
    from switchkd.errors import RecipeError
    from switchkd.training.recipe_reader import load_recipe

    with pytest.raises(RecipeError, match="isn't in parts"):
        load_recipe("tinyllava-0.5b", [f"teacher.checkpoint={reference}"])
