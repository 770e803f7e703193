"""The whole training objective, L = L_CE + λ1·L_Align + λ2·L_VSD (paper equation 1, Algorithm 1)."""

import math
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn.functional import cross_entropy

from switchkd.errors import RecipeError
from switchkd.losses.alignment import alignment
from switchkd.losses.kneedle import widened
from switchkd.losses.rowwise import rowwise


class Options(Protocol):
    """What the objective reads of a recipe's distillation part."""

    @property
    def method(self) -> str: ...  # name of an alignment loss, see `alignment`
    @property
    def temperature(self) -> float: ...  # τ of both alignment terms
    @property
    def lambda_align(self) -> float: ...  # λ1; 0 skips the term
    @property
    def lambda_switch(self) -> float: ...  # λ2; 0 skips the term
    @property
    def knee_top(self) -> int | None: ...
    @property
    def k_min(self) -> int | None: ...
    @property
    def k_max(self) -> int | None: ...
    @property
    def k(self) -> int: ...  # for `bild-*`
    @property
    def tau_squared(self) -> bool: ...
    @property
    def ce_temperature(self) -> float: ...  # 1 as in the main text; τ as in Algorithm 1, line 9


class Terms(NamedTuple):
    """Sums over the positions handed in; divided by the global number of supervised positions they are the loss."""

    total: Tensor  # ce + λ1·align + λ2·vsd; the one to differentiate
    ce: Tensor
    align: Tensor
    vsd: Tensor
    k_teacher: Tensor | None  # [A] int64, of the alignment term; None where it has no k or is skipped
    k_student: Tensor | None  # [A] int64, likewise


class Objective:
    """The sums of the loss terms over a batch's supervised positions, all logits cut to the tokenizer's length.

    Raises RecipeError for options that can't be used.
    """

    def __init__(self, options: Options):
        for name in ("lambda_align", "lambda_switch"):
            value = getattr(options, name)
            if not (value >= 0 and math.isfinite(value)):
                raise RecipeError(f"{name} is {value!r}; it must be a number of at least 0.")
        if not (options.ce_temperature > 0 and math.isfinite(options.ce_temperature)):
            raise RecipeError(f"ce_temperature is {options.ce_temperature!r}; it must be a number above 0.")
        self._options = options
        self._align = alignment(
            options.method,
            temperature=options.temperature,
            k=options.k,
            knee_top=options.knee_top,
            k_min=options.k_min,
            k_max=options.k_max,
            tau_squared=options.tau_squared,
        )

    def __call__(
        self,
        student_logits: Tensor,
        targets: Tensor,
        teacher_logits: Tensor | None = None,
        switch_logits: Tensor | None = None,
        switch_rows: Tensor | None = None,
    ) -> Terms:
        """The terms of one batch.

        Args:
            student_logits: z^S, [A, N].
            targets: The token at each position, [A] int64.
            teacher_logits: z^T, [A, N]; None trains without distillation.
            switch_logits: z^Switch, [A', N], of the positions whose sample has a picture, in their order.
            switch_rows: Which of the A positions these are, [A] bool.

        Returns:
            Float32 scalars (float64 for float64 logits). Without positions they are zeros that still have a graph.

        Raises:
            ValueError: Switch logits without their teacher or rows, or of another number.
        """
        options = self._options
        ce = total = rowwise(self._cross_entropy, student_logits, targets).sum()
        align = vsd = ce.new_zeros(())
        k_teacher = k_student = None
        if switch_logits is not None:
            check_switch(switch_logits, teacher_logits, switch_rows)
        if teacher_logits is not None and options.lambda_align:
            loss, k_teacher, k_student = self._align(teacher_logits, student_logits)
            align = loss.sum()
            total = total + options.lambda_align * align
        if teacher_logits is not None and switch_logits is not None and options.lambda_switch:
            vsd = self._align(teacher_logits[switch_rows], switch_logits).loss.sum()
            total = total + options.lambda_switch * vsd
        return Terms(total, ce, align, vsd, k_teacher, k_student)

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        scaled = widened(logits)
        if self._options.ce_temperature != 1:
            scaled = scaled / self._options.ce_temperature
        return cross_entropy(scaled, targets, reduction="none")  # [A]


def check_switch(switch_logits: Tensor, teacher_logits: Tensor | None, switch_rows: Tensor | None) -> None:
    """Raise ValueError unless the switch logits belong to rows of the teacher's."""
    if teacher_logits is None or switch_rows is None:
        raise ValueError("Switch logits need the teacher's logits and the rows that they belong to.")
    if switch_rows.shape != teacher_logits.shape[:1] or len(switch_logits) != int(switch_rows.sum()):
        raise ValueError(
            f"{len(switch_logits)} switch positions don't match {int(switch_rows.sum())} rows "
            f"of {tuple(teacher_logits.shape)} teacher logits."
        )
