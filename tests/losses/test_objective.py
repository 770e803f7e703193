"""The whole objective against Algorithms 1 and 2, position by position."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.literal import literal_objective

from switchkd.errors import RecipeError
from switchkd.losses import METHODS, Objective


@dataclass(frozen=True)
class Options:
    method: str = "dbild-rkl"
    temperature: float = 3.0
    lambda_align: float = 1.0
    lambda_switch: float = 1.0
    knee_top: int | None = None
    k_min: int | None = None
    k_max: int | None = None
    k: int = 8
    tau_squared: bool = False
    ce_temperature: float = 1.0


def a_batch(positions: int = 6, size: int = 25, seed: int = 0, dtype=torch.float64) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    rows = torch.arange(positions) % 3 != 1  # every third position belongs to a text-only sample
    shapes = {"student_logits": positions, "teacher_logits": positions, "switch_logits": int(rows.sum())}
    batch: dict[str, Any] = {name: (3 * torch.randn(n, size, generator=random)).to(dtype) for name, n in shapes.items()}
    batch["student_logits"].requires_grad_()
    batch["switch_logits"].requires_grad_()
    return batch | {"targets": torch.randint(0, size, (positions,), generator=random), "switch_rows": rows}


def literal(options: Options, batch: dict[str, Any]) -> dict[str, Any]:
    names = ("student_logits", "targets", "teacher_logits", "switch_logits", "switch_rows")
    return literal_objective(options, *(batch[name] for name in names))


@pytest.mark.parametrize(
    "change",
    [
        *({"method": method} for method in METHODS),
        {"lambda_align": 0.5, "lambda_switch": 2.0},
        {"ce_temperature": 3.0},
        {"tau_squared": True},
        {"temperature": 1.0},
        {"knee_top": 10},
        {"k_min": 5, "k_max": 7},
        {"method": "bild-rkl", "k": 3},
    ],
    ids=str,
)
def test_equals_the_algorithm(change):
    options = replace(Options(), **change)
    fast, slow = a_batch(), a_batch()
    terms, expected = Objective(options)(**fast), literal(options, slow)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(terms, name), value)
    terms.total.backward()
    expected["total"].backward()
    for name in ("student_logits", "switch_logits"):
        torch.testing.assert_close(fast[name].grad, slow[name].grad)


def test_every_option_changes_the_total():
    changes: list[dict[str, Any]] = [
        {},
        {"method": "dbild-fkl"},
        {"temperature": 2.0},
        {"lambda_align": 0.5},
        {"lambda_switch": 0.5},
        {"knee_top": 10},
        {"k_min": 20},
        {"k_max": 3},
        {"tau_squared": True},
        {"ce_temperature": 3.0},
        {"method": "bild-rkl"},
        {"method": "bild-rkl", "k": 4},
    ]
    totals = {Objective(replace(Options(), **change))(**a_batch()).total.item() for change in changes}
    assert len(totals) == len(changes)


def test_terms_are_float32_sums_of_half_precision_logits():
    batch = a_batch(dtype=torch.bfloat16)
    terms = Objective(Options())(**batch)
    for name in ("total", "ce", "align", "vsd"):
        assert getattr(terms, name).dtype == torch.float32 and getattr(terms, name).shape == ()
    expected = literal(Options(), batch)
    torch.testing.assert_close(terms.total.double(), expected["total"], rtol=1e-5, atol=1e-5)
    assert terms.k_teacher is not None and terms.k_student is not None
    assert terms.k_teacher.shape == terms.k_student.shape == (6,)
    assert not terms.k_teacher.requires_grad


def test_sums_add_up_over_parts_of_a_batch():
    whole = a_batch(positions=6)
    first = {name: value[:4] for name, value in whole.items() if name not in ("switch_logits", "switch_rows")}
    last = {name: value[4:] for name, value in whole.items() if name not in ("switch_logits", "switch_rows")}
    objective = Objective(replace(Options(), lambda_switch=0.0))
    together = objective(**whole).total
    torch.testing.assert_close(objective(**first).total + objective(**last).total, together)


def test_without_a_teacher_it_is_the_cross_entropy():
    batch = a_batch()
    terms = Objective(Options())(batch["student_logits"], batch["targets"])
    expected = torch.nn.functional.cross_entropy(batch["student_logits"], batch["targets"], reduction="sum")
    assert terms.total.item() == terms.ce.item() == pytest.approx(expected.item(), rel=1e-12)
    assert (terms.align.item(), terms.vsd.item(), terms.k_teacher, terms.k_student) == (0.0, 0.0, None, None)


def test_text_only_positions_have_no_switch_term():
    batch = a_batch()
    without = Objective(Options())(**(batch | {"switch_logits": None, "switch_rows": None}))
    assert without.vsd.item() == 0.0
    none = torch.zeros(0, 25, dtype=torch.float64, requires_grad=True)
    terms = Objective(Options())(**(batch | {"switch_logits": none, "switch_rows": torch.zeros(6, dtype=torch.bool)}))
    assert terms.vsd.item() == 0.0
    assert terms.total.item() == without.total.item()


def test_gradients_keep_to_their_pathway():
    batch = a_batch()
    Objective(Options())(**batch).vsd.backward()
    assert batch["student_logits"].grad is None and batch["switch_logits"].grad.abs().max() > 0
    batch = a_batch()
    Objective(Options())(**batch).align.backward()
    assert batch["switch_logits"].grad is None and batch["student_logits"].grad.abs().max() > 0


@pytest.mark.parametrize(
    "weight, term, name", [("lambda_align", "align", "teacher_logits"), ("lambda_switch", "vsd", "switch_logits")]
)
def test_a_weight_of_zero_skips_the_term(weight, term, name):
    """Logits that the term would refuse go unread."""
    batch = a_batch()
    options = replace(Options(), lambda_align=0.0, lambda_switch=0.0)
    batch[name] = batch[name] * torch.nan
    terms = Objective(options)(**batch)
    assert getattr(terms, term).item() == 0.0
    assert terms.total.item() == terms.ce.item()
    with pytest.raises(Exception, match="NaN"):
        Objective(Options(**{**vars(options), weight: 1.0}))(**batch)


@pytest.mark.parametrize("method", METHODS)
def test_no_positions_give_zero_with_a_graph(method):
    batch = a_batch(positions=0)
    terms = Objective(replace(Options(), method=method))(**batch)
    assert terms.total.item() == 0.0
    terms.total.backward()
    assert batch["student_logits"].grad.shape == (0, 25)


def test_switch_logits_that_fit_no_rows_are_refused():
    batch = a_batch()
    objective = Objective(Options())
    with pytest.raises(ValueError, match="need the teacher"):
        objective(**(batch | {"switch_rows": None}))
    with pytest.raises(ValueError, match="need the teacher"):
        objective(**(batch | {"teacher_logits": None}))
    with pytest.raises(ValueError, match="don't match"):
        objective(**(batch | {"switch_rows": torch.ones(6, dtype=torch.bool)}))


@pytest.mark.parametrize(
    "change",
    [
        {"lambda_align": -1.0},
        {"lambda_switch": float("nan")},
        {"ce_temperature": 0.0},
        {"temperature": 0.0},
        {"method": "mse"},
        {"method": "bild-rkl", "knee_top": 9},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(change):
    with pytest.raises(RecipeError):
        Objective(replace(Options(), **change))
