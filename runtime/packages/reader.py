"""Reading packages that may be hostile: in one pass, in a megabyte of memory, with nothing believed before its signature.

What is written while unpacking are the very bytes that were hashed, so there is no moment between check and use.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from switchkd.runtime.packages.format import (
    BLOCK,
    END,
    FOLDER_MODE,
    MANIFEST,
    MAX_MANIFEST,
    MAX_SIGNATURE,
    SIGNATURE,
    Entry,
    PackageError,
    Targets,
    declared_length,
    header,
    mode,
    padding,
)
from switchkd.runtime.packages.signature import verify_signature

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

_CHUNK = 1 << 20  # bytes read at once

Receiver = Callable[[str, Iterator[bytes]], None]
"""Takes a file's name and its bytes, block by block, and has to take them all."""


@dataclass(frozen=True)
class Head:
    """What comes first in a package, its signature checked."""

    manifest: bytes  # as it was signed
    signature: bytes
    targets: Targets
    key_id: str  # of the key that it was signed with


class PackageReader:
    """An open package whose signature fits and whose size is the one that follows from what is signed.

    Use `open_package`. The rest is read once, by `deliver`.
    """

    def __init__(self, stream: BinaryIO, keys: Sequence[SSlibKey]) -> None:
        self._stream = stream
        size = os.fstat(stream.fileno()).st_size
        manifest = self._read_unsigned(MANIFEST, MAX_MANIFEST)
        signature = self._read_unsigned(SIGNATURE, MAX_SIGNATURE)
        key_id = verify_signature(manifest, signature, keys)
        self.head = Head(manifest, signature, Targets.from_bytes(manifest), key_id)
        expected = self.head.targets.archive_bytes(manifest, signature)
        if size != expected:
            raise PackageError(f"It has {size} bytes; by what is signed it has to have {expected}.")

    def deliver(self, receive: Receiver) -> None:
        """Reads the rest and passes each file's blocks on.

        Raises:
            PackageError: anything in it isn't what was signed. `receive` may have got files and blocks by then.
        """
        for name, entry in sorted(self.head.targets.files.items()):
            if self._read(BLOCK) != header(name, entry.length):
                raise PackageError(f"The header of {name} isn't the one that follows from what is signed.")
            receive(name, _checked(self._blocks(entry.length), name, entry))
            self._skip_padding(name, entry.length)
        if self._read(len(END)) != END or self._stream.read(1):
            raise PackageError("It doesn't end where it has to.")

    def _read_unsigned(self, name: str, most: int) -> bytes:
        length = declared_length(self._read(BLOCK), name, most)
        content = self._read(length)
        self._skip_padding(name, length)
        return content

    def _skip_padding(self, name: str, length: int) -> None:
        if any(self._read(padding(length))):
            raise PackageError(f"There is something hidden behind {name}.")

    def _blocks(self, length: int) -> Iterator[bytes]:
        while length:
            block = self._read(min(length, _CHUNK))
            length -= len(block)
            yield block

    def _read(self, length: int) -> bytes:
        content = self._stream.read(length)
        if len(content) != length:
            raise PackageError("It is cut off: copy it again.")
        return content


@contextmanager
def open_package(path: Path, keys: Sequence[SSlibKey]) -> Iterator[PackageReader]:
    """Opens a package and checks its signature; every error names the package.

    Args:
        keys: one of them has to have signed it.

    Raises:
        PackageError: it can't be read, or isn't what was signed with one of the keys.
    """
    with _named(path), _open_file(path, follow=True) as stream:
        yield PackageReader(stream, keys)


def verify_package(path: Path, keys: Sequence[SSlibKey]) -> Head:
    """Checks all of a package and writes nothing. Raises PackageError."""
    with open_package(path, keys) as package:
        package.deliver(_drain)
        return package.head


def verify_folder(folder: Path, keys: Sequence[SSlibKey]) -> Head:
    """Checks an installed release as `verify_package` checks a package: signature, every hash, no file more or less.

    Permissions have to be those that `skd install` gives.

    Raises:
        PackageError: it isn't what was signed with one of the keys.
    """
    with _named(folder):
        head = read_head(folder, keys)
        _require_mode(folder, "The folder", FOLDER_MODE)
        files, folders = set(head.targets.files) | {MANIFEST, SIGNATURE}, head.targets.folders
        for path, is_folder in _walk(folder):
            name = path.relative_to(folder).as_posix()
            if name not in (folders if is_folder else files):
                raise PackageError(f"{name!r:.200} doesn't belong to it.")
            _require_mode(path, name, FOLDER_MODE if is_folder else mode(name))
        for name, entry in head.targets.files.items():
            with _open_file(folder / name) as stream:
                if os.fstat(stream.fileno()).st_size != entry.length:
                    raise PackageError(f"{name} isn't as long as the file that was signed.")
                _drain(name, _checked(_blocks_of(stream), name, entry))
        return head


def read_head(folder: Path, keys: Sequence[SSlibKey]) -> Head:
    """What an installed release says of itself, its signature checked. Raises PackageError."""
    manifest, signature = read_small(folder / MANIFEST, MAX_MANIFEST), read_small(folder / SIGNATURE, MAX_SIGNATURE)
    key_id = verify_signature(manifest, signature, keys)
    return Head(manifest, signature, Targets.from_bytes(manifest), key_id)


def read_small(path: Path, most: int) -> bytes:
    """An ordinary file of at most so many bytes, through no link. Raises PackageError."""
    with _open_file(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise PackageError(f"{path.name} has more than {most} bytes.")
    return content


def _require_mode(path: Path, name: str, expected: int) -> None:
    found = stat.S_IMODE(path.stat().st_mode)
    if found != expected:
        raise PackageError(f"{name} has the permissions {found:o}, not {expected:o}.")


def _checked(blocks: Iterator[bytes], name: str, entry: Entry) -> Iterator[bytes]:
    """Passes a file's blocks on; raises PackageError after the last one, unless they are what was signed."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        yield block
    if digest.hexdigest() != entry.sha256:
        raise PackageError(f"{name} isn't the file that was signed (its SHA-256 differs).")


def _blocks_of(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_CHUNK):
        yield block


def _drain(_: str, blocks: Iterator[bytes]) -> None:
    for _block in blocks:
        pass


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Everything in a folder and whether it is a folder; the caller stops at the first that doesn't belong there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path, is_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
            yield path, is_folder
            if is_folder:
                yield from _walk(path)


@contextmanager
def _open_file(path: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    """An ordinary file, through no link unless `follow`, and without waiting where it is a pipe."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise PackageError(f"{path.name} can't be opened: {error.strerror or error}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PackageError(f"{path.name} is no ordinary file.")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error
