"""Two DeepSpeed ZeRO-2 processes give the losses of one process without it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import psutil
import pytest
import yaml
from support.training import QUIET, losses, stage_job, train

from switchkd.errors import SkdError
from switchkd.training import launch
from switchkd.training.launch import run_distributed

pytest.importorskip("deepspeed")
ZERO2 = str(resources.files("switchkd.recipes") / "deepspeed" / "zero2.json")


# One worker runs them all: they share the operator that DeepSpeed compiles once.
pytestmark = pytest.mark.xdist_group("deepspeed")


@pytest.fixture(scope="module")
def extensions() -> Path:
    """A private folder for that operator; a killed run's lock on a shared one would hang this one."""
    cache = Path(__file__).parents[2] / ".cache" / "torch_extensions"
    cache.mkdir(parents=True, exist_ok=True)
    for lock in cache.rglob("lock"):
        lock.unlink()
    return cache


@pytest.fixture(autouse=True)
def environment(monkeypatch, extensions):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(extensions))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def test_two_processes_give_the_trace_of_one(tmp_path, student_folder, teacher_folder, mixed_data):
    """Some micro-batches of one process are text alone while the other's have pictures."""
    settings = {"teacher": teacher_folder, "batch_size": 4, "micro_batch": 2, "steps": 6}
    train(tmp_path / "one", student_folder, mixed_data, **settings)
    job = stage_job(tmp_path / "two", student_folder, mixed_data, processes=2, deepspeed=ZERO2, **settings)
    model = run_distributed(job, QUIET)
    assert (model / "model.safetensors").exists()
    for key in ("loss", "ce", "align", "vsd"):
        one, two = losses(tmp_path / "one", key), losses(tmp_path / "two", key)
        assert len(one) == 6 and two == pytest.approx(one, rel=1e-5, abs=1e-5), key


def test_a_plain_optimizer_is_an_error(tmp_path, student_folder, mixed_data, monkeypatch):
    """Asked for DeepSpeed and started without it, a stage doesn't pretend."""
    job = stage_job(tmp_path / "s", student_folder, mixed_data)
    monkeypatch.setattr("switchkd.training.stages.TrainingArguments", _without_deepspeed)
    from switchkd.training.stages import StageJob, run_stage

    with pytest.raises(SkdError, match="was to use DeepSpeed ZeRO and used"):
        run_stage(StageJob(**{**vars(job), "deepspeed": ZERO2}), QUIET)


def _without_deepspeed(**arguments):
    from transformers import TrainingArguments

    return TrainingArguments(**{**arguments, "deepspeed": None})


@pytest.mark.slow
def test_a_failing_worker_is_one_line(tmp_path, student_folder, mixed_data):
    job = stage_job(tmp_path / "s", student_folder, mixed_data, processes=2, deepspeed=ZERO2, batch_size=3)
    with pytest.raises(SkdError, match="can't be split over 2 processes"):
        run_distributed(job, QUIET)
    assert not (tmp_path / "s" / "model").exists()


def test_the_launcher_checks_the_data_before_it_starts_anybody(tmp_path, student_folder, mixed_data, monkeypatch):
    images = tmp_path / "nothing"
    images.mkdir()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("no process is needed for that"))
    job = stage_job(tmp_path / "s", student_folder, (mixed_data[0], images), processes=2, deepspeed=ZERO2)
    with pytest.raises(SkdError, match="can't be used"):
        run_distributed(job, QUIET)


def test_an_error_of_any_worker_is_told(tmp_path, student_folder, mixed_data, monkeypatch):
    """The first to fail leaves its words; those that fail because of it don't write over them."""
    job = stage_job(tmp_path / "s", student_folder, mixed_data, processes=4, batch_size=3)
    job.folder.mkdir()
    monkeypatch.setenv("SKD_LAUNCHER", str(os.getpid()))
    for rank, data in (("3", "gone.json"), ("0", str(mixed_data[0]))):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            launch.main(replace(job, data_file=Path(data)).save())
    text = (job.folder / launch.FAILURE_NOTE).read_text()
    assert "gone.json can't be read" in text and text.endswith("(In process 3 of 4.)")


def test_signals_to_the_launcher(tmp_path):
    """One asks, in a file; the next ends the workers. A terminal that goes away only asks."""
    request = tmp_path / "stop"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with launch._on_signal(request, process):
            signal.raise_signal(signal.SIGHUP)
            assert request.exists() and process.poll() is None
            signal.raise_signal(signal.SIGINT)
            assert process.wait(timeout=60) == -signal.SIGTERM
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [False, True], ids=["launcher", "everyone"])
def test_a_stopped_launcher_saves_and_goes_on(tmp_path, student_folder, teacher_folder, mixed_data, everyone):
    """A signal to `skd` reaches the workers as a request, and does no harm where a service manager sends it to all of them; the
    resumed run repeats the uninterrupted trace."""
    tune = {
        "data": "mixed",
        "distill": True,
        "steps": 8,
        "batch_size": 4,
        "micro_batch": 2,
        "log_every": 1,
        "save_every": 1,
    }
    content = {
        "data": {"source": "files", "folder": "/", "test": "none.json"}
        | {"sets": {"mixed": {"file": str(mixed_data[0]), "images": str(mixed_data[1])}}},
        "teacher": {"checkpoint": str(teacher_folder)},
        "student": {"checkpoint": str(student_folder), "stages": ["dft"]},
        "stages": {"dft": tune},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))

    def start(run):
        command = [
            "-m",
            "switchkd.cli",
            "distill",
            "--recipe",
            str(recipe),
            "--run",
            str(tmp_path / run),
            "--nproc",
            "2",
        ]
        return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def trace(run):
        record = json.loads(next((tmp_path / run / "stages").glob("*/stage.json")).read_text())
        return [entry["loss"] for entry in record["log"] if "loss" in entry]

    whole = start("whole").communicate(timeout=300)[0]
    process = start("stopped")
    while process.poll() is None and not list((tmp_path / "stopped").glob("stages/*/checkpoints/checkpoint-2")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    for each in psutil.Process(process.pid).children(recursive=True) if everyone else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "goes on from there" in output, output
    resumed = start("stopped").communicate(timeout=300)[0]
    assert "goes on from step" in resumed, (whole, resumed)
    assert trace("stopped") == trace("whole")
