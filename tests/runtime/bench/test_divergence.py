"""The divergence against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import rel_entr, softmax

from switchkd.runtime.bench.divergence import divergence, entropy, summarise_divergence
from switchkd.runtime.bench.statistics import SAMPLES_NEEDED


def test_divergence_equals_scipy():
    random = np.random.default_rng(0)
    p, q = random.normal(0, 3, (2, 20, 50)).astype(np.float32)
    expected = rel_entr(softmax(p.astype(float), -1), softmax(q.astype(float), -1)).sum(-1)
    np.testing.assert_allclose(divergence(p, q), expected, rtol=1e-6)
    assert np.abs(divergence(p, p + 5)).max() < 1e-6


def test_divergence_by_hand():
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    np.testing.assert_allclose(divergence(p, q), 0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def test_entropy_equals_scipy():
    logits = np.random.default_rng(1).normal(0, 3, (37, 50)).astype(np.float32)
    np.testing.assert_allclose(entropy(logits), stats.entropy(softmax(logits.astype(float), -1), axis=-1), rtol=1e-6)


@pytest.mark.parametrize("count", [1, SAMPLES_NEEDED["p99"] - 1, SAMPLES_NEEDED["p99"]])
def test_a_p99_is_told_with_enough_positions_alone(count):
    values = np.random.default_rng(0).exponential(size=count)
    summary = summarise_divergence(values.tolist(), (values < 1).tolist())
    assert summary["kl_p99"] == (np.quantile(values, 0.99) if count >= SAMPLES_NEEDED["p99"] else None)
    assert (summary["positions"], summary["kl_max"]) == (count, values.max())
    assert summary["kl_mean"] == pytest.approx(values.mean()) and summary["top1"] == np.mean(values < 1)
