"""Scores against hand-worked values and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from switchkd.scoring import Paired, Score, is_right, mean_interval, pair, score_by_kind


def test_right_means_equal_after_normalisation():
    assert is_right("The answer", "answer") and is_right("Two", "2") and not is_right("left", "far left")
    assert is_right("none", "0") and is_right("dont walk", "Don't walk.") and is_right("t-shirt", "t shirt")


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("", "A", False),
        ("the", "a", False),
        ("", "?", False),
        ("A cat", "A", False),
        ("!", "?", False),
        ("A", "a", True),
        ("(A).", "A", True),
        (" ? ", "?", True),
        ("", "", True),
    ],
)
def test_what_normalisation_leaves_nothing_of(answer, expected, right):
    assert is_right(answer, expected) == is_right(expected, answer) == right


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("cafe\u0301", "café"),  # NFD and NFC
        ("Zu\u0308rich", "Zürich"),
        ("\u1112\u1161\u11ab", "한"),
        ("it’s", "it's"),
        ("dont", "don’t"),
        ("“yes”", "yes"),
        ("«oui»", "oui"),
        ("１２", "12"),
        ("ＳＴＯＰ", "stop"),
        ("３．５", "3.5"),
        ("yes。", "yes"),
        ("是。", "是"),
        ("a、b", "a,b"),
        ("two　cars", "2 cars"),
    ],
)
def test_signs_that_are_written_in_several_ways_are_equal(answer, expected):
    assert is_right(answer, expected) and is_right(expected, answer)


@pytest.mark.parametrize(
    ("answer", "expected"), [("²", "2"), ("½", "1/2"), ("é", "e"), ("ß", "ss"), ("①", "1"), ("３", "2")]
)
def test_other_signs_are_not(answer, expected):
    assert not is_right(answer, expected)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (7, 10), (150, 2000), (1999, 2000)])
def test_wilson_interval_is_scipys(right, total):
    reference = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert Score(right, total).interval() == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_an_empty_group_is_nan():
    assert math.isnan(Score(0, 0).accuracy) and math.isnan(Score(0, 0).interval()[0])


def test_kinds_are_counted_apart_and_together():
    scores = score_by_kind(["b", "a", "b"], [True, False, False])
    assert list(scores) == ["a", "b", "all"]
    assert (scores["a"], scores["b"], scores["all"]) == (Score(0, 1), Score(1, 2), Score(1, 3))


@pytest.mark.parametrize("count", [2, 3, 5, 10, 31])
def test_mean_interval_is_students(count):
    values = np.random.default_rng(count).normal(size=count)
    mean, half = mean_interval(values.tolist())
    reference = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("count", [50])
def test_mean_interval_of_many_is_nearly_normal(count):
    values = np.random.default_rng(0).normal(size=count).tolist()
    assert mean_interval(values)[1] == pytest.approx(1.96 * stats.sem(values), rel=1e-3)
    assert math.isnan(mean_interval([1.0])[1])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 1), (1, 5), (40, 60), (300, 200)])
def test_mcnemar_is_the_binomial_test(first, second):
    paired = Paired(first, second, 1000)
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert paired.p_value == pytest.approx(expected, rel=1e-9)
    assert paired.difference == (second - first) / 1000


def test_pairs_are_counted_by_question():
    assert pair([True, True, False, False], [True, False, True, True]) == Paired(1, 2, 4)
    with pytest.raises(ValueError):
        pair([True], [True, False])


def test_paired_interval_by_hand():
    # 10 + 1 and 4 + 1 of 100 + 2: 0.10784 and 0.04902; deviation sqrt((0.15686 - 0.05882²) / 102) = 0.038780
    low, high = Paired(only_first=10, only_second=4, total=100).interval()
    assert (low, high) == pytest.approx((-0.05882 - 1.96 * 0.03878, -0.05882 + 1.96 * 0.03878), abs=2e-5)
    assert Paired(0, 0, 1).interval() == pytest.approx((-0.9239, 0.9239), abs=1e-3)


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.1), (0.02, 0.2), (0.3, 0.05)])
def test_paired_interval_covers_the_truth_in_95_of_100(first, second):
    draws = np.random.default_rng(0).multinomial(60, [first, second, 1 - first - second], size=4000)
    inside = 0
    for one, two, _ in draws.tolist():
        low, high = Paired(one, two, 60).interval()
        inside += low <= second - first <= high
    assert 0.93 < inside / 4000 < 0.985


def test_as_many_questions_as_are_named_tell_a_difference():
    """By simulation: the intervals of four tests in five of that size leave 0 out."""
    paired = Paired(30, 12, 500)
    lost, won = 31 / 502, 13 / 502  # as `interval` counts
    number = paired.questions_for(lost - won)
    drawn = np.random.default_rng(0).multinomial(number, [lost, won, 1 - lost - won], 1000)
    bounds = [Paired(int(one), int(two), number).interval() for one, two, _ in drawn]
    assert 0.75 < sum(not low <= 0 <= high for low, high in bounds) / 1000 < 0.85
    assert paired.questions_for(0.01) == pytest.approx(4 * paired.questions_for(0.02), rel=1e-3)
