"""Drawn tokens against transformers' own processors, against a literal distribution by chi-square, and by seed."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import chisquare
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import logits_process as theirs

from switchkd.models.vlm import load_vlm
from switchkd.runtime.engines.sampler import Sampler, _place, best, candidates
from switchkd.runtime.engines.sampling import SETTINGS, Sampling

VOCABULARY = 60
COMBINED = {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02}
PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.3}
PROMPT = [3, 5, 5, 58, 1000]  # the last has no logit, as a picture's token may have none
CASES = [
    {"temperature": 1},
    {"temperature": 0.5},
    {"temperature": 3},
    {"temperature": 1, "top_k": 5},
    {"temperature": 1, "top_p": 0.6},
    {"temperature": 1, "min_p": 0.2},
    {"temperature": 2, "top_k": 12, "top_p": 0.8},
    COMBINED,
    {"temperature": 1, "repetition_penalty": 1.5},
    {"temperature": 1, "frequency_penalty": 0.9},
    {"temperature": 1, "presence_penalty": 1.2},
    {**COMBINED, **PENALTIES},
]


def logits_of(seed, size=VOCABULARY, spread=2.0):
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def literal(logits, sampling, prompt=(), said=()):
    """The distribution [V], float64, one step after the other in the documented order."""
    scores = [float(logit) for logit in logits]
    for token in {*prompt, *said}:
        if token < len(scores):
            score = scores[token]
            scores[token] = score * sampling.repetition_penalty if score < 0 else score / sampling.repetition_penalty
    for token, count in Counter(said).items():
        scores[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    scores = [score / sampling.temperature for score in scores]
    kept = sorted(range(len(scores)), key=lambda token: -scores[token])
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    weights = {token: np.exp(scores[token] - scores[kept[0]]) for token in kept}
    total, mass = sum(weights.values()), 0.0
    for token in kept:
        if mass >= sampling.top_p * total:
            del weights[token]
        else:
            mass += weights[token]
    weights = {token: weight for token, weight in weights.items() if weight >= sampling.min_p}
    result = np.zeros(len(scores))
    result[list(weights)] = list(weights.values())
    return result / result.sum()


def chances(logits, sampling):
    tokens, weights = candidates(logits, sampling)
    result = np.zeros(len(logits))
    result[slice(None) if tokens is None else tokens] = weights
    return result / result.sum()


def processors(sampling):
    """transformers' own, in transformers' own order."""
    made = [
        theirs.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        theirs.TemperatureLogitsWarper(sampling.temperature),
        theirs.TopKLogitsWarper(sampling.top_k or 10**6),
        theirs.TopPLogitsWarper(sampling.top_p),
        theirs.MinPLogitsWarper(sampling.min_p),
    ]
    return LogitsProcessorList(made)


def test_the_order_is_the_order_of_transformers(shelf):
    """Of the model's own list, so that a change there is seen, and of our fields."""
    vlm = load_vlm(shelf.checkpoint())
    config = GenerationConfig(do_sample=True, **{**COMBINED, "repetition_penalty": 1.3})
    config._eos_token_tensor = None
    made = vlm._get_logits_processor(config, input_ids_seq_length=4, device="cpu", logits_processor=[])
    assert [type(each) for each in made] == [type(each) for each in processors(Sampling(**COMBINED))]
    names = ["repetition_penalty", "temperature", "top_k", "top_p", "min_p"]
    assert [setting.name for setting in SETTINGS if setting.name in names] == names


@settings(max_examples=150, deadline=None)
@given(
    seed=some.integers(0, 10**6),
    size=some.sampled_from([2, 7, 60, 3000]),
    spread=some.sampled_from([0.3, 2.0, 6.0]),
    temperature=some.floats(0.2, 3),
    top_k=some.sampled_from([0, 1, 5, 40, 2999]),
    top_p=some.sampled_from([0.05, 0.5, 0.9, 0.99, 1.0]),
    min_p=some.sampled_from([0.0, 0.02, 0.5, 1.0]),
    penalty=some.sampled_from([1.0, 0.7, 1.6]),
)
def test_what_may_be_drawn_is_what_transformers_leaves(seed, size, spread, temperature, top_k, top_p, min_p, penalty):
    logits, prompt = logits_of(seed, size, spread), [token for token in PROMPT if token < size]
    sampling = Sampling(penalty, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    scores = processors(sampling)(torch.tensor([prompt or [0]]), torch.from_numpy(logits.astype(np.float64))[None])
    expected = scores.softmax(-1)[0].numpy()
    found = chances(Sampler(sampling, prompt or [0])._penalized(logits), sampling)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_come_as_often_as_they_should(case):
    """Chi-square over first tokens, and over tokens after others that were said."""
    sampling, logits, draws = Sampling(**case), logits_of(7), 1000
    for said in ([], [4, 5, 5, 9]):
        counts = np.zeros(VOCABULARY)
        for seed in range(draws):
            sampler = Sampler(Sampling(**case, seed=seed), PROMPT)
            sampler._said.update(said)
            counts[sampler(logits)] += 1
        expected = draws * literal(logits, sampling, PROMPT, said)
        assert counts[expected == 0].sum() == 0
        usual = expected >= 5
        rare = (counts[~usual].sum(), expected[~usual].sum())
        seen, wanted = (np.append(values[usual], rest) for values, rest in zip((counts, expected), rare, strict=True))
        likely = wanted > 0
        if likely.sum() > 1:
            assert chisquare(seen[likely], wanted[likely]).pvalue > 1e-3


@settings(max_examples=200, deadline=None)
@given(seed=some.integers(0, 10**6), size=some.integers(1, 2000), chance=some.floats(0, 1, exclude_max=True))
def test_a_place_is_found_as_by_a_plain_sum(seed, size, chance):
    weights = np.random.default_rng(seed).random(size).astype(np.float32) ** 8
    weights[:: 1 + seed % 7] = 0
    weights[-1] += weights.sum() == 0
    sums = weights.astype(np.float64).cumsum()
    place, wanted = _place(weights, chance), chance * sums[-1]
    before = sums[place] - weights[place]
    assert weights[place] > 0 and before - 1e-5 * sums[-1] <= wanted <= sums[place] + 1e-5 * sums[-1]


def test_seeds_repeat_and_differ():
    logits = [logits_of(seed) for seed in range(12)]

    def answer(sampling):
        sampler = Sampler(sampling, PROMPT)
        return [sampler(each) for each in logits]

    drawn = Sampling(temperature=1, seed=3)
    assert answer(drawn) == answer(drawn) == answer(drawn.numbered(0))
    others = [answer(Sampling(temperature=1, seed=seed)) for seed in (4, -3, 3 << 70)]
    others += [answer(drawn.numbered(index)) for index in (1, 2)] + [answer(Sampling(temperature=1)) for _ in range(2)]
    assert len(set(map(tuple, [answer(drawn), *others]))) == 1 + len(others)


def test_without_a_temperature_the_best_is_taken():
    logits = logits_of(1)
    kept = logits.copy()
    for case in ({}, {"top_p": 0.1}, {"top_k": 3, "seed": 1}):
        assert Sampling(**case).greedy and Sampler(Sampling(**case), PROMPT)(logits) == best(logits) == logits.argmax()
    assert Sampler(Sampling(temperature=1e-45))(logits) == best(logits)
    sampler = Sampler(Sampling(presence_penalty=2, frequency_penalty=2, repetition_penalty=1.5))
    penalized = [sampler(logits) for _ in range(4)]
    assert penalized[0] == best(logits) and len(set(penalized)) > 1
    assert (logits == kept).all()


def test_tokens_that_cannot_be_said_are_not():
    logits = np.full(VOCABULARY, -np.inf, np.float32)
    logits[[4, 9]] = 1.0, 0.5
    for case in CASES:
        sampler = Sampler(Sampling(**case, seed=1), PROMPT)
        assert {sampler(logits) for _ in range(40)} <= {4, 9}, case


@pytest.mark.parametrize(
    "case",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": -0.1}, {"top_k": -1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(case):
    (name,) = case
    with pytest.raises(ValueError, match=f"'{name}' is a number"):
        Sampling(**case)
