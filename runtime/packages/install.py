"""Installed releases: one folder each, and a link to the one in use, which is switched in one step.

    DIR/current        link to the release in use
    DIR/previous       link to the one before it, where there is one to go back to
    DIR/releases/N/    a release, whole since it has had this name

A power cut at any point leaves `current` where it was or where it was to go, and both are whole: everything in a new
release is on the disk before the release gets its name, and that before the link is switched. A damaged release keeps its
name until a whole one takes it over, so that the highest number, which is the counter, never falls. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from switchkd.disk import flush_folder, remove_folder
from switchkd.errors import SkdError
from switchkd.runtime.packages.exchange import exchange
from switchkd.runtime.packages.format import FOLDER_MODE, MANIFEST, SIGNATURE, PackageError, Targets, mode
from switchkd.runtime.packages.reader import PackageReader, open_package, verify_folder, verify_package

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

_PARTIAL = ".partial-"  # releases that are being written, links before their switch
_SPARE = 16 << 20  # bytes that have to stay free


@dataclass(frozen=True)
class Installed:
    """What `install` or `roll_back` did."""

    targets: Targets  # of the release in use now
    folder: Path  # where it lies
    before: int | None  # the release that was in use
    key_id: str  # that the release in use was signed with
    written: bool  # false: it was there already, whole


class Installation:
    """A folder of installed releases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._releases = folder / "releases"

    @property
    def current(self) -> int | None:
        """The release in use."""
        return self._release_of("current")

    @property
    def previous(self) -> int | None:
        """The release to go back to."""
        return self._release_of("previous")

    @property
    def highest(self) -> int | None:
        """The highest release that has been installed, which is kept until a higher one comes."""
        return max(self._numbers(), default=None)

    def install(self, package: Path, keys: Sequence[SSlibKey], *, hardware_id: str | None = None) -> Installed:
        """Unpacks a package while checking it, and switches to it when it is whole and on the disk.

        A release that is installed already is checked, replaced where it is damaged, and switched to where it isn't in use.

        Args:
            keys: one of them has to have signed it.
            hardware_id: what this computer is called; the package has to be for it.

        Raises:
            PackageError: the package isn't what was signed, is for another computer, or older than what was installed.
            SkdError: another install is at work here, or the disk is too full. Nothing has changed then.
        """
        with open_package(package, keys) as reader, self._locked():
            targets, before = reader.head.targets, self.current
            targets.require(hardware_id=hardware_id, installed=self.highest)
            folder = self._folder(targets.release)
            written = not self._is_ready(reader, package, keys)
            if written:
                self._unpack(reader, folder)
            if before != targets.release:
                self._switch(targets.release, previous=before)
            self._prune()
            return Installed(targets, folder, before, reader.head.key_id, written)

    def roll_back(self, keys: Sequence[SSlibKey], *, hardware_id: str | None = None) -> Installed:
        """Switches back to the release before, after checking it.

        Args:
            keys: one of them has to have signed it.
            hardware_id: what this computer is called; the release has to be for it.

        Raises:
            PackageError: that one isn't what was signed with one of the keys, or is for another computer.
            SkdError: there is none.
        """
        if not self._releases.is_dir():
            raise SkdError(f"{self.folder} holds no installed release.")
        with self._locked():
            before, target = self.current, self.previous
            if before is not None and target == before:  # the power was cut between the two links
                target = self._highest_whole_below(before, keys)
            if target is None:
                raise SkdError(f"{self.folder} has no release before {before} to go back to.")
            head = verify_folder(self._folder(target), keys)
            head.targets.require(hardware_id=hardware_id, installed=None)
            if head.targets.release != target:
                raise PackageError(f"{self._folder(target)} holds release {head.targets.release}.")
            self._switch(target, previous=None)
            return Installed(head.targets, self._folder(target), before, head.key_id, written=False)

    def _highest_whole_below(self, release: int, keys: Sequence[SSlibKey]) -> int | None:
        for lower in sorted((each for each in self._numbers() if each < release), reverse=True):
            with contextlib.suppress(PackageError):
                verify_folder(self._folder(lower), keys)
                return lower
        return None

    def _is_ready(self, reader: PackageReader, package: Path, keys: Sequence[SSlibKey]) -> bool:
        """Whether the package's release is installed already, and whole."""
        release = reader.head.targets.release
        folder = self._folder(release)
        if not folder.exists():
            return False
        try:
            there = verify_folder(folder, keys)
        except PackageError:
            return False
        if there.manifest != reader.head.manifest:
            raise PackageError(f"Release {release} is installed with other contents; give the new one a higher number.")
        verify_package(package, keys)
        return True

    def _unpack(self, reader: PackageReader, folder: Path) -> None:
        """Writes and checks a release beside its place, brings it onto the disk, and gives it its name."""
        needed, free = reader.head.targets.total_bytes + _SPARE, shutil.disk_usage(self._releases).free
        if needed > free:
            raise SkdError(f"{self._releases} has {free / 1e6:.0f} MB free; the package needs {needed / 1e6:.0f} MB.")
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._releases))
        try:
            for name in sorted(reader.head.targets.folders):
                (partial / name).mkdir()
                (partial / name).chmod(FOLDER_MODE)
            reader.deliver(lambda name, blocks: _write(partial / name, blocks, mode(name)))
            _write(partial / MANIFEST, iter([reader.head.manifest]), mode(MANIFEST))
            _write(partial / SIGNATURE, iter([reader.head.signature]), mode(SIGNATURE))
            partial.chmod(FOLDER_MODE)
            for name in reader.head.targets.folders:
                flush_folder(partial / name)
            flush_folder(partial)
            if folder.exists():
                _replace_damaged(folder, partial)
            else:
                partial.rename(folder)
            flush_folder(self._releases)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _switch(self, release: int, *, previous: int | None) -> None:
        if previous is not None:
            self._point("previous", previous)
        self._point("current", release)
        if previous is None:
            (self.folder / "previous").unlink(missing_ok=True)
            flush_folder(self.folder)

    def _point(self, link: str, release: int) -> None:
        partial = self.folder / f"{_PARTIAL}{link}"
        partial.unlink(missing_ok=True)
        partial.symlink_to(f"releases/{release}")
        partial.replace(self.folder / link)
        flush_folder(self.folder)

    def _prune(self) -> None:
        """Removes releases that nothing leads to; the highest stays, because no older one may follow it."""
        for release in self._numbers() - {self.current, self.previous, self.highest}:
            remove_folder(self._folder(release), aside=self._releases / f"{_PARTIAL}{release}")

    def _numbers(self) -> set[int]:
        names = (path.name for path in self._releases.iterdir()) if self._releases.is_dir() else ()
        return {int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name))}

    def _folder(self, release: int) -> Path:
        return self._releases / str(release)

    def _release_of(self, link: str) -> int | None:
        try:
            target = (self.folder / link).readlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SkdError(f"{self.folder / link} isn't the link that `skd install` makes; move it away.") from error
        return next((each for each in self._numbers() if target == Path("releases") / str(each)), None)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One install at a time; what an interrupted one left is removed. The lock ends with the process."""
        try:
            _make_folder(self._releases)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SkdError(f"{self.folder} can't be written: {error.strerror or error}.") from error
        try:
            self._lock(lock)
            for path in self._releases.glob(f"{_PARTIAL}*"):
                shutil.rmtree(path, ignore_errors=True)
            for path in self.folder.glob(f"{_PARTIAL}*"):
                path.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SkdError(f"Another `skd install` is at work in {self.folder}; try again when it is done.") from error


def installed_release(folder: Path) -> int:
    """The highest release that has been installed in a folder.

    Raises:
        SkdError: there is none.
    """
    highest = Installation(folder).highest
    if highest is None:
        raise SkdError(f"{folder} holds no installed release; give the folder that `skd install` installs into.")
    return highest


def _replace_damaged(folder: Path, whole: Path) -> None:
    """Puts a whole release in a damaged one's place; in two steps a power cut could leave none, and a lower counter."""
    try:
        exchange(whole, folder)
    except OSError as error:
        raise SkdError(
            f"{folder} is damaged, and can't be exchanged for a whole one in one step here ({error.strerror}): "
            "move it away, then install again."
        ) from error


def _write(path: Path, blocks: Iterator[bytes], permissions: int) -> None:
    """A new file whose contents are on the disk when this returns."""
    with path.open("xb") as stream:
        for block in blocks:
            stream.write(block)
        stream.flush()
        os.fchmod(stream.fileno(), permissions)
        os.fsync(stream.fileno())


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each on the disk in the one that holds it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)
