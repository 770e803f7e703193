"""The parent's side of one variant's process: start it, ask it, end it."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from switchkd.errors import DataError, SkdError

_PATIENCE = 1800.0  # seconds for one reply: a big model on a small board, and still an end
_LONGEST_LINE = 64 << 20


class SessionError(SkdError):
    """A variant that can't go on."""


class QuestionError(DataError):
    """A question that can't be asked: its picture can't be read, or its prompt doesn't fit."""


class Session:
    """One variant's process. Use as a context manager, or `close` it.

    It has a process group of its own, so that Ctrl-C reaches the bench alone, and it ends with the bench, however that ends:
    its input ends then.

    Args:
        name: what messages call the variant.
        arguments: `Worker`'s.

    Raises:
        SessionError: the variant can't be opened, in one line.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "switchkd.runtime.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            process_group=0,
        )
        try:
            self.opened = self.call("open", **arguments)
        except BaseException:
            self.close()
            raise
        self.opened["start"] = time.perf_counter() - start - self.opened["verify"] - self.opened["load"]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One operation of the worker.

        Raises:
            SessionError: it failed, or the process ended or gave no reply.
            QuestionError: this question can't be asked; others can.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"operation": operation, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            reply = json.loads(self._read_line())
        except TimeoutError as error:
            raise SessionError(f"{error}, so its process was ended.") from error
        except (OSError, EOFError, ValueError) as error:
            raise SessionError(f"{self._how_it_ended() or error}.") from error
        if "error" in reply:
            raise QuestionError(reply["error"]) if reply["question"] else SessionError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """Ends the process."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):  # it is gone, and so is what it hadn't read
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._errors.close()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        end = time.monotonic() + _PATIENCE
        pieces = []
        while True:
            if not select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
                self._process.kill()
                raise TimeoutError(f"no reply for {_PATIENCE / 60:.0f} minutes")
            piece = self._process.stdout.read1(_LONGEST_LINE)  # type: ignore[attr-defined]
            if not piece:
                raise EOFError("the process ended")
            pieces.append(piece)
            if piece.endswith(b"\n"):
                return b"".join(pieces)

    def _how_it_ended(self) -> str:
        """How the process ended and its last words, if it has ended by itself."""
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        last = f": {lines[-1].strip()}" if lines else ""
        return f"its process ended by {how}{last}".rstrip(".")
