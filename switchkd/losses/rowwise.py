"""Losses of one number a row, a few rows at a time: whole-vocabulary logits exist once, not once an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from switchkd.losses.kneedle import chunks


def rowwise(formula: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
    """`formula(logits, *others)` where each row of the result depends on the same row of the arguments alone.

    The backward pass computes the formula again: besides the arguments and the gradient there are temporaries of a few rows,
    where `formula` itself would keep float32 copies of all logits.

    Args:
        formula: of [a, N] logits and rows of the others, gives [a].
        logits: [A, N]; gets the gradient.
        others: [A, …]; get none.

    Returns:
        [A].
    """
    return _Rowwise.apply(formula, logits, *others)


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, formula: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
        ctx.formula = formula
        ctx.save_for_backward(logits, *others)
        losses = [formula(logits[rows], *(other[rows] for other in others)) for rows in chunks(logits, None)]
        return torch.cat(losses) if losses else formula(logits, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, *others = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for rows in chunks(logits, None):
            with torch.enable_grad():
                part = logits[rows].detach().requires_grad_()
                loss = ctx.formula(part, *(other[rows].detach() for other in others))
            gradient[rows] = torch.autograd.grad(loss, part, upstream[rows])[0]
        return None, gradient, *(None for _ in others)
