"""Recipes from their YAML, with overrides on top and every reference checked."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from switchkd.errors import RecipeError
from switchkd.losses.terms import terms_of
from switchkd.recipes.recipe import PARTS, Model, Part, Recipe
from switchkd.recipes.settings import build

# What a model's checkpoint takes the place of.
_REPLACED = {"teacher": ("stages", "vision", "language"), "student": ("vision", "language")}


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("switchkd.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """A recipe by its shipped name or its YAML file, with `key=value` overrides on top.

    Raises:
        RecipeError: no such recipe, an unknown key, a value of the wrong type or out of range, an unknown reference.
    """
    values = read_recipe_values(name)
    changed: set[str] = set()
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise RecipeError(f"--set {override}: write it as key=value, e.g. distillation.temperature=2.")
        changed.add(key.strip())
        _override(values, key.strip(), _parse_scalar(text, override))
    _take_checkpoints(values, changed)
    recipe = build(Recipe, values, "")
    _check_references(recipe)
    _check_origins(recipe)
    return recipe


def read_recipe_values(name: str) -> dict[str, Any]:
    """The plain mapping in a recipe's YAML.

    Raises:
        RecipeError: no such recipe, or not YAML.
    """
    if name in recipe_names():
        text = (resources.files("switchkd.recipes") / f"{name}.yaml").read_text()
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"There is no recipe '{name}': neither a readable file nor one of {', '.join(recipe_names())}."
            ) from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {name} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise RecipeError(f"Recipe {name} is not a mapping of settings.")
    return _unshared(values)


def _unshared(value: Any) -> Any:
    """A copy in which no two places are one object: YAML's aliases are, and an override of one stage would change others."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _parse_scalar(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML.") from error


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {key}: '{parent}' is a single value and has no parts.")
    values[last] = value


def _take_checkpoints(values: dict[str, Any], changed: set[str]) -> None:
    """A checkpoint that a person names takes the place of what the recipe would make the model of, unless that is named too."""
    for owner, replaced in _REPLACED.items():
        model = values.get(owner)
        if f"{owner}.checkpoint" in changed and isinstance(model, dict) and model["checkpoint"]:
            for name in replaced:
                if f"{owner}.{name}" not in changed:
                    model.pop(name, None)


def _check_origins(recipe: Recipe) -> None:
    """Raises RecipeError where a checkpoint stands beside what would be ignored because of it."""
    for owner, replaced in _REPLACED.items():
        model = getattr(recipe, owner)
        ignored = [name for name in replaced if model.checkpoint and getattr(model, name)]
        if ignored:
            raise RecipeError(
                f"Recipe: {owner}.{ignored[0]} would be ignored beside {owner}.checkpoint ({model.checkpoint}), from which the "
                f"{owner} {'is taken as it is' if owner == 'teacher' else 'starts'}: leave one of them out."
            )


def _check_references(recipe: Recipe) -> None:
    owners: list[tuple[str, Model | Part]] = [
        ("teacher", recipe.teacher),
        ("student", recipe.student),
        *recipe.parts.items(),
    ]
    for owner, entry in owners:
        for name in (*entry.stages, *getattr(entry, "baseline", ())):
            if name not in recipe.stages:
                raise RecipeError(f"Recipe: {owner} names stage '{name}', which isn't in stages.")
        for kind in ("checkpoint", "vision", "language"):
            reference = getattr(entry, kind, "")
            prefix, _, part = reference.partition(":") if isinstance(reference, str) else ("", "", "")
            if prefix == "part" and part not in recipe.parts:
                raise RecipeError(f"Recipe: {owner}.{kind} is '{reference}', which isn't in parts.")
    terms_of(recipe.distillation)
    for name, stage in recipe.stages.items():
        if stage.data not in recipe.data.sets:
            raise RecipeError(f"Recipe: stages.{name}.data is '{stage.data}', which isn't in data.sets.")
        unknown = [part for part in stage.learning_rates if part not in PARTS]
        if unknown:
            raise RecipeError(f"Recipe: stages.{name}.learning_rates names '{unknown[0]}'; parts are {PARTS}.")
        if stage.micro_batch and stage.batch_size % stage.micro_batch:
            raise RecipeError(f"Recipe: stages.{name}.batch_size isn't a multiple of its micro_batch.")
    if not recipe.student.checkpoint and not (recipe.student.vision and recipe.student.language):
        raise RecipeError("Recipe: student needs a checkpoint, or a vision and a language part.")
