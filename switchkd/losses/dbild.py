"""DBiLD, the dynamic bi-directional logits difference loss (paper section 3.2, Algorithm 2), in O(k) a position.

A branch compares two softmaxes over all pairs m < n of the leader's top k logits. The paper writes out k(k-1)/2
differences, tens of millions for a language model's vocabulary. But a pair's weight is a product of two factors,
exp(P_m - P_n) = exp(P_m)·exp(-P_n), so every sum over pairs is a sum of prefix and suffix sums over the k logits:

    Z   = Σ_m exp(P_m)·S_m           with S_m = Σ_{n>m} exp(-P_n)
    r_m = exp(P_m)·S_m / Z           how often m stands first in a pair
    c_n = exp(-P_n)·Σ_{m<n} exp(P_m) / Z      how often n stands second
    KL(P‖Q) = Σ_j (r_j - c_j)·(P_j - Q_j) - log Z_P + log Z_Q

This is the same number, not an approximation.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from switchkd.errors import RecipeError
from switchkd.losses.kneedle import KneeScope, check_logits, chunks, leaders, precise, widened

Direction = Literal["reverse", "forward"]


class Aligned(NamedTuple):
    """What an alignment loss gives for each position, and the number of logits that each branch looked at."""

    loss: Tensor  # [A] float32 (float64 if an argument is); differentiable in the student's logits
    k_teacher: Tensor | None = None  # [A] int64; None for the divergences over the whole distribution
    k_student: Tensor | None = None  # [A] int64, likewise


def dbild(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temperature: float,
    direction: Direction = "reverse",
    knee_top: int | None = None,
    k_min: int | None = None,
    k_max: int | None = None,
    k: int | None = None,
    chunk_positions: int | None = None,
) -> Aligned:
    """Teacher-guided plus student-guided term, unreduced.

    A branch with fewer than two leading logits has no pairs: it adds 0, with zero gradient. The selection carries no
    gradient, and the teacher's logits never get one. Equal logits rank by token id.

    Args:
        teacher_logits: [A, N] of any floating type, already cut to the tokenizer's length.
        student_logits: [A, N] likewise; its gradient is computed analytically and kept for the leading logits only.
        temperature: τ > 0 of both softmaxes.
        direction: `reverse` takes the expectation under the student in both branches (the paper's RKL), `forward`
            under the teacher (the ablation's FKL).
        knee_top, k_min, k_max, k: See `KneeScope`.
        chunk_positions: Rows worked on at a time; None chooses. It changes memory and speed only.

    Raises:
        RecipeError: An option that can't be used.
        NonFiniteLogitsError: Logits with NaN or infinity.
        ValueError: Shapes that don't match.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise RecipeError(f"temperature is {temperature!r}; it must be a number above 0.")
    if direction not in ("reverse", "forward"):
        raise RecipeError(f"direction is {direction!r}; choose reverse or forward.")
    scope = KneeScope(knee_top=knee_top, k_min=k_min, k_max=k_max, k=k)
    check_logits(teacher_logits)
    check_logits(student_logits)
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(f"Teacher {tuple(teacher_logits.shape)} and student {tuple(student_logits.shape)} must match.")
    options = (float(temperature), direction, scope, chunk_positions)
    return Aligned(*_Dbild.apply(student_logits, teacher_logits.detach(), *options))


class _Dbild(torch.autograd.Function):
    """Forward also computes the gradient, sparse: where and what, 12 bytes a leading logit."""

    @staticmethod
    def forward(
        ctx: Any,
        student_logits: Tensor,
        teacher_logits: Tensor,
        temperature: float,
        direction: Direction,
        scope: KneeScope,
        chunk_positions: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        positions, size = student_logits.shape
        kind = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
        loss = student_logits.new_zeros(positions, dtype=kind)
        sizes = torch.zeros(2, positions, dtype=torch.int64, device=loss.device)
        ctx.shape, ctx.dtype, ctx.rows, sparse = student_logits.shape, student_logits.dtype, [], []
        for rows in chunks(student_logits, chunk_positions):
            ctx.rows.append(rows)
            student, teacher = widened(student_logits[rows]), widened(teacher_logits[rows])
            for branch, (leader, whose) in enumerate(((teacher, "teacher's"), (student, "student's"))):
                lead = leaders(leader, scope, whose)
                sizes[branch, rows] = lead.k
                p, q = (z.gather(1, lead.tokens).to(precise(z.device)) / temperature for z in (student, teacher))
                divergence, gradient = pair_divergence(p, q, lead.valid, direction)
                loss[rows] += divergence.clamp(min=0).to(kind)  # rounding may leave -1e-16
                if ctx.needs_input_grad[0]:
                    at = lead.tokens + size * torch.arange(len(leader), device=loss.device)[:, None]
                    sparse += [at[lead.valid], (gradient[lead.valid] / temperature).to(kind)]
        ctx.save_for_backward(*sparse)
        k_teacher, k_student = sizes.unbind()
        ctx.mark_non_differentiable(k_teacher, k_student)
        return loss, k_teacher, k_student

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient = torch.empty(ctx.shape, dtype=ctx.dtype, device=weight.device)
        saved = iter(ctx.saved_tensors)
        for rows in ctx.rows:
            dense = torch.zeros_like(gradient[rows], dtype=weight.dtype)
            for _branch in range(2):
                at, value = next(saved), next(saved)
                dense.view(-1).index_add_(0, at, value * weight[rows][at // ctx.shape[1]])
            gradient[rows] = dense
        return gradient, None, None, None, None, None


def pair_divergence(student: Tensor, teacher: Tensor, valid: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """KL between the softmaxes over the pairs m < n of each row, and its gradient in `student`.

    Args:
        student, teacher: [A, K] logits over τ, both in the leader's order.
        valid: [A, K] bool, the first k of each row; with k < 2 the result is 0.
        direction: `reverse` KL(student‖teacher) or `forward` KL(teacher‖student).

    Returns:
        [A] divergence and [A, K] gradient, in the arguments' type.
    """
    scan = _Scan.fitting(valid, student, teacher)
    p, q = _Pairs(student, valid, scan), _Pairs(teacher, valid, scan)
    gap = (student - teacher).masked_fill(~valid, 0)
    if direction == "forward":
        expected = (q.balance * gap).sum(1)
        return p.log_total - q.log_total - expected, p.balance - q.balance
    expected = (p.balance * gap).sum(1, keepdim=True)
    divergence = expected.squeeze(1) - p.log_total + q.log_total
    after, before = p.means(gap)
    gradient = p.first * (gap - after - expected) + p.second * (gap - before + expected)
    return divergence, gradient


class _Scan:
    """log of the running sums of exp, before and after each entry of a row, the entry itself left out."""

    def __init__(self, logarithmic: bool):
        self.logarithmic = logarithmic

    @classmethod
    def fitting(cls, valid: Tensor, *logits: Tensor) -> "_Scan":
        """Plain sums of exponentials where the rows' ranges fit the type's exponent; else sums in log space."""
        ranges = [z.masked_fill(~valid, -torch.inf).amax(1) - z.masked_fill(~valid, torch.inf).amin(1) for z in logits]
        return cls(bool((torch.stack(ranges) > 0.8 * math.log(torch.finfo(logits[0].dtype).max)).any()))

    def before(self, x: Tensor) -> Tensor:
        """log Σ_{m<j} exp(x_m), [A, K]; -inf where there is none."""
        return pad(self._running(x)[:, :-1], (1, 0), value=-torch.inf)

    def after(self, x: Tensor) -> Tensor:
        """log Σ_{n>j} exp(x_n), [A, K]; -inf where there is none."""
        return self.before(x.flip(1)).flip(1)

    def _running(self, x: Tensor) -> Tensor:
        if self.logarithmic:
            return x.logcumsumexp(1)
        top = x.amax(1, keepdim=True).nan_to_num(neginf=0.0)
        return (x - top).exp_().cumsum(1).log_().add_(top)


class _Pairs:
    """The softmax over all pairs m < n of z_m - z_n, by its marginals."""

    def __init__(self, logits: Tensor, valid: Tensor, scan: _Scan):
        self._scan = scan
        self._up = logits.masked_fill(~valid, -torch.inf)
        self._down = (-logits).masked_fill(~valid, -torch.inf)
        self._after, self._before = scan.after(self._down), scan.before(self._up)
        # [A]; 0 where a row has no pairs, so that all its weights are exp(-inf) = 0.
        self.log_total = (self._up + self._after).logsumexp(1).nan_to_num(neginf=0.0)
        total = self.log_total[:, None]
        self.first = (self._up + self._after - total).exp()  # [A, K], r above
        self.second = (self._down + self._before - total).exp()  # [A, K], c above

    @property
    def balance(self) -> Tensor:
        """Gradient of log Z, r - c, [A, K]."""
        return self.first - self.second

    def means(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of x over the partners after and before each entry, [A, K]; anything finite where there is none."""
        least = x.amin(1, keepdim=True)
        log_x = (x - least).log()
        after = (self._scan.after(self._down + log_x) - self._after).exp()
        before = (self._scan.before(self._up + log_x) - self._before).exp()
        return after.nan_to_num(nan=0.0) + least, before.nan_to_num(nan=0.0) + least
