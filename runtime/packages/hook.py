"""A command that is run after a switch, such as one that restarts the service."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from switchkd.errors import SkdError

_SECONDS = 900.0  # longer than the unit of `skd install --service` may take to end and to start


class CommandHook:
    """Runs a command by the shell, with SKD_FOLDER and SKD_RELEASE in its environment.

    Args:
        command: for /bin/sh.
        folder: of the releases.
    """

    def __init__(self, command: str, folder: Path, seconds: float = _SECONDS) -> None:
        self._command, self._folder, self._seconds = command, folder, seconds

    def __call__(self, release: int) -> None:
        """Raises SkdError where the command fails."""
        told = {"SKD_FOLDER": str(self._folder.absolute()), "SKD_RELEASE": str(release)}
        process = subprocess.Popen(
            ["/bin/sh", "-c", self._command],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **told},
            start_new_session=True,
        )
        try:
            status = process.wait(self._seconds)
        except subprocess.TimeoutExpired as error:
            raise SkdError(f"--hook {self._command!r} took more than {self._seconds:g} s.") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            how = f"ended with status {status}" if status > 0 else f"was ended by {signal.Signals(-status).name}"
            raise SkdError(f"--hook {self._command!r} {how}.")
