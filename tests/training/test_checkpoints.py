"""What interrupted stages leave behind: who can go on from it, and what is told of the rest."""

import json
from dataclasses import replace

import pytest
from support.training import QUIET, stage_job, train

from switchkd.errors import SkdError
from switchkd.training import checkpoints
from switchkd.training.checkpoints import COMPLETE, INPUTS, mark_complete, newest_checkpoint, tell_orphans
from switchkd.training.launch import run_distributed
from switchkd.training.stages import run_stage


@pytest.mark.parametrize(
    ("wrote", "reads", "cure"),
    [
        ((2, True), (1, False), "start it with --nproc 2"),
        ((2, True), (4, True), "start it with --nproc 2"),
        ((1, False), (2, True), "start it without --nproc"),
        ((1, True), (1, False), "start it with --nproc 1"),
    ],
)
def test_another_number_of_processes_is_one_line(tmp_path, student_folder, mixed_data, wrote, reads, cure):
    job = stage_job(
        tmp_path / "s", student_folder, mixed_data, processes=reads[0], deepspeed="zero2" if reads[1] else None
    )
    checkpoint = job.folder / "checkpoints" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    mark_complete(checkpoint, processes=wrote[0], deepspeed=wrote[1])
    start = run_distributed if reads[1] else run_stage
    with pytest.raises(SkdError, match=f"interrupted after step 7.*{cure}.*--restart") as error:
        start(job, QUIET)
    assert "\n" not in str(error.value) and checkpoint.exists()


@pytest.mark.parametrize(
    ("files", "writers"),
    [
        (["rng_state.pth", "optimizer.pt"], (1, False)),
        (["rng_state_0.pth", "rng_state_1.pth", "global_step7/a"], (2, True)),
        (["rng_state.pth", "global_step7/a"], (1, True)),
    ],
)
def test_checkpoints_of_versions_that_left_an_empty_mark(tmp_path, files, writers):
    for name in (*files, COMPLETE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert checkpoints._writers(tmp_path) == writers


def test_a_real_checkpoint_says_who_wrote_it(tmp_path, student_folder, mixed_data, monkeypatch):
    """A stage that fails after its second step."""
    job = stage_job(tmp_path / "s", student_folder, mixed_data, save_every=1, steps=2)
    monkeypatch.setattr("switchkd.training.stages._finish", lambda *_: (_ for _ in ()).throw(SkdError("no room")))
    with pytest.raises(SkdError, match="no room"):
        run_stage(job, QUIET)
    newest = newest_checkpoint(job.folder / "checkpoints")
    assert json.loads((newest / COMPLETE).read_text()) == {"processes": 1, "deepspeed": False}
    with pytest.raises(SkdError, match="start it without --nproc"):
        run_distributed(replace(job, processes=2, deepspeed="zero2"), QUIET)


def left(stages, name, step, inputs):
    folder = stages / name / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    mark_complete(folder, processes=1, deepspeed=False)
    if inputs is not None:
        (stages / name / INPUTS).write_text(json.dumps(inputs))


def test_what_is_left_behind_is_told_with_what_differs(tmp_path):
    ours = {"stage": {"steps": 9, "learning_rate": 0.1}, "seed": 0, "data": "a"}
    left(tmp_path, "student-dft-000000000000", 3, ours)  # the stage itself
    left(tmp_path, "student-dft-111111111111", 4, ours | {"stage": {"steps": 8, "learning_rate": 0.1}})
    left(tmp_path, "student-dft-222222222222", 5, ours | {"data": "b", "seed": 1})
    left(tmp_path, "student-dft-333333333333", 6, None)
    left(tmp_path, "student-other-444444444444", 7, ours | {"seed": 1})
    (tmp_path / "student-dft-555555555555" / "checkpoints" / "checkpoint-8").mkdir(parents=True)  # cut short
    told = tell_orphans(tmp_path, "student-dft", ours)
    assert [line.split("student-dft-")[1][0] for line in told] == ["1", "2", "3"]
    for line, words in zip(
        told, ("step 4 with other settings (stage.steps)", "(seed, data)", "(unknown ones)"), strict=True
    ):
        assert words in line
    assert not tell_orphans(tmp_path, "teacher", ours)


def test_saving_memory_leaves_the_same_weights(tmp_path, student_folder, teacher_folder, mixed_data):
    """To rounding: so a stage that goes on with less of it goes on with the same training."""
    from safetensors.torch import load_file

    one = {"teacher": teacher_folder, "steps": 2, "batch_size": 4}
    first = load_file(train(tmp_path / "a", student_folder, mixed_data, **one) / "model.safetensors")
    less = {"micro_batch": 1, "gradient_checkpointing": True}
    second = load_file(train(tmp_path / "b", student_folder, mixed_data, **one, **less) / "model.safetensors")
    assert all((first[name] - second[name]).abs().max() < 1e-3 for name in first)
