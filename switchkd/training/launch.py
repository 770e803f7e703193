"""A stage in several processes: torchrun starts this module once for each, DeepSpeed ZeRO-2 joins them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console

from switchkd.errors import MissingDependencyError, SkdError
from switchkd.prompt import ChatPrompt
from switchkd.runs import STAGE_RECORD
from switchkd.training.stages import (
    STOP_REQUEST,
    Interrupted,
    StageJob,
    open_data,
    resumed_checkpoint,
    run_stage,
)

# What workers leave for the parent: that they stopped, or what went wrong with the first that failed.
STOP_NOTE = "stopped.txt"
FAILURE_NOTE = "failed.txt"
_LAUNCHER = "SKD_LAUNCHER"  # the environment's name for the parent's process id


def run_distributed(job: StageJob, console: Console) -> Path:
    """Runs a stage under torchrun and returns the model folder.

    Raises:
        Interrupted: a signal came; a checkpoint was saved.
        SkdError: the data can't be used, or a process failed.
    """
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("--nproc needs DeepSpeed: pip install 'switchkd[train]'.") from error
    resumed_checkpoint(job)
    # Checked once and with a bar, before there are many processes; they read what is stored.
    open_data(job, ChatPrompt.load(job.student), console)
    path = job.save()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(job.processes)),
        *("-m", "switchkd.training.launch", str(path)),
    ]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, _LAUNCHER: str(os.getpid())}
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    request, note, failure = (job.folder / name for name in (STOP_REQUEST, STOP_NOTE, FAILURE_NOTE))
    for leftover in (request, note, failure):
        leftover.unlink(missing_ok=True)
    # In a session of its own: a Ctrl-C that reached launcher and workers at once would cut their checkpoint short.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    with _on_signal(request, process):
        status = process.wait()
    request.unlink(missing_ok=True)
    if (job.folder / STAGE_RECORD).exists():
        return job.folder / "model"
    if note.exists():
        raise Interrupted(note.read_text())
    if failure.exists():
        raise SkdError(failure.read_text())
    raise SkdError(f"Stage '{job.title}' failed in {job.processes} processes (status {status}); see the lines above.")


@contextmanager
def _on_signal(request: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The first signal asks the workers to save and stop; at the next one torchrun ends them, by force after half a minute."""

    def react(number: int, frame: object) -> None:
        if request.exists():
            process.terminate()
        request.touch()

    # A terminal that goes away is no reason to lose the steps since the last checkpoint.
    before = {number: signal.signal(number, react) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(path: Path) -> None:
    """One worker: runs the stage whose job lies at `path`."""
    job = StageJob.load(path)
    rank = int(os.environ["RANK"])
    try:
        run_stage(job, Console(quiet=rank != 0), launcher=int(os.environ[_LAUNCHER]))
    except Interrupted as stop:
        if rank == 0:
            (job.folder / STOP_NOTE).write_text(str(stop))
    except SkdError as error:
        told = f"{error}" if rank == 0 else f"{error} (In process {rank} of {job.processes}.)"
        try:
            # Whichever fails first knows why; the others fail because of it.
            with suppress(FileExistsError), (job.folder / FAILURE_NOTE).open("x") as note:
                note.write(told)
        except OSError:  # the disk may be what failed
            print(told, file=sys.stderr, flush=True)
        sys.exit(1)
    # A process that leaves while another still talks to it takes that one down.
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
