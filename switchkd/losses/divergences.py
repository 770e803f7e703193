"""Whole next-token distributions against the labels, and against each other: the baselines of the paper's Table 4."""

from torch import Tensor
from torch.nn import functional

from switchkd.losses.kneedle import widened
from switchkd.losses.rowwise import rowwise


def cross_entropy(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """-log p(target) of each position, with softmax(z/τ): logits [A, N], targets [A] int64 → [A], float32 or float64."""

    def formula(logits: Tensor, targets: Tensor) -> Tensor:
        scaled = widened(logits) if temperature == 1 else widened(logits) / temperature
        return functional.cross_entropy(scaled, targets, reduction="none")

    return rowwise(formula, logits, targets)


def forward_kl(teacher_logits: Tensor, student_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(p_T ‖ p_S) of each position: expectation under the teacher.

    Args:
        teacher_logits: [A, N], any floating type; gets no gradient.
        student_logits: [A, N], any floating type.
        temperature: τ of both softmaxes.

    Returns:
        [A] float32, or float64 if an argument is.
    """

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        return _kl(_log_probabilities(teacher, temperature), _log_probabilities(student, temperature))

    return rowwise(formula, student_logits, teacher_logits)


def reverse_kl(teacher_logits: Tensor, student_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(p_S ‖ p_T) of each position: expectation under the student. Arguments and result as in `forward_kl`."""

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        return _kl(_log_probabilities(student, temperature), _log_probabilities(teacher, temperature))

    return rowwise(formula, student_logits, teacher_logits)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (widened(logits) / temperature).log_softmax(1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)
