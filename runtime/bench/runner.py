"""Runs a bench: starts the variants' processes, asks them in turns, compares them, and keeps what was measured."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from switchkd.errors import DataError
from switchkd.manifest import FILE_NAME
from switchkd.runtime.bench.energy import EnergyMeter, open_meter
from switchkd.runtime.bench.machine import Conditions, describe_conditions, machine_facts
from switchkd.runtime.bench.measurement import CAMERA, LEAST, Bench, Energy, Measurement, Request
from switchkd.runtime.bench.memory import peak_resident, resident
from switchkd.runtime.bench.quality import Divergences
from switchkd.runtime.bench.scenario import CameraLog, Clock, WallClock, question_order, run_camera
from switchkd.runtime.bench.session import QuestionError, Session, SessionError
from switchkd.runtime.bench.text import TextRounds
from switchkd.runtime.engines.interfaces import CPU

Progress = Callable[[str, float], None]  # what is being done, and which share of it is done
_FRAMES = 16  # different pictures that a camera shows, decoded before it starts
_REFUSALS, _REFUSED_SHARE = 10, 0.1  # questions, and which share of them, that a variant alone may refuse
_MEMORY_SAMPLES = 600  # of a camera's run, at most
Sessions = dict[str, Session]


def run_bench(bench: Bench, progress: Progress) -> None:
    """Measures every variant of `bench.measurements` and writes into it; an interrupted run keeps what it has.

    A variant that fails is marked with its error and the others go on. Ctrl-C ends the measuring, not the bench.
    """
    bench.created = datetime.now(UTC).isoformat(timespec="seconds")
    bench.machine = machine_facts()
    before = Conditions.now()
    try:
        with tempfile.TemporaryDirectory(prefix="skd-bench-") as folder:
            Runner(bench, progress, Path(folder)).run()
    except KeyboardInterrupt:
        bench.interrupted = True
    bench.conditions = describe_conditions(before, Conditions.now(), bench.machine)


class Runner:
    """The parts of one run. In turns, all variants are in memory at once and are asked the same question one after the other,
    in an order drawn anew each time, so that whatever else the machine does hits all alike.

    Args:
        bench: what to measure, and where results go.
        progress: is told how far it is.
        folder: for logits, while two variants are compared.
    """

    def __init__(self, bench: Bench, progress: Progress, folder: Path) -> None:
        self.bench, self.settings, self.progress = bench, bench.settings, progress
        self._folder = folder
        self._random = random.Random(bench.settings.seed)
        self._tokenizers: dict[str, str] = {}  # variant → hash of its tokenizer
        self._answers: dict[int, list[int]] = {}  # question number → tokens of the reference's answer

    def run(self) -> None:
        """All of it."""
        names = list(self.bench.measurements)
        meter = open_meter()
        self.bench.energy = meter.name if meter else None
        text = TextRounds(self.bench, self._folder, self._marking, self.progress)
        try:
            for group in self.groups(names):
                with self._open(group) as sessions:
                    if self.settings.scenario == CAMERA:
                        self._run_camera(sessions, WallClock(), meter)
                        continue
                    self._warm_up(sessions)
                    self._ask_all(sessions, self.settings.seconds * len(group) / len(names), meter)
                    self._compare(sessions, keep=self.settings.sequential)
                    text.read(sessions, self._tokenizers)
        finally:
            if meter:
                meter.close()

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Variants that are in memory together. Alone, they come in random order, but the reference, whose answers the others
        are compared along, first."""
        if self.settings.scenario == CAMERA:
            return [[name] for name in self._random.sample(names, len(names))]
        if self.settings.sequential:
            return [[name] for name in (names[0], *self._random.sample(names[1:], len(names) - 1))]
        return [list(names)]

    @contextmanager
    def _open(self, names: Sequence[str]) -> Iterator[Sessions]:
        """The sessions of these variants; those that can't be opened are marked."""
        with ExitStack() as stack:
            sessions: Sessions = {}
            for index, name in enumerate(names):
                self.progress(f"loading {name}", index / len(names))
                each = self.bench.measurements[name]
                with self._marking(each):
                    sessions[name] = stack.enter_context(Session(name, **self._arguments(each)))
                    self._note_opened(each, sessions[name])
            if not self.bench.reference and sessions and self.settings.scenario != CAMERA:
                self.bench.reference = next(iter(sessions))
            yield sessions

    def _arguments(self, each: Measurement) -> dict[str, Any]:
        export = (each.folder / FILE_NAME).exists()
        return {
            "folder": str(each.folder),
            "threads": self.settings.threads,
            "context": self.settings.context,
            "device": self.settings.device if export else CPU,  # the reference stays what it is
            "frames": _FRAMES if self.settings.scenario == CAMERA else 0,
        }

    def _note_opened(self, each: Measurement, session: Session) -> None:
        opened = session.opened
        each.start, each.verify, each.load = opened["start"], opened["verify"], opened["load"]
        each.loaded = resident(session.pid)
        self._tokenizers[each.name] = opened["tokenizer"]

    def _warm_up(self, sessions: Sessions) -> None:
        for round_number, index in enumerate(self._order(self.settings.warm_up)):
            self.progress("warming up", round_number / self.settings.warm_up)
            for name in list(sessions):
                each = self.bench.measurements[name]
                with self._marking(each, sessions):
                    self._warm(each, sessions[name], index)

    def _warm(self, each: Measurement, session: Session, index: int) -> bool:
        """One request that doesn't count; False, and a note, where the question can't be asked."""
        try:
            request = self._ask(session, index)
        except QuestionError as error:
            self.bench.leave_out(index, str(error))
            return False
        each.first = each.first or request
        each.warm_up += 1
        return True

    def _ask_all(self, sessions: Sessions, seconds: float, meter: EnergyMeter | None) -> None:
        """The requests that count. Every variant is asked the same questions."""
        wanted = self.settings.questions or len(self.bench.questions)
        least = wanted if self.settings.questions else min(LEAST, wanted)
        limit = math.inf if self.settings.questions else seconds
        start = time.monotonic()
        try:
            asked = 0
            for number, index in enumerate(self._order(wanted)):
                spent = time.monotonic() - start
                if not sessions or (asked >= least and spent > limit):
                    break
                share = max(number / wanted, min(1.0, spent / limit) if limit else 0.0)
                self.progress(f"question {number + 1}", share)
                asked += self._ask_each(sessions, index, meter)
        finally:
            self._note_peaks(sessions)

    def _note_peaks(self, sessions: Sessions) -> None:
        for name, session in sessions.items():
            self.bench.measurements[name].peak = peak_resident(session.pid)

    def _ask_each(self, sessions: Sessions, index: int, meter: EnergyMeter | None) -> bool:
        """One question to every variant; its requests count, and it returns True, only if all of them could be made."""
        if index in self.bench.left_out:
            return False
        made: list[tuple[Measurement, Request]] = []
        refusals: dict[str, str] = {}
        for name in self._random.sample(list(sessions), len(sessions)):
            each = self.bench.measurements[name]
            with self._marking(each, sessions):
                before, start = meter.joules() if meter else 0.0, time.perf_counter()
                try:
                    request = self._ask(sessions[name], index)
                except QuestionError as error:
                    refusals[name] = str(error)
                    continue
                if meter:
                    spent = Energy(meter.joules() - before, time.perf_counter() - start)
                    request = replace(request, energy=spent)
                made.append((each, request))
                sessions[name].call("wait_until_idle")
        if refusals:
            self._leave_out(sessions, index, refusals, len(made))
            return False
        for each, request in made:
            each.requests.append(request)
        return True

    def _leave_out(self, sessions: Sessions, index: int, refusals: dict[str, str], others: int) -> None:
        """A question that can't be asked of one variant counts for none, but a variant that keeps refusing what others answer is
        ended, so that it doesn't take all their questions away."""
        whose = "" if not others else f"{', '.join(refusals)}: "
        self.bench.leave_out(index, f"{whose}{next(iter(refusals.values()))}")
        for name in refusals if others else ():
            each = self.bench.measurements[name]
            each.refused += 1
            if each.refused >= _REFUSALS and each.refused > _REFUSED_SHARE * (each.refused + len(each.requests)):
                with self._marking(each, sessions):
                    raise SessionError(f"it can't be asked what others can, {each.refused} questions: {refusals[name]}")

    def _ask(self, session: Session, index: int) -> Request:
        """One request. Raises QuestionError where the question can't be asked."""
        return Request(index, **session.call("ask", **self._question(index), max_tokens=self.settings.max_tokens))

    def _question(self, index: int) -> dict[str, Any]:
        question = self.bench.questions[index]
        return {"images": [*map(str, question.images)], "messages": question.messages}

    def _order(self, count: int) -> Iterator[int]:
        return question_order(len(self.bench.questions), count, self.settings.seed)

    def _compare(self, sessions: Sessions, *, keep: bool) -> None:
        """Next-token distributions along the reference's answers, which lie in files meanwhile (until the end with `keep`)."""
        reference = self.bench.measurements[self.bench.reference] if self.bench.reference else None
        if reference is None:
            return
        numbers = list(dict.fromkeys(request.question for request in reference.requests))
        positions = 0
        others = [name for name in sessions if name != reference.name]
        for name in others:
            same = self._tokenizers[name] == self._tokenizers[reference.name]
            self.bench.measurements[name].divergences = Divergences(reason="" if same else "another tokenizer")
        for done, index in enumerate(numbers):
            if positions >= self.settings.divergence:
                break
            self.progress("comparing distributions", max(done / len(numbers), positions / self.settings.divergence))
            self._refer(sessions, reference, index)
            positions += len(self._answers.get(index, ()))
            for name in others:
                self._compare_one(sessions, name, index)
            if not keep:
                self._file(index).unlink(missing_ok=True)
        for name in others:
            divergences = self.bench.measurements[name].divergences
            if reference.error and divergences:
                divergences.end("the reference ended")

    def _refer(self, sessions: Sessions, reference: Measurement, index: int) -> None:
        if reference.name not in sessions:  # asked in an earlier group, or ended since
            return
        with self._marking(reference, sessions), suppress(QuestionError):  # its picture is gone since it was asked
            arguments = {"max_tokens": self.settings.max_tokens, "file": str(self._file(index))}
            self._answers[index] = sessions[reference.name].call("refer", **self._question(index), **arguments)[
                "tokens"
            ]

    def _compare_one(self, sessions: Sessions, name: str, index: int) -> None:
        each = self.bench.measurements[name]
        assert each.divergences is not None
        if name not in sessions or index not in self._answers or each.divergences.reason:
            return
        with self._marking(each, sessions), suppress(QuestionError):  # by itself, it may not have been asked this one
            arguments = {"tokens": self._answers[index], "file": str(self._file(index))}
            each.divergences.add(index, sessions[name].call("compare", **self._question(index), **arguments))

    def _file(self, index: int) -> Path:
        return self._folder / f"{index}.npy"

    def _run_camera(self, sessions: Sessions, clock: Clock, meter: EnergyMeter | None) -> None:
        try:
            for name, session in sessions.items():
                each = self.bench.measurements[name]
                with self._marking(each):
                    frames = self._prepare_frames(each, session)
                    self._film(each, session, frames, clock, meter)
        finally:
            self._note_peaks(sessions)

    def _prepare_frames(self, each: Measurement, session: Session) -> list[int]:
        """Numbers of the questions whose pictures the camera shows; each has been asked once, to warm up and be decoded."""
        frames: list[int] = []
        shown = (index for index in self._order(len(self.bench.questions)) if self.bench.questions[index].images)
        for index in shown:
            self.progress(f"{each.name}: warming up", len(frames) / _FRAMES)
            if self._warm(each, session, index):
                frames.append(index)
            if len(frames) == _FRAMES:
                break
        if not frames:
            raise SessionError(
                f"{self.bench.data} has no question about a picture that can be asked, which a camera needs."
            )
        return frames

    def _film(
        self, each: Measurement, session: Session, frames: Sequence[int], clock: Clock, meter: EnergyMeter | None
    ) -> None:
        seconds = 60 * self.settings.minutes
        log = each.camera = CameraLog(self.settings.rate)
        start, before = clock.now(), meter.joules() if meter else 0.0

        def look() -> None:
            elapsed = clock.now() - start
            if meter:
                each.filmed = Energy(meter.joules() - before, elapsed)
            if elapsed >= len(each.memory) * seconds / _MEMORY_SAMPLES and (size := resident(session.pid)) is not None:
                each.memory.append((elapsed, size))
                self.progress(f"{each.name}: filming", min(1.0, elapsed / seconds))

        run_camera(
            lambda frame: self._ask(session, frames[frame % len(frames)]), log, seconds=seconds, clock=clock, after=look
        )

    @contextmanager
    def _marking(self, each: Measurement, sessions: Sessions | None = None) -> Iterator[None]:
        """Notes a variant's error and, given the sessions, ends its own; the others go on."""
        try:
            yield
        except (SessionError, DataError, OSError) as error:
            each.error = str(error)
            if sessions is not None and (session := sessions.pop(each.name, None)):
                with suppress(OSError):
                    session.close()
