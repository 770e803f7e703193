"""The whole objective against Algorithms 1 and 2, position by position."""

from typing import Any

import pytest
import torch
from support.literal import literal_objective

from switchkd.errors import RecipeError
from switchkd.losses.objective import Objective, Sums
from switchkd.models.passes import Pass, Passes
from switchkd.recipes.recipe import METHODS, Distillation, Stage

ALL = Stage(distill=True)


def objective(batch: dict[str, Any], **change) -> Sums:
    """The terms of a batch, whose logits stand by the names of their passes."""
    passes = {name: batch.get(f"{name}_logits") for name in ("student", "teacher", "switch")}
    passes = {name: Pass(logits) for name, logits in passes.items() if logits is not None}
    return Objective(Distillation(**change), ALL)(
        Passes(targets=batch["targets"], switch_rows=batch.get("switch_rows"), **passes)
    )


def a_batch(positions: int = 6, size: int = 25, seed: int = 0, dtype=torch.float64) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    rows = torch.arange(positions) % 3 != 1  # every third position belongs to a text-only sample
    shapes = {"student_logits": positions, "teacher_logits": positions, "switch_logits": int(rows.sum())}
    batch: dict[str, Any] = {name: (3 * torch.randn(n, size, generator=random)).to(dtype) for name, n in shapes.items()}
    batch["student_logits"].requires_grad_()
    batch["switch_logits"].requires_grad_()
    return batch | {"targets": torch.randint(0, size, (positions,), generator=random), "switch_rows": rows}


def literal(options: Distillation, batch: dict[str, Any]) -> dict[str, Any]:
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
    fast, slow = a_batch(), a_batch()
    terms, expected = objective(fast, **change), literal(Distillation(**change), slow)
    for name, value in expected.items():
        torch.testing.assert_close(terms.total if name == "total" else terms.terms[name], value)
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
    totals = {objective(a_batch(), **change).total.item() for change in changes}
    assert len(totals) == len(changes)


def test_terms_are_float32_sums_of_half_precision_logits():
    batch = a_batch(dtype=torch.bfloat16)
    terms = objective(batch)
    assert list(terms.terms) == ["ce", "align", "vsd"]
    for value in (terms.total, *terms.terms.values()):
        assert value.dtype == torch.float32 and value.shape == ()
    expected = literal(Distillation(), batch)
    torch.testing.assert_close(terms.total.double(), expected["total"], rtol=1e-5, atol=1e-5)
    assert {name: values.shape for name, values in terms.measures.items()} == {"k_teacher": (6,), "k_student": (6,)}
    assert not terms.measures["k_teacher"].requires_grad


def test_sums_add_up_over_parts_of_a_batch():
    whole = a_batch(positions=6)
    first = {name: value[:4] for name, value in whole.items() if name not in ("switch_logits", "switch_rows")}
    last = {name: value[4:] for name, value in whole.items() if name not in ("switch_logits", "switch_rows")}
    together, *parts = (objective(each, lambda_switch=0.0).total for each in (whole, first, last))
    torch.testing.assert_close(sum(parts), together)


def test_without_a_teacher_it_is_the_cross_entropy():
    batch = a_batch()
    terms = objective({name: batch[name] for name in ("student_logits", "targets")})
    expected = torch.nn.functional.cross_entropy(batch["student_logits"], batch["targets"], reduction="sum")
    assert terms.total.item() == terms.terms["ce"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert (terms.terms["align"].item(), terms.terms["vsd"].item(), terms.measures) == (0.0, 0.0, {})


def test_text_only_positions_have_no_switch_term():
    batch = a_batch()
    without = objective(batch | {"switch_logits": None, "switch_rows": None})
    assert without.terms["vsd"].item() == 0.0
    none = torch.zeros(0, 25, dtype=torch.float64, requires_grad=True)
    terms = objective(batch | {"switch_logits": none, "switch_rows": torch.zeros(6, dtype=torch.bool)})
    assert terms.terms["vsd"].item() == 0.0
    assert terms.total.item() == without.total.item()


def test_gradients_keep_to_their_pathway():
    batch = a_batch()
    objective(batch).terms["vsd"].backward()
    assert batch["student_logits"].grad is None and batch["switch_logits"].grad.abs().max() > 0
    batch = a_batch()
    objective(batch).terms["align"].backward()
    assert batch["switch_logits"].grad is None and batch["student_logits"].grad.abs().max() > 0


@pytest.mark.parametrize(
    "weight, term, name", [("lambda_align", "align", "teacher_logits"), ("lambda_switch", "vsd", "switch_logits")]
)
def test_a_weight_of_zero_skips_the_term(weight, term, name):
    """Logits that the term would refuse go unread."""
    batch = a_batch()
    without = {"lambda_align": 0.0, "lambda_switch": 0.0}
    batch[name] = batch[name] * torch.nan
    terms = objective(batch, **without)
    assert terms.terms[term].item() == 0.0
    assert terms.total.item() == terms.terms["ce"].item()
    with pytest.raises(Exception, match="NaN"):
        objective(batch, **(without | {weight: 1.0}))


@pytest.mark.parametrize("method", METHODS)
def test_no_positions_give_zero_with_a_graph(method):
    batch = a_batch(positions=0)
    terms = objective(batch, method=method)
    assert terms.total.item() == 0.0
    terms.total.backward()
    assert batch["student_logits"].grad.shape == (0, 25)


def test_switch_logits_that_fit_no_rows_are_refused():
    batch = a_batch()
    with pytest.raises(ValueError, match="need the teacher"):
        objective(batch | {"switch_rows": None})
    with pytest.raises(ValueError, match="need the teacher"):
        objective(batch | {"teacher_logits": None})
    with pytest.raises(ValueError, match="don't match"):
        objective(batch | {"switch_rows": torch.ones(6, dtype=torch.bool)})


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
        Objective(Distillation(**change), ALL)
