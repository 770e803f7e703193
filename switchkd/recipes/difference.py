"""What a recipe says otherwise than another: a recipe of its own that extends the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchkd.recipes.reader import EXTENDS, REPLACED, extended_by, load_recipe
from switchkd.recipes.recipe import Recipe
from switchkd.recipes.settings import to_plain


def difference(name: str, other: str | None = None) -> dict[str, Any]:
    """The settings that recipe `name` has otherwise than `other`, below `extends: other`.

    Args:
        other: None takes what the recipe extends, or the defaults of all settings where it extends nothing.

    Raises:
        RecipeError: one of them can't be read.
    """
    other = other or extended_by(name)
    ours = to_plain(load_recipe(name))
    theirs = to_plain(Recipe() if other is None else load_recipe(other))
    differing = _differing(ours, theirs)
    for owner, replaced in REPLACED.items():
        # Stated where the checkpoint is, it isn't taken as replaced by it.
        if other is not None and ours[owner]["checkpoint"] and "checkpoint" in differing.get(owner, {}):
            differing[owner] |= {key: ours[owner][key] for key in replaced}
    return differing if other is None else {EXTENDS: other} | differing


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Nested; null for what only the other has."""
    found: dict[str, Any] = {}
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        value, other = ours.get(key), theirs.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := _differing(value, other):
                found[key] = inner
        elif value != other:
            found[key] = value
    return found
