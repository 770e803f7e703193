"""How a server ends on SIGTERM and Ctrl-C: without an error at any moment, from its program's start to its last answer."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


class EndOnSignal:
    """A context in which these signals end the process: at once while nothing is served yet, by `stop` from then on.

    Loading a model writes nothing that would have to be cleaned up, and an exception amid it could come out anywhere.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] | None = None  # ends what is being served
        self._stopped = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> EndOnSignal:
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            self._before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._stopped and error is None:
            # All is closed. Python would take a second more to take PyTorch's modules apart.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: object) -> None:
        if self.stop is None:
            os._exit(0)
        self._stopped = True
        self.stop()
