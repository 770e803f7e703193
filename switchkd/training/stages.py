"""One training stage, from a model folder and a data file to a trained model folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

import switchkd
from switchkd.architecture.architecture import Architecture
from switchkd.architecture.endings import require_learned_end
from switchkd.computer import usable_processors
from switchkd.data.index import Source
from switchkd.data.llava import Collator, LlavaDataset
from switchkd.data.progress import check_data
from switchkd.data.usability import Usability, count_usable
from switchkd.disk import why_full
from switchkd.errors import SkdError
from switchkd.files import write_text
from switchkd.losses.objective import Objective
from switchkd.models.compatibility import check_compatibility, towers_equal
from switchkd.models.environment import keep_freed_memory, quiet
from switchkd.models.switch import Switch, SwitchStudent, as_student
from switchkd.models.vlm import load_vlm, save_vlm
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt
from switchkd.recipes.recipe import Data, Distillation, Stage
from switchkd.recipes.settings import build, to_plain
from switchkd.runs import STAGE_RECORD, trained_pictures
from switchkd.training.callbacks import LastLog, ProgressBar, StopOnSignal
from switchkd.training.checkpoints import newest_checkpoint, remove_torn, require_readable, step_of
from switchkd.training.teaching import LEARNED, learned, taught
from switchkd.training.trainer import SwitchTrainer, freeze_parts

JOB = "job.json"
# Appears in a stage's folder to ask its processes to stop.
STOP_REQUEST = "stop"
# Processes that look through a data file before training.
CHECKERS = min(8, usable_processors())


class Interrupted(SkdError):
    """Training was asked to stop; a checkpoint was saved."""


@dataclass(frozen=True)
class StageJob:
    """All that one stage needs, as plain values, so that another process can run it."""

    title: str
    folder: Path
    student: Path
    teacher: Path | None
    data_file: Path
    images: Path
    cache: Path
    stage: Stage
    distillation: Distillation
    data: Data
    seed: int
    deepspeed: str | None = None
    processes: int = 1

    def save(self) -> Path:
        """Writes the job into its folder and returns the file."""
        plain = {
            item.name: str(value) if isinstance(value := getattr(self, item.name), Path) else to_plain(value)
            for item in dataclasses.fields(self)
        }
        write_text(self.folder / JOB, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
        return self.folder / JOB

    @classmethod
    def load(cls, path: Path) -> StageJob:
        """Reads what `save` wrote."""
        plain = json.loads(path.read_text(encoding="utf-8"))
        for name in ("folder", "student", "data_file", "images", "cache"):
            plain[name] = Path(plain[name])
        plain["teacher"] = plain["teacher"] and Path(plain["teacher"])
        plain["stage"] = build(Stage, plain["stage"], "stage")
        plain["distillation"] = build(Distillation, plain["distillation"], "distillation")
        plain["data"] = build(Data, plain["data"], "data")
        return cls(**plain)


def run_stage(job: StageJob, console: Console, launcher: int | None = None) -> Path:
    """Trains, or goes on training from the newest whole checkpoint, and returns the model folder.

    Args:
        launcher: process id of what started this process as one of several.

    Raises:
        Interrupted: a signal came; a checkpoint lies in the stage's folder.
        SkdError: the data, the models or the number of processes can't be used.
    """
    quiet()
    if not torch.cuda.is_available():
        keep_freed_memory()
    started = time.monotonic()
    stage = job.stage
    checkpoint = resumed_checkpoint(job)
    prompt = ChatPrompt.load(job.student)
    # Of several processes none checks anything: they read what their launcher stored.
    dataset, usability = open_data(job, prompt, console, workers=CHECKERS if job.processes == 1 else 0)
    if not stage.trainable:
        raise SkdError(f"Stage '{job.title}' trains no part: name some in stages.….trainable.")
    student = as_student(load_vlm(job.student))
    freeze_parts(student, stage.trainable)
    stop = StopOnSignal(job.folder / STOP_REQUEST, launcher)
    objective = Objective(job.distillation, stage)
    trainer = SwitchTrainer(
        student,
        objective,
        stage=stage,
        rows=prompt.length,
        lengths=dataset.lengths,
        switch=_switch(job, student, prompt, console),
        max_bad=job.data.max_bad,
        args=_arguments(job),
        train_dataset=dataset,
        data_collator=Collator(prompt.token_id("pad_token") or 0),
        callbacks=[stop, LastLog(), ProgressBar(job.title, console, (*objective.weights,), len(dataset))],
    )
    _set_reporters(trainer, job)
    if checkpoint is not None and trainer.is_world_process_zero():
        console.print(f"{job.title}  goes on from step {step_of(checkpoint)}")
    with _told_in_a_line(job, stop):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    _check_distribution(trainer, job)
    if stop.received is not None and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(
            f"Stopped by {stop.received.name} after step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the same command goes on from there."
        )
    with _told_in_a_line(job, stop):
        return _finish(job, trainer, usability, time.monotonic() - started, console)


def resumed_checkpoint(job: StageJob) -> Path | None:
    """The checkpoint that the stage goes on from, torn ones removed. Raises SkdError where it is of another number of processes."""
    remove_torn(job.folder / "checkpoints")
    checkpoint = newest_checkpoint(job.folder / "checkpoints")
    if checkpoint is not None:
        require_readable(checkpoint, job.title, processes=job.processes, deepspeed=job.deepspeed is not None)
    return checkpoint


@contextmanager
def _told_in_a_line(job: StageJob, stop: StopOnSignal) -> Iterator[None]:
    """What libraries make many lines of: a disk that is full, a process for reading data that a signal ended with us."""
    try:
        yield
    except SkdError:
        raise
    except Exception as error:
        reason = why_full(error, job.folder)  # asked first: the torn checkpoint that fills it goes away next
        remove_torn(job.folder / "checkpoints")
        whole = newest_checkpoint(job.folder / "checkpoints")
        kept = "nothing is lost but its steps" if whole is None else f"the steps until {step_of(whole)} are kept"
        if reason:
            raise SkdError(
                f"{job.title} can't be written to {job.folder}: {reason}; {kept}. Make room: the same command goes on from there."
            ) from error
        lost_reader = isinstance(error, EOFError | ConnectionError) or "DataLoader worker" in str(error)
        if stop.received is not None and lost_reader:
            raise Interrupted(
                f"Stopped by {stop.received.name}; {kept}, and the same command goes on from there."
            ) from error
        raise


def open_data(
    job: StageJob, prompt: ChatPrompt, console: Console, workers: int = CHECKERS
) -> tuple[LlavaDataset, Usability]:
    """The stage's checked samples; stops where too many records are unusable."""
    prompt.require_answer_marks()
    require_learned_end(job.student, prompt)
    source = Source(
        job.data_file,
        job.images,
        prompt,
        image_tokens=Architecture.read(job.student).image_tokens,
        max_length=job.data.max_length,
        verify="full" if job.data.verify == "full" else "header",
        follow_links=job.data.follow_links,
    )
    index = check_data(source, console, workers=workers, cache=job.cache)
    usability = count_usable(source, index)
    usability.check(job.data.max_bad)
    return LlavaDataset(source, index, Preprocess.load(job.student)), usability


def _switch(job: StageJob, student: SwitchStudent, prompt: ChatPrompt, console: Console) -> Switch | None:
    if not job.stage.distill:
        return None
    if job.teacher is None:
        raise SkdError(f"Stage '{job.title}' distils, but there is no teacher: set teacher.checkpoint or its parts.")
    check_compatibility(job.teacher, job.student)
    # A frozen teacher in half precision halves its memory; on fp32 stages it stays exact.
    teacher = load_vlm(job.teacher, dtype=torch.bfloat16 if job.stage.precision == "bf16" else torch.float32)
    if "vision" in job.stage.trainable and towers_equal(teacher.model.vision_tower, student.model.vision_tower):
        console.print(
            "[yellow]warning[/]: teacher and student have the same vision tower, so the visual-switch term starts at zero "
            "and teaches nothing until the towers part"
        )
    switch = Switch(teacher, prompt.image_token_id, prompt.length)
    if job.stage.gradient_checkpointing:
        switch.checkpoint_gradients()
    return switch


def _arguments(job: StageJob) -> TrainingArguments:
    stage = job.stage
    share, remainder = divmod(stage.batch_size, job.processes)
    micro = min(stage.micro_batch or share, share)
    if remainder or share % micro:
        raise SkdError(
            f"Stage '{job.title}': a batch of {stage.batch_size} can't be split over {job.processes} processes in micro "
            f"batches of {micro}; choose numbers that divide it."
        )
    arguments = TrainingArguments(
        output_dir=str(job.folder / "checkpoints"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        num_train_epochs=stage.epochs,
        max_steps=stage.steps or -1,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup,
        weight_decay=stage.weight_decay,
        adam_beta2=stage.beta2,
        max_grad_norm=stage.clip,
        use_cpu=not torch.cuda.is_available(),
        bf16=stage.precision == "bf16",
        activation_checkpointing=stage.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if stage.gradient_checkpointing else None,
        dataloader_num_workers=stage.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_steps=stage.save_every,
        save_total_limit=2,
        logging_steps=stage.log_every,
        logging_first_step=True,
        # A loss that isn't finite has to be seen.
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=job.seed,
        data_seed=job.seed,
        deepspeed=job.deepspeed,
        ddp_find_unused_parameters=False,
    )
    # Several GPUs take several processes (--nproc). transformers would spread this one over all that it sees.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _set_reporters(trainer: SwitchTrainer, job: StageJob) -> None:
    """TensorBoard files outside the checkpoints, which go away; no lines of raw numbers."""
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(job.folder / "tensorboard"))))


def _check_distribution(trainer: SwitchTrainer, job: StageJob) -> None:
    """A launcher that silently fell back to one process or to a plain optimizer is an error."""
    if trainer.accelerator.num_processes != job.processes:
        raise SkdError(
            f"Stage '{job.title}' was to run in {job.processes} processes and ran in {trainer.accelerator.num_processes}; "
            "start it with `skd … --nproc N`."
        )
    if job.deepspeed is not None:
        inner = type(getattr(trainer.optimizer, "optimizer", trainer.optimizer)).__name__
        if inner not in ("DeepSpeedZeroOptimizer", "BF16_Optimizer"):
            raise SkdError(f"Stage '{job.title}' was to use DeepSpeed ZeRO and used {inner}.")


def _finish(job: StageJob, trainer: SwitchTrainer, usability: Usability, seconds: float, console: Console) -> Path:
    target = job.folder / "model"
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        if trainer.unusable:
            console.print(
                f"[yellow]warning[/]: {job.title} left {trainer.unusable} samples out: their pictures couldn't be read any more"
            )
        save_vlm(trainer.accelerator.unwrap_model(trainer.model), target, job.student)
        record = {
            "title": job.title,
            "steps": trainer.state.global_step,
            "seconds": round(seconds, 1),
            "versions": {
                "switchkd": switchkd.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "data": {"total": usability.total, "usable": usability.usable, "unusable": usability.bad},
            "pictures": max(usability.most_pictures, trained_pictures(job.student) or 0),
            "unusable_while_training": trainer.unusable,
            LEARNED: asdict(learned(job.student) | taught(job.stage, job.distillation)),
            "log": trainer.state.log_history,
        }
        write_text(job.folder / STAGE_RECORD, json.dumps(record, indent=1) + "\n")
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return target
