"""What to ship by goal: the choice and its reasons, on made-up figures and on a real export."""

import pytest
from support.benches import bench, fixed_bench

from switchkd.hardware.profile import load_profile
from switchkd.runtime.bench.summary import summarise_bench
from switchkd.runtime.bench.tables import grids, verdict_lines
from switchkd.runtime.bench.verdict import recommend

STUDENT = [True] * 60 + [False] * 40


def flipped(lost, won=0):
    """The student's answers but for so many."""
    return [False] * lost + STUDENT[lost : 100 - won] + [True] * won


def goals(summary, target=None):
    verdict = recommend(summary, target)
    return {each["goal"]: each for each in verdict["goals"]}, verdict


def three(**changes):
    return fixed_bench(
        {"student": STUDENT, "onnx-q8": flipped(1), "onnx-q4": flipped(30), "gguf-q4": flipped(2, 1)},
        times={"student": 0.001, "onnx-q8": 0.010, "onnx-q4": 0.0102, "gguf-q4": 0.030},
        weights={"onnx-q8": 3e6, "onnx-q4": 1e6, "gguf-q4": 2e6},
        kl={"onnx-q8": 0.002, "onnx-q4": 0.3, "gguf-q4": 0.001},
        **changes,
    )


def test_each_goal_has_its_choice_among_the_exports():
    found, verdict = goals(three())
    assert {goal: each["choice"] for goal, each in found.items()} == {
        "first_token": "onnx-q8",  # the student is faster, but nobody ships it
        "decode_token": "onnx-q8",
        "size": "onnx-q4",
        "accuracy": "gguf-q4",  # as right as onnx-q8 by these questions, and closer to the student
    }
    assert {each["basis"] for each in found.values()} == {"measured here"}
    assert verdict["considered"] == ["onnx-q8", "onnx-q4", "gguf-q4"]


def test_what_noise_cant_tell_is_said():
    found, _ = goals(three(noise=0.02))
    assert found["first_token"]["level"] == ["onnx-q4"]
    assert "this run's noise can't tell from it onnx-q4 (10.2 ms ± 2 %)" in found["first_token"]["reasons"]
    assert "3.00 times that: gguf-q4" in found["first_token"]["reasons"]
    sure, _ = goals(three(noise=0.001))
    assert sure["first_token"]["level"] == [] and "1.02 times that: onnx-q4" in sure["first_token"]["reasons"]


def test_what_the_questions_cant_tell_is_said_with_how_many_could():
    found, _ = goals(three())
    reasons = found["accuracy"]["reasons"]
    assert found["accuracy"]["level"] == ["onnx-q8"]
    assert reasons[0] == "59.0 % of 100 questions right" and "by KL" in reasons[1]
    assert "100 questions can't tell from it onnx-q8 (±0)" in reasons[1]
    small = found["size"]["reasons"]
    assert small[:2] == ["1.0 MB of weights", "2.00 times that: gguf-q4"]
    assert small[2] == "30.0 points fewer right than student (p = 1.9e-09), told by 100 questions"
    fast = found["first_token"]["reasons"][-1]
    assert fast.startswith("1.0 points fewer right than student (p = 1): 100 questions can't tell them apart, about ")


def test_without_divergences_the_most_right_is_taken():
    summary = three()
    summary["variants"]["onnx-q8"]["quality"]["divergence"] = None
    found, _ = goals(summary)
    assert found["accuracy"]["choice"] == "onnx-q8" and "it has the most right" in found["accuracy"]["reasons"][1]


def test_limits_narrow_the_choice():
    found, verdict = goals(three(max_mb=2.5))
    assert verdict["considered"] == ["onnx-q4", "gguf-q4"] and found["first_token"]["choice"] == "onnx-q4"
    _, verdict = goals(three(max_mb=0.5))
    assert len(verdict["considered"]) == 3 and verdict["caveats"][0].startswith("No variant holds the limits")


@pytest.mark.parametrize(
    ("isa", "words"), [(("avx2",), "without VNNI"), (("avx2", "avx_vnni"), "with VNNI"), ((), None)]
)
def test_what_differs_elsewhere_is_said(isa, words):
    _, verdict = goals(three(isa=isa))
    assert any("Measured on a processor" in line and words in line for line in verdict["caveats"]) == (
        words is not None
    )


def test_a_real_bench_ends_in_a_verdict(models, questions):
    """With what `skd hardware` prefers here and predicts for a target; pairs and limits stand in the tables."""
    whole = bench(models, questions, max_loss=100.0, max_mb=1e-3, target="rk3588")
    whole.profile = load_profile("rk3588")
    summary = summarise_bench(whole)
    lines = verdict_lines(summary)
    assert [line[0] for line in lines if line[2] == "measured here"] == [
        "first token",
        "tokens after it",
        "size",
        "accuracy",
    ]
    assert [line[0] for line in lines if line[2] == "predicted for rk3588"] == [
        "first token",
        "tokens after it",
        "size",
    ]
    assert any("`skd hardware fit` prefers " in line for line in summary["verdict"]["caveats"])
    there = summary["verdict"]["predicted"]["onnx-q8"]["first_token"]
    assert 0 < there["low"] < there["value"] < there["high"]
    titles = [grid.title for grid in grids(summary)]
    assert "Every two on the same questions" in titles and "Limits" in titles
    assert not any(each["passed"] for each in summary["limits"].values())
