"""Recipes that state differences from another, and what differs between two."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from switchkd.cli.main import main
from switchkd.errors import RecipeError
from switchkd.recipes.difference import difference
from switchkd.recipes.reader import load_recipe, recipe_names


def write(path: Path, **values) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_differences_lie_on_top(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "base.yaml", extends="tinyllava-0.5b", seed=3, stages={"dft": {"learning_rate": 1e-4}})
    top = write(tmp_path / "deep" / "top.yaml", extends="../base.yaml", name="top", stages={"dft": {"epochs": 2}})
    recipe, paper = load_recipe(top), load_recipe("tinyllava-0.5b")
    assert (recipe.name, recipe.seed, recipe.data, recipe.stages["pt"]) == ("top", 3, paper.data, paper.stages["pt"])
    dft = recipe.stages["dft"]
    assert (dft.learning_rate, dft.epochs, dft.batch_size) == (1e-4, 2.0, paper.stages["dft"].batch_size)
    assert load_recipe(top, ["stages.dft.epochs=3"]).stages["dft"].epochs == 3


def test_null_takes_an_entry_away_and_lists_are_replaced(tmp_path):
    file = write(
        tmp_path / "mine.yaml",
        extends="tinyllava-0.5b",
        data={"sets": {"pretrain": None}},
        student={"stages": ["dft"]},
        stages={"pt": {"data": "finetune", "micro_batch": None}, "dpt": None},
    )
    recipe = load_recipe(file)
    assert recipe.data.sets.keys() == {"finetune"} and recipe.student.stages == ("dft",)
    assert recipe.stages.keys() == {"pt", "sft", "dft"} and recipe.stages["pt"].micro_batch is None


def test_a_checkpoint_on_top_takes_the_place_of_parts(tmp_path):
    file = write(
        tmp_path / "mine.yaml", extends="tinyllava-0.5b", teacher={"checkpoint": "t"}, student={"checkpoint": "s"}
    )
    recipe = load_recipe(file)
    assert (recipe.teacher.vision, recipe.teacher.stages) == ("", ())
    assert recipe.student.language == "" and recipe.student.stages == ("pt", "dft")


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("other", [None, *recipe_names()])
def test_what_differs_is_a_recipe_that_says_the_same(tmp_path, name, other):
    file = write(tmp_path / "same.yaml", **difference(name, other))
    assert load_recipe(file) == load_recipe(name)


def test_what_differs_is_all_that_is_told():
    assert difference("tinyllava-1.5b") == {
        "extends": "tinyllava-0.5b",
        "name": "tinyllava-1.5b",
        "teacher": {"language": "Qwen/Qwen2.5-7B"},
        "student": {"language": "Qwen/Qwen2.5-1.5B"},
    }
    assert difference("roadscenes", "roadscenes") == {"extends": "roadscenes"}
    printed = CliRunner().invoke(main, ["recipe", "own", "--diff", "tinyllava-1.5b"]).output
    assert yaml.safe_load(printed) == difference("own", "tinyllava-1.5b")
    assert yaml.safe_load(CliRunner().invoke(main, ["recipe", "own", "--diff"]).output) == difference("own")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extends": "two.yaml"}, r"extends itself: .*one.yaml → .*two.yaml → .*one.yaml"),
        ({"extends": "one.yaml"}, r"extends itself: .*one.yaml → .*one.yaml"),
        ({"extends": "tinyllava"}, r"one.yaml extends a recipe that isn't there: There is no recipe '.*tinyllava'"),
        ({"extends": ["tinyllava-0.5b"]}, r"one.yaml: 'extends' has to be the name"),
        ({"extends": "odd.yaml"}, r"Recipe .*odd.yaml: unknown setting 'distilation'"),
        ({"extends": "own", "seed": "x"}, r"Recipe .*one.yaml: 'seed' has to be a whole number"),
        ({"extends": "own", "stages": {"dft": 3}}, r"Recipe .*one.yaml: 'stages.dft' has to be a mapping"),
        ({"extends": "own", "Extends": 1}, r"Recipe .*one.yaml: unknown setting 'Extends'"),
    ],
)
def test_mistakes_are_named_with_their_file(tmp_path, values, message):
    one = write(tmp_path / "one.yaml", **values)
    write(tmp_path / "two.yaml", extends="one.yaml")
    write(tmp_path / "odd.yaml", extends="own", distilation={"temperature": 1})
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(one)
    assert "\n" not in str(error.value)
