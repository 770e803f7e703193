"""A stage in several processes: torchrun starts this module once for each, DeepSpeed ZeRO-2 joins them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from switchkd.errors import MissingDependencyError, SkdError
from switchkd.training.stages import RECORD, STOP_REQUEST, Interrupted, StageJob, run_stage

# What stopped workers leave for the parent, so that it tells a stop from a failure.
STOP_NOTE = "stopped.txt"


def run_distributed(job: StageJob, console: Console) -> Path:
    """Runs a stage under torchrun and returns the model folder.

    Raises:
        Interrupted: a signal came; a checkpoint was saved.
        SkdError: a process failed; its own message went to the terminal.
    """
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("--nproc needs DeepSpeed: pip install 'switchkd[train]'.") from error
    path = job.save()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(job.processes)),
        *("-m", "switchkd.training.launch", str(path)),
    ]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    request, note = job.folder / STOP_REQUEST, job.folder / STOP_NOTE
    for leftover in (request, note):
        leftover.unlink(missing_ok=True)
    # In a session of its own: a Ctrl-C that reached launcher and workers at once would cut their checkpoint short.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    with _on_signal(request.touch):
        status = process.wait()
    request.unlink(missing_ok=True)
    if (job.folder / RECORD).exists():
        return job.folder / "model"
    if note.exists():
        raise Interrupted(note.read_text())
    raise SkdError(f"Stage '{job.title}' failed in {job.processes} processes (status {status}); see the lines above.")


@contextmanager
def _on_signal(react: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: react()) for number in (signal.SIGINT, signal.SIGTERM)}
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
        run_stage(job, Console(quiet=rank != 0))
    except Interrupted as stop:
        if rank == 0:
            (job.folder / STOP_NOTE).write_text(str(stop))
    except SkdError as error:
        if rank == 0:
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    # A process that leaves while another still talks to it takes that one down.
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
