"""Recipes from their YAML: what it extends below, overrides on top, and every reference checked."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from switchkd.errors import RecipeError
from switchkd.losses.terms import terms_of
from switchkd.recipes.recipe import PARTS, Model, Part, Recipe
from switchkd.recipes.settings import build

# What a model's checkpoint takes the place of, where a recipe's file states it and one that extends it, or the command line, the
# checkpoint.
REPLACED = {"teacher": ("stages", "vision", "language"), "student": ("vision", "language")}
_PARTS = ("vision", "language")  # what a checkpoint can't stand beside


EXTENDS = "extends"  # in a recipe's YAML: the recipe that it states differences from


class MissingRecipeError(RecipeError):
    """There is no recipe of this name."""


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
    """The plain mapping that a recipe's YAML states, on top of what the recipe extends.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown or unusable setting, or it extends itself.
    """
    return _layered(name, ())


def extended_by(name: str) -> str | None:
    """What a recipe extends: a shipped name, or a path; None where it states everything itself.

    Raises:
        RecipeError: the recipe can't be read, or what it extends is no name.
    """
    extended = _read_yaml(name).get(EXTENDS)
    if extended is None or extended in recipe_names():
        return extended
    if not isinstance(extended, str):
        raise RecipeError(f"Recipe {name}: '{EXTENDS}' has to be the name of a recipe or of a file, not {extended!r}.")
    return str(Path(name).parent / extended)


def _layered(name: str, above: tuple[str, ...]) -> dict[str, Any]:
    """`name` on top of what it extends; `above` are the recipes that extend it."""
    if (known := _identity(name)) in map(_identity, above):
        chain = [*above, name]
        raise RecipeError(
            f"Recipe {known} extends itself: {' → '.join(chain[[*map(_identity, chain)].index(known) :])}."
        )
    values, extended = _read_yaml(name), extended_by(name)
    values.pop(EXTENDS, None)
    if extended is not None:
        try:
            below = _layered(extended, (*above, name))
        except MissingRecipeError as error:
            raise RecipeError(f"Recipe {name} extends a recipe that isn't there: {error}") from error
        stated = {f"{owner}.{key}" for owner in REPLACED for key in _mapping(values.get(owner))}
        values = _merged(below, values)
        _take_checkpoints(values, stated)
    try:
        build(Recipe, values, "")
    except RecipeError as error:
        raise RecipeError(str(error).replace("Recipe:", f"Recipe {name}:", 1)) from error
    return values


def _identity(name: str) -> str:
    return name if name in recipe_names() else str(Path(name).resolve())


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key, anything else as `above` has it; null there takes an entry away."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = _merged(below[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _read_yaml(name: str) -> dict[str, Any]:
    """The mapping in a recipe's own YAML."""
    if name in recipe_names():
        text = (resources.files("switchkd.recipes") / f"{name}.yaml").read_text()
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MissingRecipeError(
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
    """A checkpoint that is set on top takes the place of what the model would be made of below, unless that is set too."""
    for owner, replaced in REPLACED.items():
        model = values.get(owner)
        if f"{owner}.checkpoint" in changed and isinstance(model, dict) and model.get("checkpoint"):
            for name in replaced:
                if f"{owner}.{name}" not in changed:
                    model.pop(name, None)


def _check_origins(recipe: Recipe) -> None:
    """Raises RecipeError where a checkpoint stands beside parts, which would be ignored because of it."""
    for owner in REPLACED:
        model = getattr(recipe, owner)
        ignored = [name for name in _PARTS if model.checkpoint and getattr(model, name)]
        if ignored:
            raise RecipeError(
                f"Recipe: {owner}.{ignored[0]} would be ignored beside {owner}.checkpoint ({model.checkpoint}), from which the "
                f"{owner} starts: leave one of them out."
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
