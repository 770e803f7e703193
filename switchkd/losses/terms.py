"""Loss terms: what one declares, the three of the paper's equation 1, and those from outside. Log, progress bar, plots and
ablations follow from these declarations. No torch: recipes read them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from switchkd.errors import RecipeError
from switchkd.extensions import extension_names, load_extension
from switchkd.recipes.recipe import PARTS, Distillation, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from switchkd.models.passes import Pass, Passes

FOLDER = "switchkd_terms"  # its modules are terms from outside: docs/extending.md
_WEIGHTS = "terms"  # the field of a recipe's `distillation` that weighs these
# What a log's entry has besides: a term of that name would hide it.
_TAKEN = frozenset(
    ["loss", "grad_norm", "learning_rate", "epoch", "step", "unusable", "total_flos", "train_loss", "train_runtime"]
)


class Measure(NamedTuple):
    """A number that a term tells of positions; the log has NAME_mean, NAME_p10 and NAME_p90."""

    name: str
    symbol: str  # on the progress bar
    label: str  # in plots
    digits: int = 0  # after the point, on the progress bar


class Loss(NamedTuple):
    """What a term gives for one micro-batch."""

    values: Tensor  # of any shape; their sum, over the supervised positions of the whole batch, is the term
    measures: Mapping[str, Tensor | None] = MappingProxyType({})


@dataclass(frozen=True)
class Term:
    """The declaration of a loss term."""

    name: str  # in the log
    make: Callable[[Distillation], Callable[[Passes], Loss]]  # its formula with a recipe's settings; refuses bad ones
    label: str = ""  # in plots; empty: the name
    symbol: str = ""  # on the progress bar; empty: it isn't shown there
    # What it needs besides the student's logits. A micro-batch that lacks it, as text alone lacks a picture, adds nothing.
    teacher: bool = False
    switch: bool = False
    image_hidden: tuple[int, ...] = ()  # layers, of each of these passes; see `Asked`
    attentions: tuple[int, ...] = ()
    teaches: tuple[str, ...] = PARTS  # where all of these are frozen, it is left out
    field: str | None = _WEIGHTS  # of `distillation`, that weighs it; None: its weight is 1
    meaning: str = ""  # of its weight, for `skd recipe`; a field of its own has its help text
    row: str | None = None  # in names of ablation rows, after a +; empty: it is in every row; None: the name
    measures: tuple[Measure, ...] = ()
    measured: str = ""  # what these are, in plots

    @property
    def setting(self) -> str:
        """The recipe's setting that weighs it."""
        return f"distillation.{self.field}" + (f".{self.name}" if self.field == _WEIGHTS else "")

    def weight(self, distillation: Distillation) -> float:
        """What a recipe weighs it with."""
        value = 1.0 if self.field is None else getattr(distillation, self.field)
        return value.get(self.name, 0.0) if isinstance(value, Mapping) else value

    def has_all(self, passes: Passes) -> bool:
        """Whether a micro-batch has all that it needs."""
        used: list[Pass | None] = [passes.student]
        used += [passes.teacher] * self.teacher + [passes.switch] * self.switch
        pictured = bool(self.image_hidden or self.attentions)
        return all(each is not None and (each.features is not None or not pictured) for each in used)


def _cross_entropy(settings: Distillation) -> Callable[[Passes], Loss]:
    from switchkd.losses.divergences import cross_entropy

    return lambda passes: Loss(
        cross_entropy(passes.student.logits, passes.targets, temperature=settings.ce_temperature)
    )


def _align(settings: Distillation) -> Callable[[Any], Loss]:
    from switchkd.losses.alignment import alignment

    align = alignment(settings)

    def loss(passes: Any) -> Loss:
        values, *knees = align(passes.teacher.logits, passes.student.logits)
        return Loss(values, dict(zip(("k_teacher", "k_student"), knees, strict=True)))

    return loss


def _visual_switch(settings: Distillation) -> Callable[[Any], Loss]:
    from switchkd.losses.alignment import alignment

    align = alignment(settings)
    return lambda passes: Loss(align(passes.teacher.logits[passes.switch_rows], passes.switch.logits).loss)


CE = Term("ce", _cross_entropy, "cross entropy", "CE", field=None, row="")
ALIGN = Term(
    "align",
    _align,
    "Align",
    "Align",
    teacher=True,
    field="lambda_align",
    row="",
    measures=(Measure("k_teacher", "kᵗ", "teacher's k"), Measure("k_student", "kˢ", "student's k")),
    measured="k",
)
VSD = Term(
    "vsd",
    _visual_switch,
    "visual switch",
    "VSD",
    teacher=True,
    switch=True,
    teaches=("vision",),  # the tower alone: where that is frozen, the switch's pass is spared
    field="lambda_switch",
    row="switch",
)
BUILT_IN = (CE, ALIGN, VSD)


def extra_names() -> list[str]:
    """Names of the terms from outside."""
    return extension_names(FOLDER)


def extra_term(name: str) -> Term:
    """A term from outside: TERM in the module of its name.

    Raises:
        RecipeError: there is none.
        ExtensionError: it can't be used.
    """
    if name not in extra_names():
        raise RecipeError(
            f"Recipe: distillation.{_WEIGHTS} names '{name}'; known are {', '.join(extra_names()) or 'none'}: a term is a file "
            f"{FOLDER}/NAME.py on Python's path (PYTHONPATH)."
        )
    return load_extension(FOLDER, name, "TERM", Term, _TAKEN.union(each.name for each in BUILT_IN)).TERM


def terms_of(distillation: Distillation) -> tuple[Term, ...]:
    """The terms that a recipe can weigh, those from outside as far as it names them."""
    return (*BUILT_IN, *map(extra_term, distillation.terms))


def weigh(stage: Stage, distillation: Distillation) -> dict[Term, float]:
    """The terms that a stage logs, and their weights: 0 leaves one out, with all that it alone needs."""
    return {
        term: term.weight(distillation) if {*term.teaches} & {*stage.trainable} else 0.0
        for term in terms_of(distillation)
        if stage.distill or term.field is None
    }
