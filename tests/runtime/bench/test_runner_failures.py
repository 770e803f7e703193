"""Benches in which a variant, a question or a person ends early: the rest is kept."""

import json
import os
import re
import signal

import pytest
from support.benches import bench

from switchkd.data.questions import read_questions
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME
from switchkd.runtime.bench import runner
from switchkd.runtime.bench.memory import process_tree
from switchkd.runtime.bench.session import Session
from switchkd.runtime.bench.summary import summarise_bench
from switchkd.runtime.engines.opening import open_engine

# One worker runs them all: the models that they share take half a minute to make.
pytestmark = pytest.mark.xdist_group("bench")


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
