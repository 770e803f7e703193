"""The files that a recipe reads, looked at before anything is made. No torch."""

from __future__ import annotations

from pathlib import Path

from switchkd.data.questions import read_questions
from switchkd.errors import RecipeError
from switchkd.recipes.recipe import Recipe


def require_files(recipe: Recipe, *, trained: str) -> None:
    """Whether all records to train on are there, and the test questions, where there are some, can be asked.

    Args:
        trained: `teacher`, `student` (without distilling), or `distilled`.

    Raises:
        RecipeError: a stage names no file, or one that isn't there.
        DataError: a test question can't be used.
    """
    if recipe.data.source != "files":
        return
    twin, teacher = recipe.student.baseline, recipe.teacher.stages
    distilled = (*teacher, *recipe.student.stages, *(twin if recipe.compare else ()))
    stages = {"teacher": teacher, "student": twin, "distilled": distilled}[trained]
    folder = Path(recipe.data.folder or ".")
    for name in stages:
        require_file(recipe, name, folder)
    if (file := folder / recipe.data.test).is_file():
        read_questions(file, folder / recipe.data.test_images, follow_links=recipe.data.follow_links)


def require_file(recipe: Recipe, stage: str, folder: Path) -> Path:
    """The data file that a stage reads, below the data folder. Raises RecipeError where there is none."""
    name = recipe.stages[stage].data
    file = folder / recipe.data.sets[name].file
    if not recipe.data.sets[name].file:
        raise RecipeError(
            f"Stage '{stage}' has no data: name a LLaVA JSON file with --data, or set data.sets.{name}.file."
        )
    if not file.is_file():
        raise RecipeError(f"Stage '{stage}' reads {file}, which doesn't exist: set data.sets.{name}.file.")
    return file
