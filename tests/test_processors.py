"""What benchmarks/processors.py calls the same answers on another processor, and what not."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "benchmarks/processors.py"


@pytest.fixture(scope="module")
def processors():
    spec = importlib.util.spec_from_file_location("processors", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(**changed):
    """Two questions of up to three tokens, one clearly ahead, one nearly tied."""
    logits = np.random.default_rng(0).normal(size=(2, 50))
    made = {
        "tokens": np.array([[4, 5, -1], [7, 8, 9]]),
        "lead": np.array([[1.0, 1.0, 0.0], [1.0, 0.01, 1.0]]),
        "features": np.ones((2, 3, 4)),
        "logits": logits,
        "seconds": np.array(0.5),
    }
    return made | changed


@pytest.mark.parametrize(
    ("changed", "fine", "shown"),
    [
        ({}, True, "5/5 | 0"),
        ({"tokens": np.array([[4, 5, -1], [7, 1, 2]])}, True, "3/4 | 1"),  # a near tie, and nothing behind it
        ({"tokens": np.array([[4, 6, -1], [7, 8, 9]])}, False, "4/5 | 0"),
        ({"logits": 1.0001 * answers()["logits"]}, True, "5/5 | 0"),
        ({"logits": 1.2 * answers()["logits"]}, False, "5/5 | 0"),  # the same first choices, other probabilities
    ],
)
def test_what_counts_as_the_same(tmp_path, processors, changed, fine, shown):
    np.savez(tmp_path / "variant.npz", **answers(**changed))
    row, same = processors.compare_one(answers(), tmp_path / "variant.npz")
    assert row.startswith(shown) and same == fine


def test_a_refusal_is_fine_and_a_crash_is_not(tmp_path, processors):
    assert processors.compare_one(answers(), tmp_path / "variant.npz") == ("crashed | | | | | ", False)
    (tmp_path / "variant.txt").write_text("It lacks AVX2.")
    assert processors.compare_one(answers(), tmp_path / "variant.npz") == ("refused: It lacks AVX2. | | | | | ", True)


def test_divergence_is_that_of_a_literal_sum(processors):
    one, other = np.random.default_rng(1).normal(size=(2, 3, 20))
    rows = []
    for mine, yours in zip(one, other, strict=True):
        p, q = np.exp(mine) / np.exp(mine).sum(), np.exp(yours) / np.exp(yours).sum()
        rows.append(sum(p[at] * np.log(p[at] / q[at]) for at in range(20)))
    assert processors.divergence(one, other) == pytest.approx(np.mean(rows), rel=1e-9)
