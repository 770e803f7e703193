"""A run's links to its data and models, and recipe.yaml, which says how those were made: they change together."""

from __future__ import annotations

from pathlib import Path

import yaml
from filelock import FileLock

from switchkd.errors import SkdError
from switchkd.files import point_to, write_text
from switchkd.recipes.recipe import Recipe
from switchkd.recipes.settings import build, to_plain
from switchkd.runs import MODELS, RECIPE, recorded_recipe

_RESULTS = ("student", "baseline")  # what a recipe is followed for


class RunLinks:
    """The links of a run that follows a recipe.

    As long as they show what another recipe has made, recipe.yaml stays that one's. When this one's first result differs, or
    is the student, the links that it hasn't made go away with the other recipe; the stages that they showed are kept.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder, self._recipe = folder, recipe
        self._ours: dict[str, Path] = {}
        with self._locked():
            if not any((folder / name).is_symlink() for name in MODELS):
                self._record()

    def point(self, name: str, target: Path) -> None:
        """Lets the link `name` show what this recipe has made."""
        link = self._folder / name
        self._ours[name] = target
        with self._locked():
            if not self._is_recorded():
                if name not in _RESULTS and link.is_symlink() and link.resolve() == target.resolve():
                    return
                self._drop_all()
                self._record()
                for made, there in self._ours.items():  # another run here may have replaced them
                    point_to(self._folder / made, there)
            point_to(link, target)

    def _is_recorded(self) -> bool:
        try:
            return build(Recipe, recorded_recipe(self._folder), "") == self._recipe
        except SkdError:
            return False

    def _record(self) -> None:
        text = yaml.safe_dump(to_plain(self._recipe), sort_keys=False, allow_unicode=True)
        write_text(self._folder / RECIPE, text)

    def _drop_all(self) -> None:
        parts = [f"parts/{path.name}" for path in (self._folder / "parts").glob("*")]
        for name in (*MODELS, "data", *parts):
            link = self._folder / name
            if link.is_symlink():
                link.unlink()

    def _locked(self) -> FileLock:
        return FileLock(self._folder / ".recipe.lock")
