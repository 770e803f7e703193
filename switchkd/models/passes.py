"""What one way through a model gives to the losses: the student's, the teacher's and the switch's are the same record."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Asked(NamedTuple):
    """What a pass is asked for besides logits and features. Nothing else is kept."""

    image_hidden: frozenset[int] = frozenset()  # hidden layers; 0 is the embeddings, -1 the last one, after its norm
    attentions: frozenset[int] = frozenset()  # layers of attention; -1 is the last one


NOTHING = Asked()


class Pass(NamedTuple):
    """What a model gave for one micro-batch: A answer positions, I pictures of P tokens, of which the projector makes P'."""

    logits: Tensor  # [A, rows]
    features: Tensor | None = None  # [I, P, W_v] the tower's; None for text alone
    image_hidden: dict[int, Tensor] | None = None  # layer asked for → [I, P', W] of the pictures' tokens
    attentions: dict[int, Tensor] | None = None  # layer asked for → [A', heads, P'] from the answers to their pictures


class Passes(NamedTuple):
    """A micro-batch's ways through the models."""

    student: Pass
    targets: Tensor  # [A] int64, the token at each position
    teacher: Pass | None = None
    switch: Pass | None = None  # of the samples with a picture alone: A' positions
    switch_rows: Tensor | None = None  # [A] bool, which of the A positions these are, in their order

    def check_switch(self) -> None:
        """Raises ValueError unless the switch's logits belong to rows of the teacher's."""
        if self.switch is None:
            return
        if self.teacher is None or self.switch_rows is None:
            raise ValueError("Switch logits need the teacher's logits and the rows that they belong to.")
        logits, rows, found = self.teacher.logits, self.switch_rows, len(self.switch.logits)
        if rows.shape != logits.shape[:1] or found != int(rows.sum()):
            raise ValueError(
                f"{found} switch positions don't match {int(rows.sum())} rows of {tuple(logits.shape)} teacher logits."
            )
