"""Percentiles, their rule, noise and ratios against scipy, numpy and hand-worked values."""

import numpy as np
import pytest
from scipy import stats

from switchkd.runtime.bench.statistics import QUANTILES, drift, noise, percentile, ratio, summarise


@pytest.mark.parametrize("name", QUANTILES)
def test_percentiles_are_scipys(name):
    values = np.random.default_rng(0).lognormal(size=7000)
    expected = stats.mstats.mquantiles(values, QUANTILES[name], alphap=1, betap=1)[0]
    assert percentile(values.tolist(), name) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "needed"), [("p50", 1), ("p90", 64), ("p99", 662), ("p99.9", 6636)])
def test_a_percentile_needs_mlperfs_number_of_samples(name, needed):
    assert percentile([1.0] * needed, name) == 1.0
    assert percentile([1.0] * (needed - 1), name) is None


def test_a_summary_by_hand():
    summary = summarise([float(value) for value in range(1, 101)])
    assert summary["n"] == 100 and summary["mean"] == 50.5 and summary["max"] == 100.0
    assert summary["p50"] == 50.5 and summary["p90"] == pytest.approx(90.1)
    assert summary["p99"] is None and summary["p99.9"] is None


def test_nothing_measured():
    assert {value for key, value in summarise([]).items() if key != "n"} == {None}


def test_noise_is_students_interval_of_ten_blocks_medians():
    values = np.random.default_rng(1).normal(10, 1, 500)
    medians = np.median(values.reshape(10, 50), axis=1)
    low, high = stats.t.interval(0.95, 9, medians.mean(), stats.sem(medians))
    assert noise(values.tolist()) == pytest.approx((high - low) / 2 / np.median(values), rel=1e-4)


def test_noise_sees_slow_changes_that_shuffling_hides():
    slow = np.repeat([10.0, 14.0], 250) + np.random.default_rng(2).normal(0, 0.1, 500)
    shuffled = np.random.default_rng(3).permutation(slow)
    assert noise(slow.tolist()) > 0.1
    assert drift(slow.tolist()) == pytest.approx(0.4, abs=0.01)
    assert abs(drift(shuffled.tolist())) < abs(drift(slow.tolist()))


def test_noise_covers_the_true_median():
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        values = random.lognormal(sigma=0.3, size=200)
        covered += abs(np.median(values) - 1) <= noise(values.tolist()) * np.median(values)
    assert 0.91 < covered / 400 < 0.99


def test_too_few_for_noise():
    assert noise([1.0] * 9) is None and drift([1.0] * 9) is None
    assert noise([1.0] * 10) == 0.0


def test_ratio_by_hand():
    assert ratio(3.0, 2.0, 0.03, 0.04) == (1.5, pytest.approx(0.05))
    assert ratio(3.0, 2.0, None, 0.04) == (1.5, None)
    assert ratio(1.0, 4.0, 0.0, 0.0) == (0.25, 0.0)
