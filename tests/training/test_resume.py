"""Interrupted runs end with the same weights as uninterrupted ones, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

KILLS = 10


@pytest.fixture
def recipe(tmp_path, student_folder, teacher_folder, mixed_data) -> Path:
    """A short distillation through the real command, with a checkpoint after each step."""
    tune = {"data": "mixed", "distill": True, "steps": 60, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3}
    content = {
        "data": {
            "source": "files",
            "folder": "/",
            "sets": {"mixed": {"file": str(mixed_data[0]), "images": str(mixed_data[1])}},
            "test": "none.json",
        },
        "teacher": {"checkpoint": str(teacher_folder)},
        "student": {"checkpoint": str(student_folder), "stages": ["dft"]},
        "stages": {"dft": tune | {"save_every": 1, "log_every": 1}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(recipe: Path, run: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "switchkd.cli", "distill", "--recipe", str(recipe), "--run", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def weights(run: Path) -> bytes:
    return (run / "student" / "model.safetensors").read_bytes()


def steps_done(run: Path) -> int:
    found = [int(path.name.split("-")[1]) for path in run.glob("stages/*/checkpoints/checkpoint-*")]
    return max(found, default=0)


def wait_for(process: subprocess.Popen, run: Path, step: int, extra: float) -> bool:
    """Waits until the run has begun checkpoint `step`, then `extra` seconds; false if it ended before."""
    deadline = time.monotonic() + 240
    while process.poll() is None and steps_done(run) < step and time.monotonic() < deadline:
        _pause(process, 0.002)
    return process.poll() is None and _pause(process, extra)


def _pause(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_killed_at_random_moments(tmp_path, recipe):
    """Each checkpoint takes most of a step, so kills fall into steps and into half-written checkpoints alike."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(recipe, whole))
    generator = random.Random(5)
    for _ in range(KILLS):
        process = start(recipe, killed)
        assert wait_for(process, killed, steps_done(killed) + generator.randint(1, 4), generator.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(recipe, killed))
    assert weights(killed) == weights(whole)


def test_a_signal_saves_and_says_how_to_go_on(tmp_path, recipe):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(recipe, whole))
    process = start(recipe, stopped)
    assert wait_for(process, stopped, 3, 0.0)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped by SIGTERM after step" in output and "goes on from there" in output
    assert "Traceback" not in output
    assert "goes on from step" in finish(start(recipe, stopped))
    assert weights(stopped) == weights(whole)


def test_two_processes_cannot_train_one_stage(tmp_path, recipe):
    first = start(recipe, tmp_path / "run")
    assert wait_for(first, tmp_path / "run", 1, 0.0)
    second = start(recipe, tmp_path / "run")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 1 and "being trained by another process" in output and "Traceback" not in output
    finish(first)
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()
