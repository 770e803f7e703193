"""Files that are written whole or not at all, and hashed the same way everywhere. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from switchkd.disk import put_in_place, require_replaceable, why_full
from switchkd.errors import SkdError

_BLOCK = 1 << 20


@contextmanager
def replacing_folder(folder: Path, *, replace: bool = True) -> Iterator[Path]:
    """A new, empty folder beside `folder` that takes its place when the block ends without an error.

    An interrupted block leaves nothing; an existing folder is replaced only at the end.

    Args:
        replace: false: a folder that somebody else has made meanwhile is left, and this one's work is lost.

    Raises:
        SkdError: the folder can't be written (permissions, full disk, a mount point), also where what fails says otherwise.
    """
    require_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise SkdError(f"{folder} can't be written: {error.strerror or error}.") from error
    try:
        yield partial
        partial.chmod(0o755)
        if not replace and folder.exists():
            raise SkdError(f"{folder} was made by somebody else meanwhile; it is left as it is.")
        put_in_place(partial, folder)
    except Exception as error:
        reason = why_full(error, partial)
        if reason and not (isinstance(error, SkdError) and reason in str(error)):
            raise SkdError(f"{folder} can't be written: {reason}. Nothing of it is left; make room.") from error
        if isinstance(error, OSError):
            raise SkdError(f"{folder} can't be written: {error.strerror or error}.") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path, error: type[SkdError]) -> Any:
    """A JSON file's value. Raises FileNotFoundError where it isn't there, an `error` of one line where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"{path} can't be read: {reason}.") from reason


def require_writable(folder: Path) -> None:
    """Raises SkdError unless a folder can be written, or made: for work whose results come at its end."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise SkdError(f"{folder} can't be written: {there} is no folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SkdError(f"{folder} can't be written: {there} doesn't allow it.")


def write_text(path: Path, text: str) -> None:
    """Writes a text file through a temporary one, so that a reader never sees half of it.

    What isn't Unicode, as in names of files of another encoding, is written as JSON escapes it.

    Raises:
        SkdError: the file can't be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise SkdError(f"{path} can't be written: {error.strerror or error}.") from error


def point_to(link: Path, target: Path) -> None:
    """Makes `link` a relative symbolic link to `target`, replacing an older link in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    partial.replace(link)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def folder_sha256(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and contents of a folder's files (not of its subfolders), in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()
