"""Whole benches of real exports, each variant in its own process."""

import json
import math
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from support.benches import SETTINGS, bench

from switchkd.data.questions import read_questions
from switchkd.export.parity import measure_loss, refer_all
from switchkd.export.samples import Sample
from switchkd.passages import PROVING, passages
from switchkd.runtime.bench import reading, runner
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.bench.measurement import Bench, Measurement
from switchkd.runtime.bench.session import Session
from switchkd.runtime.bench.summary import summarise_bench
from switchkd.runtime.bench.tables import grids
from switchkd.runtime.engines.opening import open_checkpoint, open_engine

# One worker runs them all: the models that they share take half a minute to make.
pytestmark = pytest.mark.xdist_group("bench")


def test_what_is_measured_in_turns(models, questions):
    whole = bench(models, questions)
    assert whole.failures() == [] and whole.reference == "onnx-fp32" and not whole.interrupted
    summary = json.loads(json.dumps(summarise_bench(whole)))
    for name, each in summary["variants"].items():
        measured = whole.measurements[name]
        latency = each["latency"]
        assert Counter(request.question for request in measured.requests) == Counter(range(12))
        assert latency["warm_up"] == 2 and latency["load"] > 0 and latency["first_answer"] > 0
        for phase in ("preprocess", "encode", "prefill", "first_token", "answer"):
            assert latency[phase]["n"] == 12 and 0 < latency[phase]["p50"] <= latency[phase]["max"]
            assert latency[phase]["p90"] is None
        for request in measured.requests:
            seconds = request.seconds
            parts = seconds["preprocess"] + seconds["encode"] + seconds["prefill"]
            assert parts <= seconds["first_token"] and seconds["first_token"] + seconds["decode"] <= seconds["answer"]
        assert each["memory"]["peak"] >= each["memory"]["loaded"] > 10 << 20
        sizes = [path.stat().st_size for path in (models / name / "onnx").glob("*.onnx*")]
        assert each["files"]["weights"] == sum(sizes) > 0
        assert each["quality"]["accuracy"]["all"]["total"] == 12
        assert set(each["quality"]["accuracy"]) == {"car", "light", "all"}
    assert summary["settings"]["reference"] == "onnx-fp32" and None not in summary["machine"]["conditions"]["load"]


def test_answers_are_the_engines_and_divergence_is_the_exporters(models, questions):
    """The figures against the same ones by the export's own comparison."""
    whole = bench(models, questions, ("student", "onnx-q8"), max_tokens=16, divergence=192, questions=12)
    assert whole.reference == "student" and whole.failures() == []
    samples = [
        Sample(question.messages, question.images, question.answer)
        for question in read_questions(questions, questions.parent / "images")
    ]
    with open_checkpoint(models / "student", threads=1) as engine:
        references = refer_all(engine, models / "student", samples, every=0)
    with open_engine(models / "onnx-q8", threads=1, context=512) as engine:
        expected = measure_loss(engine, references)
        answers = [engine.answer(sample.messages, *sample.images(), max_new_tokens=16) for sample in samples]
    quality = summarise_bench(whole)["variants"]["onnx-q8"]["quality"]
    assert [whole.measurements["onnx-q8"].answers()[index] for index in range(12)] == answers
    assert quality["divergence"]["positions"] == expected["positions"]
    for key in ("kl_mean", "kl_max", "top1"):
        assert quality["divergence"][key] == pytest.approx(expected[key], rel=1e-5)
    assert quality["accuracy"]["all"]["accuracy"] == pytest.approx(expected["accuracy"])
    assert quality["difference"]["accuracy"] == pytest.approx(expected["accuracy"] - expected["reference_accuracy"])


def test_text_is_read_beside_the_reference(models, questions, monkeypatch):
    """The figures against the export's own comparison, as if counting told even less than random weights do."""
    assert bench(models, questions, divergence=0).text is None
    found = summarise_bench(bench(models, questions))["variants"]
    assert not found["onnx-fp32"]["quality"]["text"]["can_read"]
    assert found["onnx-q8"]["quality"]["text"]["positions"] == 0
    monkeypatch.setattr(reading, "counting_perplexity", lambda *_: math.inf)
    turns, alone = (summarise_bench(bench(models, questions, sequential=each))["variants"] for each in (False, True))
    text = turns["onnx-q8"]["quality"]["text"]
    assert text == alone["onnx-q8"]["quality"]["text"]
    with (
        open_engine(models / "onnx-fp32", threads=1) as reference,
        open_engine(models / "onnx-q8", threads=1) as engine,
    ):
        pieces = passages(reference.prompt, PROVING, context=512)
        rows = [[each.language.prefill(ids, every=True) for ids in pieces] for each in (reference, engine)]
    expected = np.concatenate([divergence(p, q) for p, q in zip(*rows, strict=True)])
    # The reference is kept in float16: half a thousandth of each log-probability.
    assert text["positions"] == len(expected) and text["kl_mean"] == pytest.approx(expected.mean(), rel=2e-2)
    assert any(grid.title == "Text" for grid in grids({"variants": turns, "settings": {"reference": "onnx-fp32"}}))


def test_sequential_gives_the_same_quality(models, questions):
    turns, alone = (summarise_bench(bench(models, questions, sequential=each))["variants"] for each in (False, True))
    for name in turns:
        assert turns[name]["quality"] == alone[name]["quality"]


def test_the_order_is_random_by_seed_and_turns_are_shuffled(models, questions, monkeypatch):
    asked = []
    call = Session.call
    monkeypatch.setattr(
        Session,
        "call",
        lambda self, operation, **kw: (asked.append((operation, self.name)), call(self, operation, **kw))[1],
    )
    whole = bench(models, questions, questions=24)
    order = [request.question for request in whole.measurements["onnx-q8"].requests]
    assert order == [request.question for request in whole.measurements["onnx-fp32"].requests]
    assert sorted(order[:12]) == list(range(12)) != order[:12]
    turns = [name for operation, name in asked if operation == "ask"][4:]
    waits = [name for operation, name in asked if operation == "wait_until_idle"]
    assert waits == turns  # after each request that counts, before the next engine's
    pairs = {tuple(turns[index : index + 2]) for index in range(0, len(turns), 2)}
    assert pairs == {("onnx-fp32", "onnx-q8"), ("onnx-q8", "onnx-fp32")}
    assert whole.measurements["onnx-q8"].answers().keys() == set(range(12))


def test_distributions_are_compared_until_there_are_enough(models, questions):
    whole = bench(models, questions, divergence=9)
    compared = list(whole.measurements["onnx-q8"].divergences.by_question.values())
    assert sum(len(kl) for kl, _ in compared) >= 9 > sum(len(kl) for kl, _ in compared[:-1])
    assert bench(models, questions, divergence=0, questions=2).measurements["onnx-q8"].divergences.by_question == {}


def test_watts_are_of_the_seconds_that_the_joules_are_of(models, questions, monkeypatch):
    """A meter of 10 W, whose clock is the wall's: the round trip's joules aren't divided by the engine's seconds."""

    class TenWatts:
        name = "made up"

        def joules(self):
            return 10 * time.perf_counter()

        def close(self):
            pass

    monkeypatch.setattr(runner, "open_meter", TenWatts)
    call = Session.call

    def slow(self, operation, **arguments):
        end = time.perf_counter() + 0.02 * (operation == "ask")
        while time.perf_counter() < end:
            pass
        return call(self, operation, **arguments)

    monkeypatch.setattr(Session, "call", slow)
    whole = bench(models, questions, ("onnx-q8",))
    energy = summarise_bench(whole)["variants"]["onnx-q8"]["energy"]
    assert energy["watts"] == pytest.approx(10, rel=0.05) and energy["joules_per_answer"] > 0.2


def test_time_decides_the_number_of_questions_but_a_few_are_always_asked(models, questions, monkeypatch):
    monkeypatch.setattr(runner, "LEAST", 3)
    assert {len(each.requests) for each in bench(models, questions, questions=None).answered()} == {3}
    whole = bench(models, questions, questions=None, seconds=600.0)
    assert {len(each.requests) for each in whole.answered()} == {12}


def test_a_camera_in_front_of_a_real_engine(models, questions):
    whole = bench(models, questions, ("onnx-q8",), scenario="camera", minutes=0.02)
    each = summarise_bench(whole)["variants"]["onnx-q8"]
    assert whole.failures() == []
    assert each["camera"]["frames"] == 24 == each["camera"]["answered"] + each["camera"]["dropped"]
    assert each["memory"]["growth"]["verdict"] == "too short to tell" and each["memory"]["peak"] > 10 << 20
    assert each["latency"]["warm_up"] == 12 and "quality" not in each


def test_a_camera_measures_energy(models, questions, monkeypatch):
    class TwoWatts:
        name = "made up"

        def joules(self):
            return 2 * time.perf_counter()

        def close(self):
            pass

    monkeypatch.setattr(runner, "open_meter", TwoWatts)
    whole = bench(models, questions, ("onnx-q8",), scenario="camera", minutes=0.005)
    (each,) = summarise_bench(whole)["variants"].values()
    assert each["energy"]["watts"] == pytest.approx(2, rel=0.01) and each["energy"]["joules_per_answer"] > 0
    assert whole.reference == ""


@pytest.mark.parametrize(("scenario", "first"), [("camera", {"a", "b", "c"}), ("single", {"a"})])
def test_variants_alone_come_in_random_order_by_seed(tmp_path, scenario, first):
    """But the reference first, whose answers the others are compared along."""
    names = ["a", "b", "c"]
    orders = set()
    for seed in range(40):
        settings = replace(SETTINGS, scenario=scenario, sequential=scenario == "single", seed=seed)
        empty = Bench(settings, [], tmp_path, "", {name: Measurement(name, tmp_path) for name in names})
        groups = runner.Runner(empty, print, tmp_path).groups(names)
        assert sorted(name for (name,) in groups) == names
        orders.add(tuple(name for (name,) in groups))
    assert {order[0] for order in orders} == first and len(orders) == (6 if len(first) > 1 else 2)


def test_times_beside_the_reference(models, questions):
    """Of the same round; the computer's own changes cancel."""
    whole = bench(models, questions, questions=24)
    summary = summarise_bench(whole)["variants"]
    own, reference = (whole.measurements[name].requests for name in ("onnx-q8", "onnx-fp32"))
    ratios = [one.seconds["answer"] / other.seconds["answer"] for one, other in zip(own, reference, strict=True)]
    assert summary["onnx-q8"]["latency"]["beside"]["answer"]["p50"] == pytest.approx(float(np.median(ratios)))
    assert summary["onnx-fp32"]["latency"]["beside"] is None
    assert any("multiple of that of onnx-fp32" in grid.title for grid in grids(summarise_bench(whole)))
    sequential = summarise_bench(bench(models, questions, sequential=True))
    assert sequential["variants"]["onnx-q8"]["latency"]["beside"] is None
    assert not any("multiple" in grid.title for grid in grids(sequential))
