"""One line of the log for each chat request: when, how it ended, which model, how many tokens, how long; never what was said."""

from __future__ import annotations

import logging
import time

from switchkd.runtime.engines.timings import Timings

log = logging.getLogger("skd.serve")


def log_to_stderr() -> None:
    """Lets the server's log lines appear, as they are, one a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class RequestRecord:
    """A chat request from its arrival to its answer's end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._written = False
        self.status = 200
        self.model = "-"  # the name that it used, where it is one of the server's
        self.timings: Timings | None = None  # where an answer ended
        self.streams = False  # its answer goes on when its status is sent

    def write(self) -> None:
        """Writes the line, once."""
        if self._written:
            return
        self._written = True
        read, said = (0, 0) if self.timings is None else (self.timings.prompt_tokens, self.timings.new_tokens)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        seconds = time.monotonic() - self._began
        log.info("%s %d %s read=%d said=%d ms=%.0f", now, self.status, self.model, read, said, 1000 * seconds)
