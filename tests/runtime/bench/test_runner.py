"""Whole benches of real exports, each variant in its own process."""

import json
import math
import os
import re
import signal
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from switchkd.data.questions import read_questions
from switchkd.export.parity import measure_loss, run_reference
from switchkd.export.samples import Probe
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME
from switchkd.passages import PROVING, passages
from switchkd.pictures import open_image
from switchkd.runtime.bench import reading, runner
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.bench.grids import grids
from switchkd.runtime.bench.measurement import Bench, Measurement, Settings, summarise_bench
from switchkd.runtime.bench.memory import process_tree
from switchkd.runtime.bench.session import Session
from switchkd.runtime.engines.opening import open_engine

# One worker runs them all: the models that they share take half a minute to make.
pytestmark = pytest.mark.xdist_group("bench")

SETTINGS = Settings(
    scenario="single",
    device="cpu",
    threads=1,
    context=512,
    max_tokens=4,
    questions=12,
    seconds=0.0,
    warm_up=2,
    divergence=24,
    sequential=False,
    rate=20.0,
    minutes=0.02,
    seed=0,
)


def bench(models, file, names=("onnx-fp32", "onnx-q8"), watch=lambda what, share: None, **settings):
    """Runs a bench of some of the models."""
    asked = read_questions(file, file.parent / "images")
    measurements = {name: Measurement(name, models / name) for name in names}
    whole = Bench(replace(SETTINGS, **settings), asked, file, "", measurements)
    runner.run_bench(whole, watch)
    return whole


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
    probes = [
        Probe(question.messages, question.image, question.answer)
        for question in read_questions(questions, questions.parent / "images")
    ]
    references = run_reference(models / "student", probes, every=0, threads=1)
    with open_engine(models / "onnx-q8", threads=1, context=512) as engine:
        expected = measure_loss(engine, references)
        answers = [engine.answer(probe.messages, open_image(probe.picture), max_new_tokens=16) for probe in probes]
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
    rests = [name for operation, name in asked if operation == "rest"]
    assert rests == turns  # after each request that counts, before the next engine's
    pairs = {tuple(turns[index : index + 2]) for index in range(0, len(turns), 2)}
    assert pairs == {("onnx-fp32", "onnx-q8"), ("onnx-q8", "onnx-fp32")}
    assert whole.measurements["onnx-q8"].answers().keys() == set(range(12))


def damage_bytes(folder):
    path = folder / "tokenizer.json"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def newer_schema(folder):
    manifest = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps(manifest | {"schema": 999}))


def missing_file(folder):
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_bytes, r"tokenizer\.json isn't the file that was exported"),
        (newer_schema, "schema 999, newer than"),
        (missing_file, r"tokenizer\.json is missing"),
    ],
)
@pytest.mark.parametrize("bad", ["onnx-fp32", "onnx-q8"])
def test_one_bad_variant_doesnt_lose_the_others(models, questions, damage, words, bad):
    damage(models / bad)
    whole = bench(models, questions, questions=3)
    (good,) = whole.answered()
    assert good.name != bad and len(good.requests) == 3 and whole.reference == good.name
    (line,) = whole.failures()
    assert line.startswith(f"{bad}: ") and "\n" not in line
    assert re.search(words, line)
    summary = summarise_bench(whole)
    assert summary["variants"][bad]["error"] and "latency" not in summary["variants"][bad]


def test_a_process_that_dies_in_the_middle(models, questions, monkeypatch):
    """As a crash of a native library would end it; what it had measured before is kept."""
    sessions = {}
    opened = Session.__init__
    monkeypatch.setattr(
        Session, "__init__", lambda self, name, **kw: (opened(self, name, **kw), sessions.update({name: self}))[0]
    )

    def watch(what, share):
        if what == "question 5" and "onnx-q8" in sessions:
            os.kill(sessions.pop("onnx-q8").pid, signal.SIGKILL)

    whole = bench(models, questions, watch=watch)
    assert "process ended by SIGKILL" in whole.failures()[0]
    assert len(whole.measurements["onnx-q8"].requests) == 4 and len(whole.measurements["onnx-fp32"].requests) == 12
    assert summarise_bench(whole)["variants"]["onnx-q8"]["quality"]["difference"]["total"] == 4


def test_an_unreadable_picture_is_counted_and_left_out_for_all(models, questions):
    picture = questions.parent / "images" / "2.png"
    picture.write_bytes(picture.read_bytes()[:200])
    whole = bench(models, questions)
    assert sorted(whole.left_out) == [2, 6, 10]
    for each in whole.measurements.values():
        assert each.error is None and sorted(each.answers()) == [0, 1, 3, 4, 5, 7, 8, 9, 11]
    assert [line[:12] for line in sorted(whole.failures())] == ["question q10", "question q2 ", "question q6 "]
    assert all("2.png" in line for line in whole.failures())
    assert {entry["id"] for entry in summarise_bench(whole)["settings"]["unreadable"]} == {"q2", "q6", "q10"}


@pytest.mark.parametrize("sequential", [False, True])
def test_a_prompt_too_long_for_one_is_left_out_for_all(models, questions, sequential):
    """Question 11 is the longest by ten tokens; the second variant's context has no room for it."""
    records = json.loads(questions.read_text())
    records[11]["conversations"][0]["value"] += " red" * 10
    questions.write_text(json.dumps(records))
    with open_engine(models / "onnx-q8", threads=1, verify=False) as engine:
        asked = read_questions(questions, questions.parent / "images")
        *others, longest = sorted(len(engine.encode_prompt(question.messages)) for question in asked)
    assert longest > others[-1] + 2
    manifest = json.loads((models / "onnx-q8" / FILE_NAME).read_text())
    (models / "onnx-q8" / FILE_NAME).write_text(json.dumps(manifest | {"context": longest}))
    whole = bench(models, questions, sequential=sequential, warm_up=0)
    assert list(whole.left_out) == [11] and f"more than the context of {longest}" in whole.left_out[11]
    for each in whole.measurements.values():
        assert each.error is None and sorted(each.answers()) == list(range(11))
        assert each.divergences is None or 11 not in each.divergences.by_question
    (line,) = whole.failures()
    assert line.startswith("question q11 was left out for every variant: ")


def test_a_variant_that_refuses_what_others_answer_is_ended(models, questions, monkeypatch):
    """Else it would take all questions away from them; here its context is shorter than every prompt."""
    monkeypatch.setattr(runner, "_REFUSALS", 3)
    manifest = json.loads((models / "onnx-q8" / FILE_NAME).read_text())
    (models / "onnx-q8" / FILE_NAME).write_text(json.dumps(manifest | {"context": 8}))
    whole = bench(models, questions, warm_up=0)
    assert len(whole.left_out) == 3 and all(reason.startswith("onnx-q8: ") for reason in whole.left_out.values())
    assert re.search("can't be asked what others can, 3 questions: .*context of 8", whole.measurements["onnx-q8"].error)
    assert len(whole.measurements["onnx-fp32"].requests) == 9 and whole.measurements["onnx-fp32"].error is None


def test_a_picture_that_is_gone_when_distributions_are_compared(models, questions):
    """No variant ends of it."""

    def watch(what, share):
        if what == "comparing distributions":
            (questions.parent / "images" / "2.png").unlink(missing_ok=True)

    whole = bench(models, questions, divergence=10**6, watch=watch)
    compared = whole.measurements["onnx-q8"].divergences.by_question
    assert whole.failures() == [] and sorted(compared) == [0, 1, 3, 4, 5, 7, 8, 9, 11]


def test_distributions_are_compared_until_there_are_enough(models, questions):
    whole = bench(models, questions, divergence=9)
    compared = list(whole.measurements["onnx-q8"].divergences.by_question.values())
    assert sum(len(kl) for kl, _ in compared) >= 9 > sum(len(kl) for kl, _ in compared[:-1])
    assert bench(models, questions, divergence=0, questions=2).measurements["onnx-q8"].divergences.by_question == {}


def test_many_questions_left_out_are_counted(models, questions):
    whole = bench(models, questions, context=16)
    assert len(whole.left_out) == 12 and not list(whole.answered())
    assert whole.failures()[-1] == "2 more questions were left out." and len(whole.failures()) == 11


def test_a_reference_that_dies_is_the_reason_for_no_divergence(models, questions, monkeypatch):
    call = Session.call

    def dying(self, operation, **arguments):
        if operation == "refer":
            os.kill(self.pid, signal.SIGKILL)
        return call(self, operation, **arguments)

    monkeypatch.setattr(Session, "call", dying)
    quality = summarise_bench(bench(models, questions))["variants"]["onnx-q8"]["quality"]
    assert quality["divergence"] is None and quality["divergence_note"] == "the reference ended"


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


def test_ctrl_c_keeps_what_was_measured(models, questions):
    processes, before = [], set(process_tree(os.getpid()))

    def watch(what, share):
        if what == "question 8":
            processes.extend(set(process_tree(os.getpid())) - before)
            raise KeyboardInterrupt

    whole = bench(models, questions, watch=watch)
    assert whole.interrupted and None not in whole.conditions["load"]
    for each in summarise_bench(whole)["variants"].values():
        assert each["quality"]["accuracy"]["all"]["total"] == 7 and each["memory"]["peak"]
    assert len(processes) >= 2 and not any(os.path.exists(f"/proc/{pid}") for pid in processes)  # noqa: PTH110


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


def test_another_vocabulary_or_tokenizer_isnt_compared(models, questions):
    """Token numbers of another tokenizer mean other words."""
    path = models / "onnx-q8" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    manifest = json.loads((models / "onnx-q8" / FILE_NAME).read_text())
    manifest["files"]["tokenizer.json"] |= {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    (models / "onnx-q8" / FILE_NAME).write_text(json.dumps(manifest))
    whole = bench(models, questions, questions=2)
    quality = summarise_bench(whole)["variants"]["onnx-q8"]["quality"]
    assert quality["divergence"] is None and quality["divergence_note"] == "another tokenizer"
