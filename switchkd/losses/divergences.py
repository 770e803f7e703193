"""Divergences between whole next-token distributions, the baselines of the paper's Table 4."""

from torch import Tensor

from switchkd.losses.kneedle import widened


def forward_kl(teacher_logits: Tensor, student_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(p_T ‖ p_S) of each position: expectation under the teacher.

    Args:
        teacher_logits: [A, N], any floating type; gets no gradient.
        student_logits: [A, N], any floating type.
        temperature: τ of both softmaxes.

    Returns:
        [A] float32, or float64 if an argument is.
    """
    log_teacher, log_student = _log_probabilities(teacher_logits, student_logits, temperature)
    return _kl(log_teacher, log_student)


def reverse_kl(teacher_logits: Tensor, student_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(p_S ‖ p_T) of each position: expectation under the student. Arguments and result as in `forward_kl`."""
    log_teacher, log_student = _log_probabilities(teacher_logits, student_logits, temperature)
    return _kl(log_student, log_teacher)


def _log_probabilities(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    teacher, student = widened(teacher_logits.detach()), widened(student_logits)
    return (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)
