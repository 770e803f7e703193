"""DBiLD in O(k) against all explicit pairs, values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.literal import literal_dbild
from support.rows import rows_like_a_language_model

from switchkd.errors import RecipeError, SkdError
from switchkd.losses.dbild import Direction, dbild

DIRECTIONS: list[Direction] = ["reverse", "forward"]


def random_pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher and student logits [A, N] in float64 of a random shape and kind."""
    random = torch.Generator().manual_seed(seed)
    positions, size = (int(torch.randint(1, high, (), generator=random)) for high in (4, 60))
    teacher = torch.randn(positions, size, generator=random, dtype=torch.float64)
    student = 0.7 * teacher + 0.7 * torch.randn(positions, size, generator=random, dtype=torch.float64)
    kinds = [
        (teacher, student),
        (4 * teacher, 4 * student),
        ((2 * teacher).round(), (2 * student).round()),  # ties
        (teacher * 0 + 1, student),  # a row without a knee leads nothing
        (teacher, student * 0),
        (teacher, student.flip(1)),
        (30 * teacher, student),
        (teacher, teacher + 1e-7 * student),
    ]
    return kinds[seed % len(kinds)]


def with_gradient(loss, teacher, student, weight, **options):
    student = student.clone().requires_grad_()
    value = loss(teacher, student, **options)
    value = getattr(value, "loss", value)
    (value * weight).sum().backward()
    return value.detach(), student.grad


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(120))
def test_equals_the_explicit_pairs(seed, direction):
    teacher, student = random_pair(seed)
    weight = torch.linspace(-1, 2, len(teacher), dtype=torch.float64)
    options = {"temperature": (0.5, 1.0, 3.0)[seed % 3], "direction": direction}
    value, gradient = with_gradient(dbild, teacher, student, weight, **options)
    expected, expected_gradient = with_gradient(literal_dbild, teacher, student, weight, **options)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "scope",
    [
        {"k": 1},
        {"k": 2},
        {"k": 8},
        {"k": 999},
        {"knee_top": 12},
        {"k_min": 20},
        {"k_max": 5},
        {"knee_top": 9, "k_max": 3},
    ],
    ids=str,
)
def test_knee_options_equal_the_explicit_pairs(scope, direction):
    for seed in range(16):
        teacher, student = random_pair(seed)
        weight = torch.ones(len(teacher), dtype=torch.float64)
        options = {"temperature": 2.0, "direction": direction, **scope}
        value, gradient = with_gradient(dbild, teacher, student, weight, **options)
        expected, expected_gradient = with_gradient(literal_dbild, teacher, student, weight, **options)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scale", [1e2, 1e3, 1e4])
@pytest.mark.parametrize("scope", [{}, {"k": 40}], ids=str)
def test_huge_ranges_equal_the_explicit_pairs(scale, direction, scope):
    random = torch.Generator().manual_seed(0)
    teacher, student = ((torch.rand(4, 40, generator=random, dtype=torch.float64) * 2 - 1) * scale for _ in range(2))
    weight = torch.ones(4, dtype=torch.float64)
    options = {"temperature": 1.0, "direction": direction, **scope}
    value, gradient = with_gradient(dbild, teacher, student, weight, **options)
    expected, expected_gradient = with_gradient(literal_dbild, teacher, student, weight, **options)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        gradient, expected_gradient, rtol=1e-8, atol=1e-11 * scale
    )  # sums cancel at the logits' size
    # In float32 too, and next to a row of ordinary range.
    teacher, student = (torch.cat([z, z / scale]).float() for z in (teacher, student))
    value, gradient = with_gradient(dbild, teacher, student, torch.ones(8), **options)
    expected, expected_gradient = with_gradient(literal_dbild, teacher, student, torch.ones(8), **options)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_golden_numbers():
    # τ = 2, k = 2 of three tokens: one pair a branch, a softmax over one pair is 1, so the loss is 0 …
    teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[2.0, 0.0, 2.0]], requires_grad=True)
    assert dbild(teacher, student, temperature=2.0, k=2).loss.tolist() == [0.0]

    # … and with k = 3 the pairs are (1,2), (1,3), (2,3).
    # Teacher-guided: differences over τ are 1, 2, 1 for the teacher and 1, 0, -1 for the student.
    # Student-guided, in the student's order 1, 3, 2: 2, 1, -1 for the teacher and 0, 1, 1 for the student.
    def kl(student_differences, teacher_differences):
        p, q = ([math.exp(x) for x in d] for d in (student_differences, teacher_differences))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    expected = kl([1, 0, -1], [1, 2, 1]) + kl([0, 1, 1], [2, 1, -1])
    result = dbild(teacher, student, temperature=2.0, k=3)
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)
    assert result.loss.item() == pytest.approx(1.4952508, rel=1e-6)  # 0.4743 + 1.0209
    assert (result.k_teacher.tolist(), result.k_student.tolist()) == ([3], [3])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction):
    random = torch.Generator().manual_seed(5)
    teacher, student = (torch.randn(3, 9, generator=random, dtype=torch.float64) * 2 for _ in range(2))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: dbild(teacher, s, temperature=1.5, direction=direction).loss, student)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_logits_cost_nothing(direction):
    z = rows_like_a_language_model(3, 5000, seed=3)
    value, gradient = with_gradient(dbild, z, z, torch.ones(3), temperature=3.0, direction=direction)
    assert value.tolist() == [0, 0, 0]
    assert gradient.abs().max() < 1e-12
    # Only differences count: a shift of all logits is no difference.
    assert dbild(z, z + 4, temperature=3.0, direction=direction).loss.abs().max() < 1e-7


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_positions_without_pairs_give_zero_and_no_nan(direction):
    student = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for teacher, rows, scope in (
        (torch.zeros(4, 6), torch.zeros(4, 6), {}),  # constant
        (student, student + 1, {"k": 1}),
        (torch.ones(4, 1), torch.zeros(4, 1), {}),  # one token
    ):
        value, gradient = with_gradient(dbild, teacher, rows, torch.ones(4), temperature=1.0, **scope)
        assert value.tolist() == [0.0] * 4
        assert torch.equal(gradient, torch.zeros_like(rows))


@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_properties(seed, chunk):
    random = torch.Generator().manual_seed(seed)
    teacher, student = (torch.randn(6, 50, generator=random) * 3 for _ in range(2))
    weight = torch.ones(6)
    value, gradient = with_gradient(dbild, teacher, student, weight, temperature=3.0)
    assert (value >= 0).all()
    # A shift of a position's student logits changes no difference, so the gradient sums to zero.
    assert gradient.sum(1).abs().max() < 1e-6
    # Neither the chunk nor a position's neighbours matter.
    order = torch.randperm(6, generator=random)
    moved = with_gradient(dbild, teacher[order], student[order], weight, temperature=3.0, chunk_positions=chunk)
    torch.testing.assert_close(moved[0], value[order], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(moved[1], gradient[order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "kinds", [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.bfloat16,) * 2]
)
def test_half_precision_equals_float64_of_the_same_numbers(kinds, direction):
    random = torch.Generator().manual_seed(9)
    teacher, student = (4 * torch.randn(3, 70, generator=random).to(kind) for kind in kinds)
    weight = torch.ones(3)
    value, gradient = with_gradient(dbild, teacher, student, weight, temperature=3.0, direction=direction)
    expected, expected_gradient = with_gradient(
        literal_dbild, teacher, student, weight, temperature=3.0, direction=direction
    )
    assert (value.dtype, gradient.dtype) == (torch.float32, kinds[1])
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0.005, atol=1e-6)


def test_only_the_student_gets_a_gradient():
    teacher, student = (
        torch.randn(2, 9, generator=torch.Generator().manual_seed(i), requires_grad=True) for i in (0, 1)
    )
    result = dbild(teacher, student, temperature=1.0)
    result.loss.sum().backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0
    assert not result.k_teacher.requires_grad and not result.k_student.requires_grad


def test_a_vocabulary_of_a_language_model():
    teacher = rows_like_a_language_model(2, 151_665, seed=4)
    student = (teacher + torch.randn(teacher.shape, generator=torch.Generator().manual_seed(7))).requires_grad_()
    result = dbild(teacher, student, temperature=3.0)
    result.loss.sum().backward()
    assert (result.k_teacher > 2000).all() and (result.k_student > 2000).all()
    assert (result.loss > 0).all() and result.loss.isfinite().all()
    assert student.grad is not None
    # Tokens that lead neither side are not touched.
    assert torch.count_nonzero(student.grad, dim=1).max() <= (result.k_teacher + result.k_student).max()


def test_no_positions():
    student = torch.zeros(0, 5, requires_grad=True)
    result = dbild(torch.zeros(0, 5), student, temperature=1.0)
    result.loss.sum().backward()
    assert student.grad is not None
    assert student.grad.shape == (0, 5) and result.k_teacher.shape == (0,)


def test_temperature_and_direction_matter():
    teacher, student = (torch.randn(2, 40, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    losses = {
        tuple(dbild(teacher, student, temperature=temperature, direction=direction).loss.tolist())
        for temperature in (1.0, 3.0)
        for direction in DIRECTIONS
    }
    assert len(losses) == 4


def test_bad_arguments_are_refused():
    z = torch.randn(2, 5)
    with pytest.raises(TypeError):
        dbild(z, z)  # type: ignore[call-arg]
    for options in ({"temperature": 0.0}, {"temperature": float("nan")}, {"temperature": 1.0, "direction": "both"}):
        with pytest.raises(RecipeError):
            dbild(z, z, **options)
    with pytest.raises(ValueError, match="must match"):
        dbild(z, z[:, :4], temperature=1.0)
    with pytest.raises(SkdError, match="student's logits"):
        dbild(z, z * torch.nan, temperature=1.0)
    with pytest.raises(SkdError, match="teacher's logits"):
        dbild(z / 0, z, temperature=1.0)
