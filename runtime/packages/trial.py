"""A new release is asked its known question before anything leads to it: by its own `run`, in a process of its own, in time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from switchkd.errors import SkdError
from switchkd.runtime.packages.format import QUESTION, RUN

COMMAND = "known-answer"  # of skd
OWN_RUNTIME = "runtime"  # in a folder of releases: what runs them, where it lies beside them; `run` looks there too
# Where memory doesn't suffice for a server that runs and the new release beside it, the system ends the latter.
_FIRST_TO_GO = '{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null; exec /bin/sh "$0" "$@"'
_LEAVE_OUT = "--no-check installs it without asking it"


class Trial:
    """Asks releases.

    Args:
        seconds: until it has answered, loading included.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.lacked = False  # a question: the release was packed by an older skd

    def __call__(self, release: Path) -> None:
        """Raises SkdError where the release doesn't answer as it did where it was packed, or can't be run here."""
        self.lacked = not (release / QUESTION).is_file()
        if self.lacked:
            return
        command = ["/bin/sh", "-c", _FIRST_TO_GO, str(release / RUN), COMMAND]
        # A session of its own, so that all it started ends with it.
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment(release.parent.parent)},
            start_new_session=True,
        ) as process:
            try:
                _, errors = process.communicate(timeout=self._seconds)
            except subprocess.TimeoutExpired as error:
                raise SkdError(
                    f"The new release didn't answer in {self._seconds:g} s (--check-seconds): nothing is switched; {_LEAVE_OUT}."
                ) from error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise SkdError(f"{_reason(process.returncode, errors)} Nothing is switched; {_LEAVE_OUT}.")


def environment(folder: Path) -> dict[str, str]:
    """What `run` in a folder of releases is started with: this very skd, unless another is asked for or lies there."""
    if os.environ.get("SKD") or (folder / OWN_RUNTIME).is_dir():
        return {}
    own = Path(sys.executable).with_name("skd")
    return {"SKD": str(own)} if own.exists() or shutil.which("skd") is None else {}


def _reason(status: int, errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("Error: ") if lines else ""
    if status < 0:
        how = f"{signal.Signals(-status).name}{', as where memory runs out' if -status == signal.SIGKILL else ''}"
        return f"The new release can't be run here: asked its known question, it was ended by {how}."
    if "No such command" in last:
        return "The skd that runs the releases is too old to ask the new one: update it."
    return f"The new release can't be used here: {last or f'it ended with status {status}'}".rstrip(".") + "."
