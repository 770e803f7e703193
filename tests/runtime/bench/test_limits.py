"""Limits for an export: what passes, what fails, and what can't be told, which fails too."""

import pytest
from support.benches import fixed_bench

from switchkd.runtime.bench.limits import failed, judge


def answers(lost, won=0, total=1000, right=600):
    """The reference's answers and a variant's, which differ in so many questions."""
    reference = [True] * right + [False] * (total - right)
    return reference, [False] * lost + [True] * (right - lost + won) + [False] * (total - right - won)


def judged(lost=0, won=0, total=1000, **settings):
    right = 6 * total // 10
    reference, variant = answers(lost, won, total, right)
    bench = fixed_bench({"student": reference, "onnx-q8": variant}, **settings)
    assert "student" not in bench["limits"]  # nobody ships it
    return bench, bench["limits"]["onnx-q8"]


@pytest.mark.parametrize(
    ("lost", "won", "total", "outcome", "words"),
    [
        (5, 5, 1000, "pass", "points lost against student: 0.0 (-0.7 to 0.7, 95 %, 1,000 questions); 2 are allowed"),
        (60, 0, 1000, "fail", "points lost against student: 6.0"),
        (10, 10, 100, "can't tell", "they can't tell that, about"),
        (30, 0, 1000, "can't tell", "more questions would hardly help"),  # 3.0 measured, but 1.9 to 4.2
    ],
)
def test_a_loss_passes_only_where_the_questions_show_it(lost, won, total, outcome, words):
    bench, found = judged(lost, won, total, max_loss=2.0)
    (check,) = found["checks"]
    assert (check["outcome"], check["value"]) == (outcome, pytest.approx(100 * (lost - won) / total))
    assert found["passed"] == (outcome == "pass") == (not failed(bench))
    assert words in check["reason"]


def test_enough_questions_tell_what_few_cannot():
    """The number that is named does, at the same shares of disagreement."""
    _, few = judged(2, 2, 100, max_loss=2.0)
    assert few["checks"][0]["outcome"] == "can't tell"
    number = int(few["checks"][0]["reason"].split("about ")[1].split()[0].replace(",", ""))
    scale = -(-number // 100)
    assert 1 < scale < 40
    _, many = judged(2 * scale, 2 * scale, 100 * scale, max_loss=2.0)
    assert many["passed"]


@pytest.mark.parametrize(
    ("allowed", "noise", "outcome"),
    [
        (21.0, 0.02, "pass"),
        (20.1, 0.02, "can't tell"),
        (19.0, 0.02, "fail"),
        (20.1, None, "pass"),
        (19.9, None, "fail"),
    ],
)
def test_a_time_is_judged_with_its_noise(allowed, noise, outcome):
    _, found = judged(max_ms=allowed, noise=noise)  # 20 ms
    assert found["checks"][0]["outcome"] == outcome and found["checks"][0]["value"] == pytest.approx(20)


def test_every_limit_is_judged_and_each_failure_is_a_line():
    bench, found = judged(max_ms=1.0, max_mb=0.5, max_loss=5.0)
    assert [check["limit"] for check in found["checks"]] == ["max_loss", "max_ms", "max_mb"]
    assert not found["passed"] and [line.split(":")[0] for line in failed(bench)] == ["onnx-q8 fails"] * 2
    assert "its weights take 1.0 MB; 0.5 are allowed" in failed(bench)[1]
    _, held = judged(max_mb=1.0)
    assert held["passed"]
    assert fixed_bench({"student": [True], "onnx-q8": [True]})["limits"] is None


def test_what_wasnt_measured_fails_and_a_reference_loses_nothing():
    bench = fixed_bench({"onnx-q8": [True, False], "gguf-q4": [True, True]}, reference="onnx-q8", max_loss=1.0)
    assert bench["limits"]["onnx-q8"]["passed"]
    del bench["variants"]["gguf-q4"]["quality"]
    (check,) = judge(bench)["gguf-q4"]["checks"]
    assert check["outcome"] == "fail" and check["reason"] == "nothing was measured of it"
