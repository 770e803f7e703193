"""What file systems can't do, and what is done then: full ones, mount points, layers, folders that can't be flushed.

Standard library only.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from switchkd.errors import SkdError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, no quota left, larger than a file may be
_NEARLY_NOTHING = 1 << 20  # bytes


def why_full(error: BaseException, *folders: Path) -> str | None:
    """What a failure has to do with a full disk; None: nothing that can be seen.

    Libraries of other languages tell it in words alone, and some only that a file they have written themselves is torn: then
    the disk itself is asked.

    Args:
        folders: that the work writes into.
    """
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in _FULL:
            return os.strerror(each.errno)
        text = str(each)
        for number in _FULL:
            if os.strerror(number) in text or f"(os error {number})" in text:
                return os.strerror(number)
    for folder in folders:
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            continue
        if free < _NEARLY_NOTHING:
            return f"{os.strerror(errno.ENOSPC)} ({folder})"
    return None


def require_replaceable(path: Path) -> None:
    """Raises SkdError for a mount point: nothing can be put in its place, which would come out at the end of the work."""
    if path.exists() and _is_mount_point(path):
        raise SkdError(
            f"{path} is a mount point, which can't be replaced as a whole: choose a name inside it, such as {path / 'new'}."
        )


def put_in_place(new: Path, place: Path) -> None:
    """Renames a folder to a name that an older folder may have, which is removed then.

    Raises:
        OSError: neither has changed then, unless the old one, which couldn't be renamed, couldn't be removed whole either.
    """
    old = place.with_name(f"{new.name}.old")
    try:
        place.rename(old)
    except FileNotFoundError:
        new.rename(place)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A folder out of a lower layer of an overlay can be removed, but not renamed.
        shutil.rmtree(place)
        new.rename(place)
        return
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path, aside: Path) -> None:
    """Removes a folder, under another name from the beginning where it can be renamed, as much of it as goes."""
    try:
        folder.rename(aside)
    except OSError:  # a lower layer's
        aside = folder
    shutil.rmtree(aside, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Brings a folder's names onto the disk; where its file system can't do that for one folder, everything that waits."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.sync()
    finally:
        os.close(descriptor)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _is_mount_point(path: Path) -> bool:
    """Also for a folder or file mounted out of the same file system, which looks like any other."""
    real = os.path.realpath(path)
    if os.path.ismount(real):
        return True
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123
            return any(line.split(" ")[4] == real.replace(" ", r"\040") for line in mounts)
    except (OSError, IndexError):
        return False
