"""What the log tells once, however often it happens."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger("skd.serve")

_MOST = 200  # notices; clients may think of any number


class Notices:
    """Lines of the log that aren't repeated. Any thread may use it."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def once(self, text: str) -> None:
        """Logs a line, unless it was logged already."""
        with self._lock:
            if text in self._said or len(self._said) >= _MOST:
                return
            self._said.add(text)
        log.info("%s", text)
