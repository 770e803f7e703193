"""`skd eval --suite` around a stand-in for lmms-eval that gives every task a score; tests/runtime/test_lmms.py has the real one."""

import json

import pytest
from click.testing import CliRunner

from switchkd.cli.main import main
from switchkd.runtime.benchmarks import PAPER

STAND_IN = """
import json, pathlib, sys
options = dict(zip(sys.argv[1:-1], sys.argv[2:]))
task, out = options["--tasks"], pathlib.Path(options["--output_path"])
(out / "submissions").mkdir(parents=True, exist_ok=True)
for name in json.loads(FILES).get(task, []):
    (out / "submissions" / name.replace("*", "1")).write_text(options["--model_args"])
score = 0.5 if "/a/student" in options["--model_args"] else 0.25
(out / "x_results.json").write_text(json.dumps({"results": {task: {f"{name},none": score for name in json.loads(METRICS)}}}))
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two checkpoints of one name, and the stand-in."""
    monkeypatch.chdir(tmp_path)
    files = json.dumps({benchmark.task: [benchmark.file] for benchmark in PAPER if benchmark.file})
    metrics = json.dumps([benchmark.metric for benchmark in PAPER if benchmark.metric])
    package = tmp_path / "site" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(STAND_IN.replace("FILES", repr(files)).replace("METRICS", repr(metrics)))
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    for name in ("a", "b"):
        (tmp_path / name / "student").mkdir(parents=True)
        (tmp_path / name / "student" / "config.json").write_text("{}")
    return tmp_path


def skd(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["eval", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


def test_each_model_has_a_folder_and_its_scores(models):
    output = skd("a/student", "b/student", "--suite", "paper", "--download", "--json", "scores.json")
    written = json.loads((models / "scores.json").read_text())
    assert written["suite"] == "paper" and list(written["models"]) == ["a/student", "b/student"]
    for name, score in (("a", 50), ("b", 25)):
        row = written["models"][f"{name}/student"]
        assert list(row) == [benchmark.title for benchmark in PAPER]
        assert row["POPE"] == {"score": score, "submission": None, "failure": None}
        file = models / row["VQAv2"]["submission"]
        assert row["VQAv2"]["score"] is None and file.is_relative_to(models / "benchmarks" / name / "student")
        assert f"variant={models / name / 'student'}" in file.read_text()
        assert str(file.relative_to(models)) in output


@pytest.mark.parametrize(
    "given", [("--data", "x"), ("--images", "x"), ("--split", "test"), ("--batch-size", 2), ("--max-tokens", 2)]
)
def test_a_suite_brings_its_own_questions(models, given):
    output = skd("a/student", "--suite", "paper", *given, status=2)
    assert f"Error: {given[0]} doesn't go with --suite, which brings its own." in output
    assert not (models / "benchmarks").exists()


@pytest.mark.parametrize("given", [("--download",), ("--limit", 2), ("--out", "x")])
def test_what_only_a_suite_knows(models, given):
    assert f"Error: {given[0]} goes with --suite alone." in skd("a/student", *given, status=2)
