"""Every alignment loss by its name against the literal one."""

from typing import Any

import pytest
import torch
from support.literal import literal_alignment

from switchkd.errors import RecipeError
from switchkd.losses import alignment as losses
from switchkd.losses.divergences import forward_kl, reverse_kl
from switchkd.recipes.recipe import METHODS, Distillation


def alignment(method: str, **settings: Any) -> losses.Alignment:
    return losses.alignment(Distillation(method, **settings))


def logits(seed: int, positions: int = 4, size: int = 30) -> torch.Tensor:
    return 3 * torch.randn(positions, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("method", METHODS)
def test_values_and_gradients_equal_the_literal_loss(method, temperature):
    teacher, student, slow = logits(0), logits(1).requires_grad_(), logits(1).requires_grad_()
    aligned = alignment(method, temperature=temperature)(teacher, student)
    expected = literal_alignment(method, teacher, slow, temperature)
    torch.testing.assert_close(aligned.loss, expected)
    aligned.loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(student.grad, slow.grad)


def test_the_methods_are_six_different_losses():
    values = {method: alignment(method, temperature=3.0)(logits(0), logits(1)).loss.sum().item() for method in METHODS}
    assert len(set(values.values())) == 6


def test_k_is_known_where_logits_are_selected():
    for method in METHODS:
        aligned = alignment(method, temperature=3.0, k=5)(logits(0), logits(1))
        if "bild" not in method:
            assert aligned.k_teacher is None and aligned.k_student is None
            continue
        assert aligned.k_teacher is not None and aligned.k_student is not None
        assert aligned.k_teacher.shape == aligned.k_student.shape == (4,)
        if method.startswith("bild"):
            assert aligned.k_teacher.tolist() == aligned.k_student.tolist() == [5] * 4


def test_options_reach_the_loss():
    teacher, student = logits(0), logits(1)
    scopes: list[dict[str, Any]] = [{"knee_top": 9}, {"k_max": 4}, {"k_min": 25}]
    for scope in scopes:
        got = alignment("dbild-rkl", temperature=3.0, **scope)(teacher, student).loss
        torch.testing.assert_close(got, literal_alignment("dbild-rkl", teacher, student, 3.0, **scope))
        assert not torch.allclose(got, alignment("dbild-rkl", temperature=3.0)(teacher, student).loss)


@pytest.mark.parametrize("method", METHODS)
def test_tau_squared_is_a_factor(method):
    plain, scaled = (
        alignment(method, temperature=3.0, tau_squared=on)(logits(0), logits(1)).loss for on in (False, True)
    )
    torch.testing.assert_close(scaled, 9 * plain)


@pytest.mark.parametrize("method", METHODS)
def test_equal_logits_and_half_precision(method):
    z = logits(0).bfloat16()
    loss = alignment(method, temperature=3.0)(z, z.clone().requires_grad_()).loss
    assert loss.dtype == torch.float32
    assert loss.tolist() == [0.0] * 4


def test_divergences_leave_the_teacher_alone():
    for divergence in (forward_kl, reverse_kl):
        teacher, student = logits(0).requires_grad_(), logits(1).requires_grad_()
        divergence(teacher, student, temperature=1.0).sum().backward()
        assert teacher.grad is None and student.grad is not None


def test_divergences_at_huge_ranges_are_finite():
    teacher, student = 1e4 * logits(0).float().sign(), (1e4 * logits(1).float().sign()).requires_grad_()
    for divergence in (forward_kl, reverse_kl):
        loss = divergence(teacher, student, temperature=1.0)
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "kl", "temperature": 3.0},
        {"method": "-fkl", "temperature": 3.0},
        {"method": "fkl", "temperature": 0.0},
        {"method": "dbild-rkl", "temperature": -1.0},
        {"method": "bild-rkl", "temperature": 3.0, "k": 0},
        {"method": "bild-rkl", "temperature": 3.0, "knee_top": 64},
        {"method": "rkl", "temperature": 3.0, "k_max": 64},
        {"method": "dbild-fkl", "temperature": 3.0, "k_min": 9, "k_max": 2},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(RecipeError):
        alignment(**options)
