"""`skd eval --suite` around a stand-in for lmms-eval that scores every task; the real one is in tests/runtime/lmms/test_lmms.py."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.lmms_stand_in import calls, install_stand_in

from switchkd.cli.main import main
from switchkd.runtime.lmms.benchmarks import LMMS_EVAL, PAPER

INSTALLED = importlib.util.find_spec("lmms_eval") is not None
SUITE = ("--suite", "paper", "--download")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two checkpoints of one name, and the stand-in."""
    monkeypatch.chdir(tmp_path)
    install_stand_in(tmp_path / "site", monkeypatch)
    for name in ("a", "b"):
        (tmp_path / name / "student").mkdir(parents=True)
        (tmp_path / name / "student" / "config.json").write_text("{}")
    return tmp_path


def skd(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["eval", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


def row(output: str, title: str) -> list[str]:
    """A benchmark's row of the table."""
    rows = [re.split(r"  +", line.strip()) for line in output.splitlines()]
    return next(cells for cells in rows if cells[0] == title and len(cells) > 2)


def test_each_model_has_a_folder_and_its_scores(models):
    output = skd("a/student", "b/student", *SUITE, "--json", "scores.json")
    written = json.loads((models / "scores.json").read_text())
    assert written["suite"] == "paper" and list(written["models"]) == ["a/student", "b/student"]
    for name, score in (("a", 50), ("b", 25)):
        scores = written["models"][f"{name}/student"]
        assert list(scores) == [benchmark.title for benchmark in PAPER]
        counts = {"unanswered": 0, "joined": 0, "too_few": False}
        assert scores["POPE"] == {"score": score, "submission": None, "failure": None, **counts}
        file = models / scores["VQAv2"]["submission"]
        assert scores["VQAv2"]["score"] is None and file.is_relative_to(models / "benchmarks" / name / "student")
        assert file.read_text() == str(models / name / "student")
        assert str(file.relative_to(models)) in output


def test_names_that_lmms_eval_would_take_apart(models):
    """Commas, quotes and brackets mean something in its settings."""
    odd = models / "a, b's [c]=d" / "student"
    odd.mkdir(parents=True)
    (odd / "config.json").write_text("{}")
    out = models / "o,'[u]t"
    output = skd(odd, *SUITE, "--benchmark", "POPE", "--threads", 3, "--out", out)
    (call,) = calls(out / "student" / "pope")
    assert call["model"] == str(odd) and call["settings"]["threads"] == "3"
    assert row(output, "POPE")[2] == "25.0"


def test_the_benchmarks_asked_for(models):
    output = skd("a/student", *SUITE, "--benchmark", "pope", "--benchmark", "mmbench_cn_dev_static")
    ran = [path.name for path in (models / "benchmarks" / "student").iterdir()]
    assert sorted(ran) == ["mmbench_cn_dev_static", "pope"] and "GQA" not in output
    message = skd("a/student", *SUITE, "--benchmark", "pop", status=1)
    assert "The suite paper has no benchmark pop: --benchmark takes MME, MMB, MMB-CN" in message


def test_finished_results_are_kept(models):
    """As long as the model and the limit are the same."""
    asked = ("a/student", *SUITE, "--benchmark", "POPE", "--benchmark", "VQAv2", "--json", "scores.json")
    place = models / "benchmarks" / "student"
    first = skd(*asked), (models / "scores.json").read_text()
    again = skd(*asked), (models / "scores.json").read_text()
    assert again[1] == first[1] and row(again[0], "POPE") == row(first[0], "POPE")
    assert "POPE (pope), kept from before" in again[0] and "kept" not in first[0]
    assert len(calls(place / "pope")) == len(calls(place / "vqav2_test")) == 1
    skd(*asked, "--limit", 4)
    assert len(calls(place / "pope")) == 2
    skd(*asked)
    assert len(calls(place / "pope")) == 3
    (models / "a" / "student" / "config.json").write_text('{"changed": 1}')
    skd(*asked)
    assert len(calls(place / "pope")) == 4
    next((place / "vqav2_test" / "submissions").iterdir()).unlink()
    (place / "pope" / "result.json").write_text('{"of":')
    skd(*asked)
    assert len(calls(place / "pope")) == len(calls(place / "vqav2_test")) == 5


def test_an_interruption_keeps_what_is_there(models):
    """The table is printed, the scores so far are written, and the next run goes on from there."""
    asked = ("eval", "a/student", *SUITE, "--benchmark", "MMB", "--benchmark", "GQA", "--benchmark", "POPE")
    command = [sys.executable, "-m", "switchkd.cli", *asked, "--json", "scores.json"]
    environment = os.environ | {"STAND_IN_ENDS_AT": "gqa", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert row(done.stdout, "MMB")[2] == "0.5" and row(done.stdout, "POPE")[2] == "not run"
    assert list(json.loads((models / "scores.json").read_text())["models"]["a/student"]) == ["MMB"]
    output = skd(*asked[1:])
    assert "MMB (mmbench_en_dev_static), kept" in output and row(output, "POPE")[2] == "50.0"


def test_what_the_model_couldnt_take_is_told(models, monkeypatch):
    monkeypatch.setenv("STAND_IN_COUNTS", '{"unanswered": 3, "joined": 43}')
    output = skd("a/student", *SUITE, "--benchmark", "MMMU", "--benchmark", "VQAv2", "--json", "scores.json")
    assert row(output, "MMMU")[2] == "50.0 (3 unanswered, 43 joined)"
    assert row(output, "VQAv2")[2] == "to submit (3 unanswered, 43 joined)"
    assert "joined: questions whose pictures the model saw side by side" in output
    found = json.loads((models / "scores.json").read_text())["models"]["a/student"]["MMMU"]
    assert (found["unanswered"], found["joined"]) == (3, 43)


def test_too_few_questions_for_a_score(models, monkeypatch):
    """MME's perception score, where the first questions are of cognition."""
    monkeypatch.setenv("STAND_IN_LACKS", "mme_perception_score")
    asked = ("a/student", *SUITE, "--benchmark", "MME")
    assert row(skd(*asked, "--limit", 20, "--json", "scores.json"), "MME")[2] == "too few questions"
    found = json.loads((models / "scores.json").read_text())["models"]["a/student"]["MME"]
    assert found["too_few"] and found["score"] is None and found["failure"] is None
    assert "lmms-eval gave no mme_perception_score" in skd(*asked, status=1)


def test_a_failure_names_the_model_and_loses_nothing(models, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS_AT", "gqa")
    output = skd("a/student", *SUITE, "--benchmark", "GQA", "--benchmark", "POPE", status=1)
    assert row(output, "POPE")[2] == "50.0" and row(output, "GQA")[2] == "failed"
    assert "GQA by a/student: lmms-eval ended without a result (RuntimeError: nothing works in a/student)" in output


def test_scores_that_cant_be_written_are_told_of_first(models):
    (models / "file").write_text("")
    assert "can't be written" in skd("a/student", *SUITE, "--json", "file/scores.json", status=1)
    assert not (models / "benchmarks").exists()


@pytest.mark.parametrize(
    "version", [pytest.param("", marks=pytest.mark.skipif(INSTALLED, reason="the real lmms-eval is there")), "0.8.0"]
)
def test_another_version_of_lmms_eval(models, tmp_path, monkeypatch, version):
    (models / "site" / f"lmms_eval-{LMMS_EVAL}.dist-info").rename(models / "removed")
    if version:
        install_stand_in(tmp_path / "other", monkeypatch, version)
    output = skd("a/student", *SUITE, status=1)
    assert f"pip install lmms-eval=={LMMS_EVAL}" in output
    assert ("0.8.0 is installed" if version else "isn't installed") in output


@pytest.mark.parametrize(
    "given", [("--data", "x"), ("--images", "x"), ("--split", "test"), ("--batch-size", 2), ("--max-tokens", 2)]
)
def test_a_suite_brings_its_own_questions(models, given):
    output = skd("a/student", "--suite", "paper", *given, status=2)
    assert f"Error: {given[0]} doesn't go with --suite, which brings its own." in output
    assert not (models / "benchmarks").exists()


@pytest.mark.parametrize("given", [("--download",), ("--limit", 2), ("--out", "x"), ("--benchmark", "POPE")])
def test_what_only_a_suite_knows(models, given):
    assert f"Error: {given[0]} goes with --suite alone." in skd("a/student", *given, status=2)
