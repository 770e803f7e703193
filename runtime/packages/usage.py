"""Which releases processes run from: each holds a shared lock (flock) on its release's folder, which ends with the process.

The folder itself is locked: nothing is written, so that a service needs no right to write, and nothing can be left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

from switchkd.runtime.packages.format import MANIFEST, VARIANT

_TRIES = 100  # of a lock that somebody who looks may have for a moment
_LOCKS = Path("/proc/locks")


class Usage:
    """Held while a process runs from an installed release; of any other folder nothing is noted.

    Args:
        variant: the folder that is run.
    """

    def __init__(self, variant: Path) -> None:
        self._descriptor: int | None = None
        variant = variant.resolve()
        if variant.name == VARIANT and is_release(variant.parent):
            with contextlib.suppress(OSError):
                self._descriptor = os.open(variant.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._lock(self._descriptor)

    def close(self) -> None:
        """Ends it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        if not _locked(descriptor, fcntl.LOCK_SH):
            # Whoever may read here can keep others from locking; the model runs all the same.
            threading.Thread(target=fcntl.flock, args=(os.dup(descriptor), fcntl.LOCK_SH), daemon=True).start()


def is_release(folder: Path) -> bool:
    """Whether a folder is an installed release: DIR/releases/N."""
    return folder.parent.name == "releases" and folder.name.isdecimal() and (folder / MANIFEST).is_file()


def in_use(folder: Path) -> bool:
    """Whether a process runs from an installed release."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(users(folder)) or not _locked(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without such locks
        return False
    finally:
        os.close(descriptor)


def users(folder: Path) -> list[int]:
    """The processes that run from an installed release, as far as this system tells them: `in_use` is what counts."""
    try:
        state, lines = folder.stat(), _LOCKS.read_text().splitlines()
    except OSError:
        return []
    place = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    found = (line.split() for line in lines)
    return sorted(
        {int(each[4]) for each in found if each[1:4] == ["FLOCK", "ADVISORY", "READ"] and each[5] == place} - {0}
    )


def _locked(descriptor: int, kind: int) -> bool:
    """Takes a lock unless somebody holds one that excludes it. Raises OSError where there are none."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.sched_yield()
        else:
            return True
    return False
