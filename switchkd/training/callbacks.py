"""What happens beside the training steps: a progress bar, and a clean stop on a signal."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from switchkd.losses.terms import Term

_PLAIN_INTERVAL_SECONDS = 20.0


def describe(logs: dict[str, float], terms: Sequence[Term]) -> str:
    """The named losses and measures of one log line, short; a term's first measure with its quantiles."""
    shown = [("loss", "loss", 3), *((term.name, term.symbol, 3) for term in terms if term.symbol)]
    for term in terms:
        for measure in term.measures:
            shown.append((f"{measure.name}_mean", measure.symbol, measure.digits))
            if measure is term.measures[0]:
                shown += [(f"{measure.name}_{quantile}", quantile, measure.digits) for quantile in ("p10", "p90")]
    return "  ".join(f"{label} {logs[key]:.{digits}f}" for key, label, digits in shown if key in logs)


def _counted(number: float, one: str, several: str = "") -> str:
    shown = f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
    return f"{shown} {one if number == 1 else several or one + 's'}"


class ProgressBar(TrainerCallback):
    """How long a stage will be, then one line: steps, the named losses, k's quantiles, time left. Plain lines where no terminal
    is watching.

    Args:
        records: usable ones in the stage's data.
    """

    def __init__(self, title: str, console: Console, terms: Sequence[Term], records: int):
        self._title, self._console, self._terms, self._records = title, console, terms, records
        self._progress: Progress | None = None
        self._task: Any = None
        self._text = ""
        self._last_plain = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._last_plain = time.monotonic()
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        samples = min(batch, self._records)
        passes = state.max_steps / math.ceil(self._records / batch)
        self._console.print(
            f"{self._title}  {_counted(state.max_steps, 'step')} of {samples} samples: "
            f"{_counted(passes, 'pass', 'passes')} over {self._records} records",
            soft_wrap=True,
            highlight=False,
        )
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(self._title, total=state.max_steps, text="")
            self._progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        self._text = describe(logs, self._terms)
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step, text=self._text)
        elif state.global_step < state.max_steps and time.monotonic() - self._last_plain > _PLAIN_INTERVAL_SECONDS:
            self._last_plain = time.monotonic()
            self._console.print(
                f"{self._title}  step {state.global_step}/{state.max_steps}  {self._text}", soft_wrap=True
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if state.is_world_process_zero:
            self._console.print(
                f"{self._title}  step {state.global_step}/{state.max_steps}  {self._text}", soft_wrap=True
            )


class LastLog(TrainerCallback):
    """Logs after the last step too, where that is no multiple of `log_every`."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class _Children:
    """Processes that read data leave a signal to the whole group to the one that trains, from their first moment on."""

    shielded = False

    @classmethod
    def shield(cls) -> None:
        if cls.shielded:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Children.shield)


class StopOnSignal(TrainerCallback):
    """Ctrl-C and SIGTERM finish the step, save a checkpoint and end the training; a second Ctrl-C ends it at once.

    Args:
        request: a file that asks for the same when it appears; signals don't reach processes behind a launcher in order.
        launcher: the process id of that launcher; where it is gone, nobody is left to ask.
    """

    def __init__(self, request: Path, launcher: int | None = None) -> None:
        self._request, self._launcher = request, launcher
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        _Children.shielded = True
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        # A launcher passes on what reached every process by itself, and ends those by force that go on for half a minute.
        signal.signal(number, signal.SIG_DFL if self._launcher is None else signal.SIG_IGN)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._anyone_stopped(args):
            self.received = self.received or signal.SIGTERM
            # What was counted since the last log is lost otherwise.
            control.should_save = control.should_log = control.should_training_stop = True

    def _anyone_stopped(self, args: TrainingArguments) -> bool:
        asked = self.received is not None or self._request.exists() or self._launcher_is_gone()
        if args.world_size == 1:
            return asked
        # The processes hear of it at different moments; all have to stop after the same step.
        flag = torch.tensor(float(asked), device=args.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _launcher_is_gone(self) -> bool:
        if self._launcher is None:
            return False
        try:
            os.kill(self._launcher, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        _Children.shielded = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
