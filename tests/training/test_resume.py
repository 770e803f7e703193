"""Interrupted runs end with the same weights as uninterrupted ones, bit for bit."""

import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from support.forked import Command
from support.mounts import small_disk, with_mounts
from support.training import write_mixed


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, student_folder, teacher_folder, road_scenes) -> Path:
    """A short distillation through the real command, with a checkpoint after each step."""
    file, images = write_mixed(tmp_path_factory.mktemp("data"), road_scenes)
    tune = {"data": "mixed", "distill": True, "steps": 24, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3}
    content = {
        "data": {
            "source": "files",
            "folder": "/",
            "sets": {"mixed": {"file": str(file), "images": str(images)}},
            "test": "none.json",
        },
        "teacher": {"checkpoint": str(teacher_folder)},
        "student": {"checkpoint": str(student_folder), "stages": ["dft"]},
        "stages": {"dft": tune | {"save_every": 1, "log_every": 1}},
    }
    path = file.with_name("recipe.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe) -> bytes:
    """The weights of a run that nothing interrupts."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    start(recipe, run).finish()
    return weights(run)


def start(recipe: Path, run: Path, *settings: str, group: bool = False) -> Command:
    changed = [word for setting in settings for word in ("--set", setting)]
    return Command(run.with_suffix(".log"), "distill", "--recipe", recipe, "--run", run, *changed, group=group)


def weights(run: Path) -> bytes:
    return (run / "student" / "model.safetensors").read_bytes()


def steps_done(run: Path) -> int:
    found = [int(path.name.split("-")[1]) for path in run.glob("stages/*/checkpoints/checkpoint-*")]
    return max(found, default=0)


def wait_for(command: Command, run: Path, step: int, extra: float) -> bool:
    """Waits until the run has begun checkpoint `step`, then `extra` seconds; false if it ended before."""
    deadline = time.monotonic() + 240
    while not command.ended and steps_done(run) < step and time.monotonic() < deadline:
        command.ends_within(0.002)
    return not command.ended and not command.ends_within(extra)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, recipe, whole, kills):
    """Each checkpoint takes most of a step, so kills fall into steps and into half-written checkpoints alike."""
    longer = [] if kills < 4 else ["stages.dft.steps=60"]
    if longer:
        start(recipe, tmp_path / "longer", *longer).finish()
        whole = weights(tmp_path / "longer")
    killed = tmp_path / "killed"
    generator = random.Random(5)
    for _ in range(kills):
        command = start(recipe, killed, *longer)
        assert wait_for(command, killed, steps_done(killed) + generator.randint(1, 4), generator.uniform(0, 0.2))
        command.send(signal.SIGKILL)
        command.finish(-signal.SIGKILL)
    start(recipe, killed, *longer).finish()
    assert weights(killed) == whole


def test_a_signal_saves_and_says_how_to_go_on(tmp_path, recipe, whole):
    stopped = tmp_path / "stopped"
    command = start(recipe, stopped)
    assert wait_for(command, stopped, 3, 0.0)
    command.send(signal.SIGTERM)
    output = command.finish(1, seconds=60)
    assert "Stopped by SIGTERM after step" in output and "goes on from there" in output
    assert "Traceback" not in output
    assert "goes on from step" in start(recipe, stopped).finish()
    assert weights(stopped) == whole


def test_two_processes_cannot_train_one_stage(tmp_path, recipe, whole):
    first = start(recipe, tmp_path / "run")
    assert wait_for(first, tmp_path / "run", 1, 0.0)
    second = Command(tmp_path / "second.log", "distill", "--recipe", recipe, "--run", tmp_path / "run")
    output = second.finish(1, seconds=120)
    assert "being trained by another process" in output and "Traceback" not in output
    first.finish()
    assert weights(tmp_path / "run") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_all_processes_of_a_group(tmp_path, recipe, number):
    """As service managers, `timeout` and terminals send it: those that read data leave it to the one that trains."""
    command = start(recipe, tmp_path / "run", "stages.dft.workers=2", "stages.dft.save_every=2", group=True)
    assert wait_for(command, tmp_path / "run", 2, 0.0)
    command.send_to_group(number)
    output = command.finish(1)
    stopped = re.search(rf"Stopped by {number.name} after step (\d+)", output)
    assert stopped and "Traceback" not in output and len(output.splitlines()) < 12, output
    assert steps_done(tmp_path / "run") == int(stopped[1]) > 2


def test_a_checkpoint_that_another_process_is_writing_is_left_alone(recipe, copied):
    (folder,) = copied.glob("stages/student-dft-*/")
    writing = folder / "checkpoints" / "checkpoint-99"
    writing.mkdir()
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        assert "being trained by another process" in start(recipe, copied).finish(1)
    assert writing.is_dir()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, recipe) -> Path:
    """A run that was stopped after a few steps."""
    run = tmp_path_factory.mktemp("runs") / "interrupted"
    command = start(recipe, run)
    assert wait_for(command, run, 3, 0.0)
    command.send(signal.SIGTERM)
    command.finish(1)
    return run


@pytest.fixture
def copied(interrupted, tmp_path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "run", symlinks=True))


def test_less_memory_goes_on_from_the_same_step(recipe, copied):
    """What is advised where memory doesn't suffice changes no result, and so no folder."""
    changed = ("stages.dft.micro_batch=1", "stages.dft.gradient_checkpointing=true", "stages.dft.workers=1")
    output = start(recipe, copied, *changed, "stages.dft.save_every=50").finish()
    assert "goes on from step" in output and "other settings" not in output
    assert len(list((copied / "stages").glob("student-dft-*/"))) == 1


def test_a_stage_with_other_settings_tells_of_the_one_left_behind(recipe, copied):
    reached = steps_done(copied)
    changed = ("stages.dft.steps=1", "stages.dft.learning_rate=2e-3", "distillation.temperature=2")
    output = start(recipe, copied, *changed).finish()
    assert f"stopped after step {reached} with other settings" in output
    assert {"distillation.temperature", "stage.learning_rate", "stage.steps"} <= set(re.split(r"[(),\s]+", output)), (
        output
    )


@pytest.mark.parametrize("size", ["4m", *(pytest.param(size, marks=pytest.mark.slow) for size in ("7m", "9m"))])
def test_a_full_disk_is_one_line(tmp_path, recipe, size):
    """Wherever the room ends."""
    run = tmp_path / "disk"
    code = "import sys\nfrom switchkd.cli.main import main\nmain(sys.argv[1:])"
    words = ["distill", "--recipe", recipe, "--run", run / "run", "--set", "stages.dft.steps=30"]
    process = with_mounts([small_disk(run, size)], code, *words, check=False)
    lines = (process.stdout + process.stderr).splitlines()
    assert process.returncode == 1 and "No space left on device" in lines[-1], lines
    assert "Traceback" not in process.stderr and len(process.stderr.splitlines()) == 1, lines
