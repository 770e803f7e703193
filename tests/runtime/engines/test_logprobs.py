"""Tokens' scores against a literal softmax."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from switchkd.runtime.engines.logprobs import Scored, score
from switchkd.runtime.engines.sampler import Sampler
from switchkd.runtime.engines.sampling import Sampling


@settings(max_examples=200, deadline=None)
@given(seed=some.integers(0, 10**6), size=some.integers(2, 400), top=some.integers(0, 20), scale=some.floats(0.1, 40))
def test_scores_are_a_softmax(seed, size, top, scale):
    logits = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    token = seed % size
    exact = logits.astype(np.float64)
    exact = exact - exact.max()
    exact -= np.log(np.exp(exact).sum())
    found = score(logits, token, top)
    assert found.token == token and abs(found.logprob - exact[token]) < 1e-4
    order = sorted(range(size), key=lambda each: -exact[each])[:top]
    assert [each for each, _ in found.top] == order
    np.testing.assert_allclose([value for _, value in found.top], exact[order], atol=1e-4)


def test_what_was_drawn_is_scored_by_the_model_alone():
    """Whatever temperature and penalties make of it."""
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    choose = Scored(Sampler(Sampling(temperature=50, repetition_penalty=9, seed=1), [0, 1]), 3)
    for _ in range(8):
        token = choose(logits)
        assert choose.last == score(logits, token, 3)
