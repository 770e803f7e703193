"""What a student learns from its teacher: by the recipe, before it is trained; by the stages' records, afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.errors import RecipeError
from switchkd.losses.terms import weigh
from switchkd.recipes.recipe import Distillation, Model, Recipe, Stage
from switchkd.runs import STAGE_RECORD

LEARNED = "learned"  # in a stage's record


@dataclass(frozen=True)
class Learned:
    """From whom a model has learned besides the labels, in any of its stages."""

    align: bool = False  # the teacher's own answers
    switch: bool = False  # the teacher's answers through the student's tower

    def __or__(self, other: Learned) -> Learned:
        return Learned(self.align or other.align, self.switch or other.switch)

    def __bool__(self) -> bool:
        return self.align or self.switch

    @property
    def title(self) -> str:
        """What tables call a student that has learned so."""
        return "Switch-KD" if self.switch else "KD" if self.align else "student"


def taught(stage: Stage, distillation: Distillation) -> Learned:
    """What a stage teaches."""
    active = [term for term, weight in weigh(stage, distillation).items() if weight]
    return Learned(
        align=any(term.teacher and not term.switch for term in active), switch=any(term.switch for term in active)
    )


def taught_by(recipe: Recipe, stages: Iterable[str], distillation: Distillation | None = None) -> Learned:
    """What some of a recipe's stages teach together."""
    total = Learned()
    for name in stages:
        total |= taught(recipe.stages[name], distillation or recipe.distillation)
    return total


def require_student(recipe: Recipe) -> None:
    """Raises RecipeError unless the recipe's student is trained, and learns from the teacher."""
    _require_start("student", recipe.student)
    stages = recipe.student.stages
    if not stages:
        raise RecipeError("Recipe: student.stages is empty, so nothing would be distilled: name the student's stages.")
    if not taught_by(recipe, stages):
        if any(recipe.stages[name].distill for name in stages):
            raise RecipeError(
                "Recipe: no stage of the student learns from the teacher: distillation.lambda_align is 0, and so is "
                "lambda_switch, or the tower, which it teaches, is frozen."
            )
        raise RecipeError(
            f"Recipe: no stage of the student ({', '.join(stages)}) distils: set stages.{stages[-1]}.distill=true, or train "
            "without a teacher by `skd train`."
        )
    if not recipe.teacher.checkpoint and not recipe.teacher.stages:
        raise RecipeError(
            "Recipe: the teacher has neither a checkpoint nor stages that train it: name one with --teacher, or set "
            "teacher.checkpoint."
        )
    if recipe.compare and recipe.student.baseline:
        require_twin(recipe)


def require_twin(recipe: Recipe) -> None:
    """Raises RecipeError unless the recipe's undistilled twin is trained, and learns from the labels alone."""
    _require_start("student", recipe.student)
    if not recipe.student.baseline:
        raise RecipeError("Recipe: student.baseline is empty, so nothing would be trained: name the twin's stages.")
    for name in recipe.student.baseline:
        if recipe.stages[name].distill:
            raise RecipeError(
                f"Recipe: student.baseline names stage '{name}', which distils; the twin is the undistilled one."
            )


def require_trained_teacher(recipe: Recipe) -> None:
    """Raises RecipeError unless the recipe trains its teacher."""
    _require_start("teacher", recipe.teacher)
    if not recipe.teacher.stages:
        raise RecipeError("Recipe: teacher.stages is empty, so nothing would be trained: name the teacher's stages.")


def _require_start(role: str, model: Model) -> None:
    if not model.checkpoint and not (model.vision and model.language):
        raise RecipeError(
            f"Recipe: the {role} has neither a checkpoint nor a vision and a language part: name it with --{role}, or set "
            f"{role}.checkpoint."
        )


def learned(model: Path) -> Learned:
    """What a trained model has learned from, by its stage's record; of anything else nothing is known."""
    try:
        record = json.loads((model.resolve().parent / STAGE_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Learned()
    told = record.get(LEARNED)
    if isinstance(told, dict):
        return Learned(bool(told.get("align")), bool(told.get("switch")))
    return _by_log(record.get("log", []))


def _by_log(log: Iterable[dict[str, Any]]) -> Learned:
    """For records of versions that didn't say it: terms that were there, and weren't nothing."""
    entries = list(log)
    return Learned(align=any("align" in entry for entry in entries), switch=any(entry.get("vsd") for entry in entries))
