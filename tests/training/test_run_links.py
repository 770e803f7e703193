"""recipe.yaml and the models that a run's links show belong together at every moment."""

import json
from dataclasses import replace

import pytest
import yaml

from switchkd.recipes.recipe import Recipe
from switchkd.recipes.settings import build
from switchkd.runs import recorded_recipe
from switchkd.training.run_links import RunLinks

RECIPE = build(Recipe, {"student": {"checkpoint": "s"}, "name": "one"}, "")
OTHER = replace(RECIPE, name="two", seed=1)


def made(run, recipe, name):
    """The model of a recipe, as a stage makes it."""
    folder = run / "stages" / f"{name}-{recipe.name}" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state(run):
    """(recipe's name, link → whose model it shows)"""
    links = {path.name: path.resolve().parent.name.rpartition("-")[2] for path in run.iterdir() if path.is_symlink()}
    return recorded_recipe(run)["name"], links


def follow(run, recipe, *names):
    links = RunLinks(run, recipe)
    for name in names:
        links.point(name, made(run, recipe, name))
    return links


def test_a_new_run_has_its_recipe_from_the_start(tmp_path):
    follow(tmp_path, RECIPE)
    assert state(tmp_path) == ("one", {})
    follow(tmp_path, OTHER)  # no model yet that the first would belong to
    assert state(tmp_path) == ("two", {})


def test_an_interrupted_run_with_other_settings_leaves_the_finished_one(tmp_path):
    follow(tmp_path, RECIPE, "data", "teacher", "baseline", "student")
    follow(tmp_path, OTHER)
    assert state(tmp_path) == ("one", dict.fromkeys(("data", "teacher", "baseline", "student"), "one"))
    links = follow(tmp_path, OTHER, "teacher")
    assert state(tmp_path) == ("two", {"teacher": "two"})
    links.point("student", made(tmp_path, OTHER, "student"))
    assert state(tmp_path) == ("two", {"teacher": "two", "student": "two"})


def test_what_both_have_in_common_is_no_reason(tmp_path):
    """As when an ablation asks for the same teacher with another setting of the student."""
    follow(tmp_path, RECIPE, "teacher", "student")
    links = RunLinks(tmp_path, OTHER)
    links.point("teacher", made(tmp_path, RECIPE, "teacher"))
    assert state(tmp_path) == ("one", {"teacher": "one", "student": "one"})
    links.point("student", made(tmp_path, RECIPE, "student"))  # a setting that changes no model
    assert state(tmp_path) == ("two", {"teacher": "one", "student": "one"})


@pytest.mark.parametrize("last", [RECIPE, OTHER])
def test_two_at_once(tmp_path, last):
    """Whichever ends last, the folder is its own."""
    first = OTHER if last is RECIPE else RECIPE
    links = {recipe.name: RunLinks(tmp_path, recipe) for recipe in (RECIPE, OTHER)}
    for name in ("teacher", "student"):
        for recipe in (first, last):
            links[recipe.name].point(name, made(tmp_path, recipe, name))
            shown = state(tmp_path)
            assert set(shown[1].values()) == {shown[0]}, shown
    assert state(tmp_path) == (last.name, {"teacher": last.name, "student": last.name})


def test_recipes_of_other_versions_are_others(tmp_path):
    follow(tmp_path, RECIPE, "student")
    for text in ("name: [", json.dumps({"unknown": 1}), yaml.safe_dump([1])):
        (tmp_path / "recipe.yaml").write_text(text)
        follow(tmp_path, OTHER, "student")
        assert state(tmp_path) == ("two", {"student": "two"})
