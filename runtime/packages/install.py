"""Installing releases and going back: nothing is switched to that isn't whole, checked and on the disk.

A power cut at any point leaves `current` where it was or where it was to go, and both are whole: everything in a new
release is on the disk before the release gets its name, and that before the link is switched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from switchkd.disk import flush_folder
from switchkd.errors import SkdError
from switchkd.runtime.packages.exchange import exchange
from switchkd.runtime.packages.format import FOLDER_MODE, MANIFEST, SIGNATURE, PackageError, Targets, mode
from switchkd.runtime.packages.reader import Head, PackageReader, open_package, verify_folder, verify_package
from switchkd.runtime.packages.releases import KEPT, PARTIAL, Releases

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

_SPARE = 16 << 20  # bytes that have to stay free

Check = Callable[[Path], None]
"""Takes a whole release's folder before anything leads to it; raises SkdError where it mustn't be switched to."""
Hook = Callable[[int], None]
"""Takes the release that is in use now, after a switch; raises SkdError where the switch has to be undone."""


@dataclass(frozen=True)
class Installed:
    """What `install` or `roll_back` did."""

    targets: Targets  # of the release in use now
    folder: Path  # where it lies
    before: int | None  # the release that was in use
    key_id: str  # that the release in use was signed with
    written: bool  # false: it was there already, whole


class Installation(Releases):
    """A folder of installed releases, which packages are installed into."""

    def install(
        self,
        package: Path,
        keys: Sequence[SSlibKey],
        *,
        hardware_id: str | None = None,
        keep: int = KEPT,
        check: Check | None = None,
        hook: Hook | None = None,
    ) -> Installed:
        """Unpacks a package while checking it, and switches to it when it is whole and on the disk.

        A release that is installed already is checked, replaced where it is damaged, and switched to where it isn't in use.

        Args:
            keys: one of them has to have signed it.
            hardware_id: what this computer is called; the package has to be for it.
            keep: releases that stay, the new one and those that going back leads to.
            check: asked before the release has its name, or before a switch to one that was there.
            hook: called after the switch, or after the one in use was replaced.

        Raises:
            PackageError: the package isn't what was signed, is for another computer, or older than what was installed.
            SkdError: another install is at work here, the disk is too full, or `check` refuses. Nothing has changed then. Or
                `hook` fails: what was in use is in use again, and the new release stays beside it.
        """
        with open_package(package, keys) as reader, self._locked():
            targets, before = reader.head.targets, self.current
            targets.require(hardware_id=hardware_id, installed=self.highest)
            folder = self.path(targets.release)
            written = not self._is_ready(reader, package, keys)
            if written:
                self._unpack(reader, folder, check)
            elif check is not None and before != targets.release:
                check(folder)
            if before != targets.release:
                previous = self.previous
                if before is not None:
                    self._point("previous", before)
                self._point("current", targets.release)
                if before is None:
                    self._point("previous", None)
                self._tell(hook, targets.release, before, previous)
            elif written and hook is not None:
                hook(targets.release)
            self._prune(keep)
            return Installed(targets, folder, before, reader.head.key_id, written)

    def roll_back(
        self,
        keys: Sequence[SSlibKey],
        *,
        hardware_id: str | None = None,
        to: int | None = None,
        hook: Hook | None = None,
    ) -> Installed:
        """Switches back to the release before, or to one that is still further back, after checking it.

        Args:
            keys: one of them has to have signed it.
            hardware_id: what this computer is called; the release has to be for it.
            to: the release; by default the one that was in use before, and where that has been gone back from, the highest
                whole one below.
            hook: called after the switch.

        Raises:
            PackageError: that one isn't what was signed with one of the keys, or is for another computer.
            SkdError: there is none, or `hook` fails: what was in use is in use again.
        """
        if not self._releases.is_dir():
            raise SkdError(f"{self.folder} holds no installed release.")
        with self._locked():
            before, previous = self.current, self.previous
            target = self._before(keys) if to is None else to
            if target not in self.way_back:
                raise self._no_way(target)
            head = self._verified(target, keys)
            head.targets.require(hardware_id=hardware_id, installed=None)
            self._point("current", target)
            self._point("previous", next((each for each in self.way_back if each < target), None))
            self._tell(hook, target, before, previous)
            return Installed(head.targets, self.path(target), before, head.key_id, written=False)

    def _tell(self, hook: Hook | None, release: int, before: int | None, previous: int | None) -> None:
        """Calls the hook; where it fails, switches to what was in use, and calls it for that."""
        if hook is None:
            return
        try:
            hook(release)
        except SkdError as error:
            self._point("current", before)
            self._point("previous", previous)
            state = "nothing is in use" if before is None else f"release {before} is in use again"
            try:
                if before is not None:
                    hook(before)
            except SkdError:
                state += ", and for it the hook failed as well"
            raise SkdError(f"{error} Release {release} was switched back: {state}.") from error

    def _before(self, keys: Sequence[SSlibKey]) -> int | None:
        """Where one step back leads."""
        if self.previous in self.way_back:
            return self.previous
        for lower in self.way_back:
            with contextlib.suppress(PackageError):
                self._verified(lower, keys)
                return lower
        return next(iter(self.way_back), None)  # all are damaged: the first says in which way

    def _verified(self, release: int, keys: Sequence[SSlibKey]) -> Head:
        head = verify_folder(self.path(release), keys)
        if head.targets.release != release:
            raise PackageError(f"{self.path(release)} holds release {head.targets.release}.")
        return head

    def _no_way(self, target: int | None) -> SkdError:
        kept = ", ".join(map(str, self.way_back))
        if not kept:
            before = "" if self.current is None else f" before {self.current}"
            return SkdError(f"{self.folder} has no release{before} to go back to.")
        return SkdError(f"There is no way back from release {self.current} to {target}; {self.folder} has {kept}.")

    def _is_ready(self, reader: PackageReader, package: Path, keys: Sequence[SSlibKey]) -> bool:
        """Whether the package's release is installed already, and whole."""
        release = reader.head.targets.release
        folder = self.path(release)
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

    def _unpack(self, reader: PackageReader, folder: Path, check: Check | None) -> None:
        """Writes and checks a release beside its place, brings it onto the disk, and gives it its name."""
        needed, free = reader.head.targets.total_bytes + _SPARE, shutil.disk_usage(self._releases).free
        if needed > free:
            raise SkdError(f"{self._releases} has {free / 1e6:.0f} MB free; the package needs {needed / 1e6:.0f} MB.")
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self._releases))
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
            if check is not None:
                check(partial)
            if folder.exists():
                _replace_damaged(folder, partial)
            else:
                partial.rename(folder)
            flush_folder(self._releases)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


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
