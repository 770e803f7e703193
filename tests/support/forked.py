"""Training commands in processes of their own, without the seconds that importing torch takes each: forked from a process
that has imported everything, and done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["switchkd.cli.distill", "switchkd.training.run", "switchkd.analysis.gallery"])


class Command:
    """`skd` with these arguments, under way; what it prints goes into a file. `group`: it leads a process group of its own."""

    def __init__(self, output: Path, *arguments: object, group: bool = False) -> None:
        self._output = output
        words = [str(each) for each in arguments]
        self._process: Any = _CONTEXT.Process(target=_run, args=(str(output), words, group))
        self._process.start()

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    def ends_within(self, seconds: float) -> bool:
        """Waits so long at most."""
        self._process.join(seconds)
        return self.ended

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to it alone."""
        os.kill(self._process.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Sends a signal to it and all processes that it started."""
        os.killpg(self._process.pid, number)

    def finish(self, status: int = 0, seconds: float = 300) -> str:
        """All that it printed; its exit status has to be `status`, minus the signal's number where one killed it."""
        assert self.ends_within(seconds), "it goes on for ever"
        printed = self._output.read_text()
        assert self._process.exitcode == status, printed
        return printed


def _run(output: str, arguments: list[str], group: bool) -> None:
    if group:
        os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from switchkd.cli.main import main

    main(arguments, prog_name="skd")
