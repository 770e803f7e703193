"""Recipes: every setting checked, nothing guessed."""

from dataclasses import replace

import pytest
import yaml

from switchkd.errors import RecipeError
from switchkd.recipes.reader import load_recipe, recipe_names
from switchkd.recipes.recipe import Recipe
from switchkd.recipes.settings import build, explain, result_settings, to_plain


@pytest.mark.parametrize("name", ["assets", "mobilevlm-1.5b", "own", "roadscenes", "tinyllava-0.5b", "tinyllava-1.5b"])
def test_shipped_recipes_load_and_survive_a_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name and name in recipe_names()
    assert build(Recipe, yaml.safe_load(yaml.safe_dump(to_plain(recipe))), "") == recipe


@pytest.mark.parametrize(
    ("name", "teacher"), [("tinyllava-0.5b", "3B"), ("tinyllava-1.5b", "7B"), ("mobilevlm-1.5b", "7B-Instruct")]
)
def test_the_papers_settings(name, teacher):
    """Supplement, table 2; main text, section 4.1."""
    recipe = load_recipe(name)
    pt, dft, distillation = recipe.stages["pt"], recipe.stages["dft"], recipe.distillation
    assert (pt.trainable, pt.learning_rate, pt.batch_size, pt.epochs) == (("projector",), 1e-3, 256, 1)
    assert set(dft.trainable) == {"vision", "projector", "language"} and dft.distill
    assert (dft.learning_rate, dft.batch_size, dft.epochs, dft.schedule, dft.warmup) == (2e-5, 128, 1, "cosine", 0.03)
    assert (distillation.method, distillation.temperature) == ("dbild-rkl", 3.0)
    assert (distillation.lambda_align, distillation.lambda_switch) == (1.0, 1.0)
    assert recipe.student.stages == ("pt", "dft") and recipe.student.baseline == ("pt", "sft")
    assert recipe.teacher.language.endswith(teacher)


def test_own_data_are_trained_on_by_the_papers_settings():
    own, paper, task = (load_recipe(name) for name in ("own", "tinyllava-0.5b", "roadscenes"))
    assert own.distillation == paper.distillation != task.distillation
    assert own.data.max_length == paper.data.max_length
    for name, stage in own.stages.items():
        assert stage == replace(paper.stages[name], data="finetune")


def test_overrides_win():
    recipe = load_recipe(
        "roadscenes",
        ["distillation.temperature=1", "stages.dft.learning_rates={vision: 1e-4}", "student.stages=[dpt, sft]"],
    )
    assert recipe.distillation.temperature == 1.0
    assert recipe.stages["dft"].learning_rates == {"vision": 1e-4}
    assert recipe.student.stages == ("dpt", "sft")


def test_an_override_changes_one_stage_where_yaml_shares_values():
    """`kd` takes its rates over from `sft` by a merge key; `teacher-lookup-2` is an alias of `teacher-lookup-1`."""
    recipe = load_recipe("roadscenes", ["stages.sft.learning_rates.vision=0.5"])
    assert [recipe.stages[name].learning_rates["vision"] for name in ("sft", "kd")] == [0.5, 1e-4]
    plain, changed = load_recipe("assets"), load_recipe("assets", ["stages.teacher-lookup-1.steps=7"])
    assert changed.stages["teacher-lookup-1"].steps == 7
    assert changed.stages["teacher-lookup-2"] == plain.stages["teacher-lookup-2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distillation.temprature=2", "unknown setting 'distillation.temprature'; known here: method, temperature"),
        ("distillation.temperature=hot", "'distillation.temperature' has to be a number, not 'hot'"),
        ("distillation.temperature=0", "it has to be at least 0.001"),
        ("distillation.temperature=.nan", "it has to be at least"),
        ("distillation.method=magic", "possible are fkl, rkl"),
        ("stages.dft.batch_size=true", "has to be a whole number"),
        ("stages.dft.batch_size=1.5", "has to be a whole number"),
        ("stages.dft.trainable=[head]", "possible are vision, projector, language"),
        ("stages.dft.micro_batch=7", "isn't a multiple"),
        ("stages.dft.data=other", "isn't in data.sets"),
        ("stages.dft.learning_rates={head: 1}", "names 'head'"),
        ("student.stages=[later]", "names stage 'later'"),
        ("student.vision=part:none", "isn't in parts"),
        ("student.vision=", "has to be text"),
        ("seed=[", "not valid YAML"),
        ("seed", "write it as key=value"),
        ("name.x=1", "'name' is a single value"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(RecipeError) as error:
        load_recipe("roadscenes", [override])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "stages: 3", "\x00"])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(RecipeError, match="There is no recipe"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_every_setting_is_explained():
    rows = explain(Recipe)
    assert all(meaning.endswith((".", "?")) and len(meaning) > 8 for _, _, meaning in rows)
    keys = {key for key, _, _ in rows}
    assert {"distillation.temperature", "stages.NAME.learning_rate", "data.sets.NAME.file", "seed"} <= keys


def test_fingerprints_leave_out_what_changes_nothing():
    stage = load_recipe("roadscenes").stages["dft"]
    settings = result_settings(stage)
    assert (
        "workers" not in settings and "log_every" not in settings and settings["learning_rate"] == stage.learning_rate
    )
