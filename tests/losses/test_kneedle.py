"""The bucketed knee against the knee of the paper's formula in rational numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.literal import literal_knee
from support.rows import rows_like_a_language_model

from switchkd.errors import RecipeError, SkdError
from switchkd.losses.kneedle import KneeScope, check_logits, leaders, widened


def knee(logits: torch.Tensor, scope: KneeScope | None = None) -> torch.Tensor:
    """How many logits lead in each row, [A]."""
    return leaders(widened(logits), scope or KneeScope()).k


def shapes_of_rows(seed: int) -> torch.Tensor:
    """One random matrix of a random kind: smooth, heavy-tailed, tied, stepped, far out or nearly constant."""
    random = torch.Generator().manual_seed(seed)
    size = int(torch.randint(1, 90, (), generator=random))
    z = torch.randn(3, size, generator=random)
    kinds = [
        z,
        z**5,
        (z * 2).round(),
        z.bfloat16().float(),
        (z > 0).float(),
        z * 1e4,
        z * 1e-30,
        z.cumsum(1),
        -z.abs() * 1e3,
        z * 0 + 3.25,
    ]
    return kinds[seed % len(kinds)]


@pytest.mark.parametrize("seed", range(200))
def test_equals_the_formula_in_rational_numbers(seed):
    z = shapes_of_rows(seed)
    assert knee(z).tolist() == [literal_knee(row) for row in z]


@pytest.mark.parametrize(
    "scope",
    [
        {"knee_top": 2},
        {"knee_top": 20},
        {"knee_top": 1000},
        {"k_min": 30},
        {"k_max": 4},
        {"k_min": 3, "k_max": 12},
        {"knee_top": 30, "k_min": 10, "k_max": 20},
        {"k": 1},
        {"k": 8},
        {"k": 1000},
    ],
    ids=str,
)
def test_options_equal_the_formula(scope):
    for seed in range(40):
        z = shapes_of_rows(seed)
        assert knee(z, KneeScope(**scope)).tolist() == [literal_knee(row, **scope) for row in z]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_large_vocabulary_equals_the_full_sort(dtype):
    z = rows_like_a_language_model(3, 40_000, seed=1).to(dtype)
    got = knee(z)
    for row, k in zip(z, got.tolist(), strict=True):
        assert k == literal_knee(row)
        assert 200 < k < 8000


def test_an_outlier_that_squeezes_all_into_one_bucket():
    z = rows_like_a_language_model(2, 3000, seed=2)
    z[0, 17], z[1, 5] = -1e7, 1e7
    assert knee(z).tolist() == [literal_knee(row) for row in z]


def test_hand_worked_row():
    # y = 1, .5, .2, .1, 0 and x = .2 … 1: d = -.2, .1, .2, .1, 0.
    assert knee(torch.tensor([[3.0, 13, 5, 4, 8]])).tolist() == [3]


def test_first_of_equal_distances():
    # y = 1, .5, .25, 0 and x = .25 … 1: d = -.25, 0, 0, 0.
    assert knee(torch.tensor([[4.0, 2, 1, 0]])).tolist() == [2]


def test_rows_without_a_knee():
    assert knee(torch.full((2, 7), 1.5), KneeScope(k_min=4)).tolist() == [0, 0]
    assert knee(torch.zeros(3, 1)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("scope", [KneeScope(), KneeScope(k=4), KneeScope(knee_top=6)], ids=str)
def test_leaders_are_the_stable_descending_order(scope):
    for seed in range(30):
        z = shapes_of_rows(seed)
        lead = leaders(z, scope)
        order = z.sort(dim=1, descending=True, stable=True).indices
        for row in range(len(z)):
            k = int(lead.k[row])
            assert lead.tokens[row, :k].tolist() == order[row, :k].tolist()
            assert lead.valid[row].sum() == k


@given(
    rows=st.lists(st.lists(st.integers(-40, 40), min_size=6, max_size=6), min_size=1, max_size=4),
    shift=st.integers(-100, 100),
    scale=st.sampled_from([0.25, 1.0, 8.0]),
)
@settings(max_examples=100, deadline=None)
def test_shift_scale_and_order_do_not_matter(rows, shift, scale):
    z = torch.tensor(rows, dtype=torch.float32)
    expected = knee(z)
    assert torch.equal(knee(z * scale + shift), expected)
    assert torch.equal(knee(z.flip(1)), expected)
    assert torch.equal(knee(z.flip(0)), expected.flip(0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_logits_that_are_not_finite_are_refused(bad):
    z = torch.tensor([[1.0, 2.0], [-3e38, bad]])
    with pytest.raises(SkdError, match="NaN or infinity"):
        knee(z)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": 2.5},
        {"k_min": 0},
        {"k_max": -1},
        {"knee_top": 1},
        {"k_min": 9, "k_max": 8},
        {"k_min": 9, "knee_top": 8},
        {"k": 8, "knee_top": 64},
        {"k": 8, "k_max": 64},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(RecipeError):
        KneeScope(**options)


@pytest.mark.parametrize("z", [torch.zeros(5), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.int64)])
def test_shapes_that_are_no_logits_are_refused(z):
    with pytest.raises(ValueError, match="positions, tokens"):
        check_logits(z)
