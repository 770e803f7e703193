"""Which releases processes run from: each holds a shared lock on its release's folder, which ends with the process.

The folder itself is locked: nothing is written, so that a service needs no right to write, and nothing can be left over. The lock
that counts is an open file description's (OFD): who looks asks for it without taking it, so those who look never see each
other, and nobody can keep another from it, as no folder is opened for writing. A second one (flock) lets the system tell the
process's number. Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from switchkd.runtime.packages.format import MANIFEST, VARIANT

_LOCK = "@hhqqi0q"  # struct flock: type, whence, start, length (0: to the end), process
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
            with contextlib.suppress(OSError):  # a file system without locks
                self._descriptor = os.open(variant.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, struct.pack(_LOCK, fcntl.F_RDLCK, 0, 0, 0, 0))
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Ends it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_release(folder: Path) -> bool:
    """Whether a folder is an installed release: DIR/releases/N."""
    return folder.parent.name == "releases" and folder.name.isdecimal() and (folder / MANIFEST).is_file()


def in_use(folder: Path) -> bool:
    """Whether a process runs from an installed release."""
    with contextlib.suppress(OSError), _opened(folder) as descriptor:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, struct.pack(_LOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
        return bool(struct.unpack(_LOCK, answer)[0] != fcntl.F_UNLCK)
    return False


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


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
