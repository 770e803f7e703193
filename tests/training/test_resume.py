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
    tune = {"data": "mixed", "distill": True, "steps": 40, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3}
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


def test_killed_at_random_moments(tmp_path, recipe):
    whole = tmp_path / "whole"
    begun = time.monotonic()
    finish(start(recipe, whole))
    duration = time.monotonic() - begun
    killed, generator, landed = tmp_path / "killed", random.Random(5), 0
    for _ in range(KILLS):
        process = start(recipe, killed)
        try:
            process.wait(timeout=generator.uniform(0.5, 0.95) * duration)
        except subprocess.TimeoutExpired:
            before = steps_done(killed)
            process.kill()
            landed += before > 0
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
    assert landed >= 2, "no kill came while steps were running"
    finish(start(recipe, killed))
    assert weights(killed) == weights(whole)


def test_a_signal_saves_and_says_how_to_go_on(tmp_path, recipe):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(recipe, whole))
    process = start(recipe, stopped)
    deadline = time.monotonic() + 120
    while steps_done(stopped) < 3 and time.monotonic() < deadline and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped by SIGTERM after step" in output and "goes on from there" in output
    assert "Traceback" not in output
    assert "goes on from step" in finish(start(recipe, stopped))
    assert weights(stopped) == weights(whole)
