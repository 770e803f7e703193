"""Telling systemd how the server is (sd_notify): ready once it answers, alive as long as it does, stopping when it ends.

The server is asked by its own address, as a client asks it. Where the engine hangs, /health says so, and nothing is sent: systemd
then restarts the service. Without NOTIFY_SOCKET in the environment nothing is done.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_RETRY_SECONDS = 0.1  # until it answers for the first time
_SHARE = 3  # of the watchdog's time, one: a message may be late twice
_PATIENCE = 5.0  # seconds for an answer, where no watchdog says less


@contextlib.contextmanager
def watched(url: str) -> Iterator[None]:
    """Tells systemd while the block runs, where it wants to know.

    Args:
        url: the server's; it may begin to answer later.
    """
    target = os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"\0{target[1:]}" if target.startswith("@") else target  # an abstract name
        watchdog = _Watchdog(manager, address, url, _interval())
        thread = threading.Thread(target=watchdog.run, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            watchdog.ended.set()
            watchdog.tell("STOPPING=1")
            thread.join()


def _interval() -> float | None:
    """Seconds between signs of life; None where none are wanted of this process."""
    wanted, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or int(wanted) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(wanted) / 1e6 / _SHARE


class _Watchdog:
    def __init__(self, manager: socket.socket, address: str, url: str, interval: float | None) -> None:
        self._manager, self._address, self._interval = manager, address, interval
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self.ended = threading.Event()

    def run(self) -> None:
        while not self._answers():
            if self.ended.wait(_RETRY_SECONDS):
                return
        self.tell("READY=1")
        while self._interval is not None and not self.ended.wait(self._interval):
            if self._answers():
                self.tell("WATCHDOG=1")

    def tell(self, state: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            self._manager.sendto(state.encode(), self._address)

    def _answers(self) -> bool:
        """Whether /health answers, and not that the engine hangs; a server with too many connections is busy, and lives."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._interval or _PATIENCE)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            ours = answer.headers.get_content_type() == "application/json"
            return answer.status == 200 or (answer.status == 503 and not ours)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
