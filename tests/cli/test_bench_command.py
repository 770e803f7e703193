"""`skd bench` as a person types it: its default line-up, its files, its refusals and its exit status."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.llava_models import make_checkpoint, picture

from switchkd.cli.main import main
from switchkd.export.folder import ExportRequest, run_export
from switchkd.runtime.bench.lineup import line_up, line_up_run
from switchkd.runtime.bench.report import read_summary

# One worker runs them all: the models that they share take half a minute to make.
pytestmark = pytest.mark.xdist_group("bench-command")

QUICK = ("--questions", 6, "--warm-up", 1, "--divergence", 3, "--max-tokens", 3, "--threads", 1, "--context", 256)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a student, one export and its recorded test split."""
    run = tmp_path_factory.mktemp("made") / "runs" / "tiny"
    make_checkpoint(run / "student")
    run_export(
        ExportRequest(run / "student", run / "exports" / "student-onnx-q8", format="onnx", quant="q8", threads=1)
    )
    (run / "data" / "images").mkdir(parents=True)
    records = []
    for index in range(6):
        picture(index).save(run / "data" / "images" / f"{index}.png")
        talk = [{"from": "human", "value": "<image>\nis it <b>red</b> ?"}, {"from": "gpt", "value": "yes"}]
        records.append({"id": f"q{index}", "kind": "car", "image": f"{index}.png", "conversations": talk})
    (run / "data" / "test.json").write_text(json.dumps(records))
    data = "{source: roadscenes, test: test.json, test_images: images}"
    (run / "recipe.yaml").write_text(f"data: {data}\n")
    return run.parent


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it, in a folder of its own, as the newest run."""
    shutil.copytree(made, tmp_path / "runs")
    (tmp_path / "runs" / "latest").symlink_to("tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "tiny"


def skd(*arguments, status=0):
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def test_bare_it_measures_the_newest_runs_exports_against_its_student(run):
    output = skd(*QUICK)
    folder = run / "reports" / "bench"
    summary = read_summary(folder / "bench.json")
    assert list(summary["variants"]) == ["student", "student-onnx-q8"]
    assert summary["settings"]["reference"] == "student" and summary["schema"] == 1
    for words in ("Speed, ms", "Latency, ms", "Quality", "n/a (needs", "report: runs/tiny/reports/bench/report.html"):
        assert words in output
    assert "student-onnx-q8" in (run / "reports" / "index.html").read_text()
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and {row["variant"] for row in rows} == {"student", "student-onnx-q8"}
    report = (folder / "report.html").read_text()
    assert report.count("data:image/svg+xml;base64,") == 5 and "data:image/jpeg;base64," in report
    assert not re.search(r"(src|href)=[\"'](?!data:)", report) and "<script" not in report
    assert "is it &lt;b&gt;red&lt;/b&gt; ?" in report and "<b>" not in report
    limits = ("--max-ms", 1e6, "--max-mb", 1e3)
    compared = skd("student-onnx-q8", *QUICK, "--compare", folder / "bench.json", "--out", "second", *limits)
    assert "What to ship" in compared and "fails" not in compared
    assert "Against the older bench" in compared and "whole answer, p50" in compared and "ratio" in compared


def test_limits_decide_the_status(run):
    """Six questions can't show that a copy of the reference loses nothing; the reference itself loses nothing."""
    shutil.copytree(run / "exports" / "student-onnx-q8", run / "exports" / "copy")
    output = skd("student-onnx-q8", "copy", *QUICK, "--max-loss", 1, "--max-mb", 1e3, "--target", "rk3588", status=1)
    assert (
        "Error: copy fails: points lost against student-onnx-q8: 0.0" in output and "they can't tell that, " in output
    )
    assert "student-onnx-q8 fails" not in output and "predicted for rk3588" in " ".join(output.split())
    summary = read_summary(run / "reports" / "bench" / "bench.json")
    assert [each["passed"] for each in summary["limits"].values()] == [True, False]
    assert "Not considered, as limits aren't held: copy." in summary["verdict"]["caveats"]
    report = (run / "reports" / "bench" / "report.html").read_text()
    assert 0 < report.index("What to ship") < report.index("copy fails: points lost") < report.index("Speed, ms")


def test_one_bad_variant_is_told_and_the_rest_is_written(run):
    shutil.copytree(run / "exports" / "student-onnx-q8", run / "exports" / "torn")
    (run / "exports" / "torn" / "manifest.json").write_text('{"schema": 1}')
    output = skd("student-onnx-q8", "torn", *QUICK, status=1)
    assert "Error: torn: " in output and "manifest.json is torn" in output
    summary = read_summary(run / "reports" / "bench" / "bench.json")
    assert summary["variants"]["torn"]["error"] and summary["variants"]["student-onnx-q8"]["quality"]
    assert "manifest.json is torn" in (run / "reports" / "bench" / "report.html").read_text()
    (run / "exports" / "student-onnx-q8" / "tokenizer.json").unlink()
    before = (run / "reports" / "bench" / "bench.json").read_bytes()
    assert "tokenizer.json is missing" in skd("student-onnx-q8", *QUICK, status=1)
    assert (run / "reports" / "bench" / "bench.json").read_bytes() == before  # nothing measured, nothing replaced


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "tpu"), "There is no device 'tpu' here; --device can be cpu"),
        (("nothing",), "There is no variant nothing"),
        (("--run", "nowhere"), "There is no run runs/nowhere"),
        (("--data", "gone.json"), "gone.json"),
        (("--compare", "gone.json"), "gone.json can't be read"),
        (("--compare", "runs/tiny/data/test.json"), "is no bench.json"),
        (("--compare", "newer.json"), "newer.json has schema 2, newer than 1"),
        (("--compare", "torn.json"), "torn.json is torn"),
        (("--out", "torn.json"), "torn.json is no folder"),
        (("--out", "torn.json/deep"), "torn.json is no folder"),
        (("--scenario", "camera", "--rate", "0"), "'--rate': 0"),
        (("--scenario", "camera", "--rate", "inf"), "'--rate': inf isn't a finite number"),
        (("--scenario", "camera", "--minutes", "inf"), "'--minutes': inf"),
        (("--seconds", "nan"), "'--seconds': nan"),
        (("--max-ms", "0"), "'--max-ms': 0"),
        (("--scenario", "camera", "--max-loss", "1"), "--max-loss goes with --scenario single alone"),
        (("--target", "nowhere"), "There is no target 'nowhere'"),
        (("--rate", "5"), "--rate goes with --scenario camera alone"),
        (("--scenario", "camera", "--questions", "5"), "--questions goes with --scenario single alone"),
        (("--scenario", "camera", "--sequential"), "--sequential goes with --scenario single alone"),
    ],
)
def test_refusals_come_before_anything_is_measured(run, arguments, words):
    (run.parents[1] / "newer.json").write_text('{"schema": 2}')
    (run.parents[1] / "torn.json").write_text('{"schema": 1, "machine": {}, "settings": {}, "variants": {"a": []}}')
    status = 2 if {"--scenario", "--rate", "--seconds", "--max-ms"} & {*arguments} else 1
    assert words in " ".join(skd(*arguments, status=status).split())
    assert not (run / "reports").exists()


def test_an_older_bench_isnt_overwritten(run):
    old = run / "reports" / "bench" / "bench.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"schema": 1, "machine": {}, "settings": {}, "variants": {}}')
    assert "would be overwritten" in skd("--compare", old, status=2)
    assert "only the newer bench has student, student-onnx-q8" in " ".join(
        skd(*QUICK, "--compare", old, "--out", "new").lower().split()
    )


def test_results_are_written_before_they_are_shown(run, monkeypatch):
    """A pipe that nobody reads any more, or a terminal without the letters, costs no bench."""
    monkeypatch.setattr("switchkd.cli.bench._print_grid", lambda *_: (_ for _ in ()).throw(BrokenPipeError()))
    CliRunner().invoke(main, ["bench", "student-onnx-q8", *map(str, QUICK)])
    assert read_summary(run / "reports" / "bench" / "bench.json")["variants"]["student-onnx-q8"]["quality"]


def test_a_terminal_without_the_letters(run):
    command = [sys.executable, "-m", "switchkd.cli", "bench", "student-onnx-q8", *map(str, QUICK)]
    result = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert result.returncode == 0 and "Speed, ms" in result.stdout, result.stderr


def test_an_end_before_anything_was_measured(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("switchkd.runtime.bench.runner.Runner.run", interrupt)
    assert "nothing was measured yet" in skd(*QUICK, status=130)
    assert not (run / "reports").exists()


def test_names_are_of_the_run_that_was_named(run):
    """Not of the newest one."""
    shutil.copytree(run, run.parent / "newest")
    (run.parent / "newest" / "exports" / "student-onnx-q8").rename(run.parent / "newest" / "exports" / "only-here")
    (run.parent / "latest").unlink()
    (run.parent / "latest").symlink_to("newest")
    output = " ".join(skd("--run", "tiny", "only-here", status=1).split())
    assert "The run runs/tiny has no only-here; it has student, student-onnx-q8" in output
    assert list(line_up(["only-here"], None, None)) == ["only-here"]


def test_questions_without_kinds_have_no_drawing_of_kinds(run, recwarn):
    path = run / "data" / "test.json"
    records = [
        {key: value for key, value in record.items() if key != "kind"} for record in json.loads(path.read_text())
    ]
    path.write_text(json.dumps(records))
    (run / "exports" / "student-onnx-q8").rename(run / "exports" / "_hidden")
    skd(*QUICK)
    report = (run / "reports" / "bench" / "report.html").read_text()
    assert report.count("data:image/svg+xml;base64,") == 4 and "by question kind" not in report
    assert not [warning for warning in recwarn if "legend" in str(warning.message) or "limits" in str(warning.message)]


def test_a_camera_has_a_folder_of_its_own(run):
    before = run / "reports" / "bench" / "bench.json"
    before.parent.mkdir(parents=True)
    before.write_text("kept")
    skd("student-onnx-q8", "--scenario", "camera", "--minutes", 0.01, "--max-tokens", 2, "--threads", 1)
    assert read_summary(run / "reports" / "bench-camera" / "bench.json")["settings"]["scenario"] == "camera"
    assert before.read_text() == "kept"


def test_the_line_up(run, monkeypatch):
    exports = run / "exports"
    named = line_up(["student-onnx-q8", "runs/tiny/student"], None, run)
    assert list(named) == ["student", "student-onnx-q8"]  # a checkpoint is the reference
    assert list(line_up(["student-onnx-q8"], "runs/tiny/student", run)) == ["student", "student-onnx-q8"]
    named = line_up(["runs/tiny/student", "student-onnx-q8"], "student-onnx-q8", run)
    assert list(named) == ["student-onnx-q8", "student"]  # a reference that is among the variants too
    shutil.copytree(exports / "student-onnx-q8", run / "other" / "student-onnx-q8")
    both = line_up(["student-onnx-q8", str(run / "other" / "student-onnx-q8")], None, run)
    assert len(both) == 2 and all("/" in name for name in both)
    (exports / ".half").mkdir()
    assert line_up_run(run, None) == (
        {"student": run / "student", "student-onnx-q8": exports / "student-onnx-q8"},
        "",
    )
    monkeypatch.setattr("switchkd.runtime.bench.lineup.has_torch", lambda: False)
    folders, note = line_up_run(run, None)
    assert list(folders) == ["student-onnx-q8"] and "PyTorch isn't installed" in note


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "accelerate", "scipy", "matplotlib"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name.partition(".")[0])
sys.meta_path.insert(0, Blocker())
"""


def test_a_device_needs_neither_torch_nor_matplotlib(run, tmp_path):
    """The bare command where they can't be imported, in its workers as well."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKED)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    check = "import importlib.util\ntry: import torch\nexcept ModuleNotFoundError: print('blocked')"
    blocked = subprocess.run([sys.executable, "-P", "-c", check], env=environment, capture_output=True, text=True)
    assert blocked.stdout.strip() == "blocked"
    command = [sys.executable, "-m", "switchkd.cli", "bench", *map(str, QUICK)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "PyTorch isn't installed" in result.stdout
    report = (run / "reports" / "bench" / "report.html").read_text()
    assert "switchkd[report]" in report and "data:image/jpeg" in report
