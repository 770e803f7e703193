"""Measures of long answers: words in common and in order, against slow literal ones and known figures."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from switchkd.overlap import (
    EXACT,
    F1,
    MEASURES,
    ROUGE_L,
    MeanScore,
    f1,
    longest_common,
    pair_means,
    rouge_l,
    usual_measure,
)


def test_known_figures():
    """Lin's own examples (2004, section 3): 3/4 and 1/2 by β = 1; and SQuAD's way of counting words."""
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(1 / 2)
    assert f1("The gunman killed the police!", "police killed gunman") == 1.0  # order and articles don't count
    assert f1("red red car", "a red car") == pytest.approx(2 * 2 / 5)  # a word as often as it stands there
    assert rouge_l("赤い車", "赤い大きな車") == pytest.approx(2 * 3 / 9)


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_common_subsequence_against_all_subsequences(seed):
    random = np.random.default_rng(seed)
    for _ in range(30):
        first, second = (list(random.choice(list("abc"), random.integers(0, 8))) for _ in range(2))

        def parts(row):
            return {
                tuple(row[i] for i in chosen)
                for n in range(len(row) + 1)
                for chosen in combinations(range(len(row)), n)
            }

        assert longest_common(first, second) == max(map(len, parts(first) & parts(second)))


@pytest.mark.parametrize("measure", MEASURES.values())
def test_of_a_single_word_all_measures_say_the_same(measure):
    pairs = [("Two.", "2"), ("yes", "no"), ("", "A"), ("A", "a"), ("?", "!")]
    assert [measure(*pair) for pair in pairs] == [MEASURES[EXACT](*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("lengths", "measure"),
    [
        ([1] * 10, EXACT),
        ([4] * 9 + [90], EXACT),
        ([5] * 10, F1),
        ([1] * 8 + [20, 20], F1),
        ([3, 21], EXACT),
        ([21], ROUGE_L),
    ],
)
def test_the_usual_measure_goes_by_nine_tenths_of_the_references(lengths, measure):
    assert usual_measure("word " * length for length in lengths) == measure


def test_means_and_their_differences_have_students_intervals():
    random = np.random.default_rng(0)
    first, second = random.random((2, 20))
    score = MeanScore(tuple(first))
    expected = stats.t.interval(0.95, 19, first.mean(), stats.sem(first))
    assert score.accuracy == pytest.approx(first.mean()) and score.interval() == pytest.approx(expected, abs=1e-5)
    paired = pair_means(list(first), list(second))
    changes = second - first
    expected = stats.t.interval(0.95, 19, changes.mean(), stats.sem(changes))
    assert paired.interval() == pytest.approx(expected, abs=1e-5) and paired.difference == pytest.approx(changes.mean())
    assert (paired.only_first, paired.only_second) == ((changes < 0).sum(), (changes > 0).sum())
    assert paired.p_value == pytest.approx(stats.binomtest(paired.only_second, 20).pvalue)
    assert MeanScore((0.5,)).interval() == (0.0, 1.0)
