"""Quality figures from made-up answers, by hand and by scipy; tables of words; the Pareto front."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import rel_entr, softmax

from switchkd.data.questions import Question
from switchkd.runtime.bench.comparison import changes_between, compare
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.bench.figures import pareto_front
from switchkd.runtime.bench.quality import Divergences, accuracy, agreement, difference, right_answers
from switchkd.runtime.bench.tables import figure, spread

QUESTIONS = [Question(str(index), ("car", "sign")[index % 2], (Path("x.png"),), [], "two") for index in range(8)]


def test_accuracy_and_its_interval():
    right = right_answers(QUESTIONS, {0: "Two.", 1: "2", 2: "three", 5: ""})
    assert right == {0: True, 1: True, 2: False, 5: False}
    found = accuracy(QUESTIONS, right)
    expected = stats.binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert found["all"]["accuracy"] == 0.5
    assert found["all"]["interval"] == pytest.approx([expected.low, expected.high], abs=1e-6)
    assert (found["car"]["right"], found["car"]["total"], found["sign"]["right"]) == (1, 2, 1)


def test_difference_is_paired_on_the_questions_that_both_answered():
    reference = {0: True, 1: True, 2: True, 3: False, 4: False, 7: True}
    variant = {0: True, 1: False, 2: False, 3: False, 4: True, 6: True}
    found = difference(reference, variant)
    assert (found["lost"], found["won"], found["total"]) == (2, 1, 5)
    assert found["accuracy"] == pytest.approx(-0.2)
    assert found["p_value"] == pytest.approx(stats.binomtest(1, 3).pvalue)
    assert difference(reference, {}) is None
    assert agreement({0: "two", 1: "red car"}, {0: "2", 1: "blue car", 2: "x"}) == 0.5


def test_divergences_of_known_distributions():
    random = np.random.default_rng(0)
    p, q = random.normal(0, 2, (2, 700, 30)).astype(np.float32)
    expected = rel_entr(softmax(p.astype(float), -1), softmax(q.astype(float), -1)).sum(-1)
    found = Divergences()
    found.add(7, {"kl": [9.0], "same": [False]})
    for question, half in enumerate((slice(0, 300), slice(300, 700))):
        same = (p[half].argmax(-1) == q[half].argmax(-1)).tolist()
        found.add(question, {"kl": divergence(p[half], q[half]).tolist(), "same": same})
    found.leave_out(7)
    summary = found.summary()
    assert summary["kl_mean"] == pytest.approx(expected.mean(), rel=1e-5)
    assert summary["kl_p99"] == pytest.approx(stats.mstats.mquantiles(expected, 0.99, alphap=1, betap=1)[0], rel=1e-5)
    assert summary["top1"] == np.mean(p.argmax(-1) == q.argmax(-1))
    assert (summary["positions"], summary["questions"]) == (700, 2)


def test_too_few_positions_for_a_tail():
    found = Divergences()
    assert found.summary() is None
    found.add(0, {"kl": [0.1, 0.3], "same": [True, False]})
    assert found.summary()["kl_p99"] is None and found.summary()["kl_mean"] == pytest.approx(0.2)
    found.add(1, {"kl": None, "same": None})
    assert found.reason == "another vocabulary"


def test_words_for_figures():
    assert spread(None, "p99.9") == "n/a (needs 6,636)" and spread(0.0123456, "p50") == "12.3"
    assert [figure(value) for value in (None, 0.001234, 1.5, 99.94, 1234.5)] == ["–", "0.00123", "1.5", "99.9", "1,234"]


def test_the_pareto_front():
    points = [(2.0, 30.0), (1.0, 20.0), (3.0, 25.0), (2.0, 10.0), (5.0, 40.0), (1.0, 20.0)]
    assert pareto_front(points) == [(1.0, 20.0), (2.0, 30.0), (5.0, 40.0)]


def bench_json(p50, noise, cpu="A"):
    phase = {"p50": p50, "p50_noise": noise}
    latency = {"first_token": phase, "decode_token": {"p50": None, "p50_noise": None}, "answer": phase}
    return {
        "machine": {"cpu": cpu, "usable_cores": 2, "governor": None},
        "settings": {"scenario": "single", "threads": 2},
        "variants": {"v": {"latency": latency, "memory": {"peak": 1e6 * 100 * p50}}},
    }


def test_a_comparison_by_hand():
    grid = compare(bench_json(0.5, 0.03), bench_json(0.6, 0.04))
    rows = {row[0]: row[1:] for row in grid.rows}
    assert rows["v, whole answer, p50"] == ("500 ms", "600 ms", "1.200 ±0.060", "differs")
    assert rows["v, peak memory"] == ("50 MB", "60 MB", "1.200", "")
    assert "v, a token, p50" not in rows
    near = compare(bench_json(0.5, 0.03), bench_json(0.51, 0.04))
    assert near.rows[0][4] == "within noise"
    unknown = compare(bench_json(0.5, None), bench_json(0.6, 0.04))
    assert unknown.rows[0][3:] == ("1.200", "")


def test_a_comparison_tells_when_the_machine_is_another():
    assert changes_between(bench_json(1, 0), bench_json(1, 0)) == []
    (line,) = changes_between(bench_json(1, 0, "B"), bench_json(1, 0, "A"))
    assert line == "The older bench had another cpu: B instead of A."
