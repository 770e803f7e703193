"""The divergence against scipy and by hand."""

import numpy as np
from scipy.special import rel_entr, softmax

from switchkd.runtime.divergence import divergence


def test_divergence_equals_scipy():
    random = np.random.default_rng(0)
    p, q = random.normal(0, 3, (2, 20, 50)).astype(np.float32)
    expected = rel_entr(softmax(p.astype(float), -1), softmax(q.astype(float), -1)).sum(-1)
    np.testing.assert_allclose(divergence(p, q), expected, rtol=1e-6)
    assert np.abs(divergence(p, p + 5)).max() < 1e-6


def test_divergence_by_hand():
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    np.testing.assert_allclose(divergence(p, q), 0.5 * np.log(2) + 0.5 * np.log(2 / 3))
