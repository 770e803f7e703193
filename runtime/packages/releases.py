"""Installed releases: one folder each, and a link to the one in use, which is switched in one step.

    DIR/current        link to the release in use
    DIR/previous       link to the one before it, where there is one to go back to
    DIR/releases/N/    a release, whole since it has had this name

A damaged release keeps its name until a whole one takes it over, so that the highest number, which is the counter, never falls.
POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from switchkd.disk import flush_folder, remove_folder
from switchkd.errors import SkdError
from switchkd.runtime.packages.usage import in_use

PARTIAL = ".partial-"  # what is being written: releases, links before their switch
KEPT = 2  # releases that stay unless told otherwise: the one in use and the one before


class Releases:
    """A folder of installed releases: what is there, and the single steps that change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._releases = folder / "releases"

    @property
    def current(self) -> int | None:
        """The release in use."""
        return self._release_of("current")

    @property
    def previous(self) -> int | None:
        """The release that was in use before it."""
        return self._release_of("previous")

    @property
    def highest(self) -> int | None:
        """The highest release that has been installed, which is kept until a higher one comes."""
        return max(self.numbers, default=None)

    @property
    def numbers(self) -> set[int]:
        """All releases that are there."""
        names = (path.name for path in self._releases.iterdir()) if self._releases.is_dir() else ()
        return {int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name))}

    @property
    def way_back(self) -> list[int]:
        """The releases that going back leads to, step by step: the previous one, then the lower ones that are there."""
        current, previous = self.current, self.previous
        # Not below where the power was cut between the two links.
        start = [] if previous is None or (current is not None and previous >= current) else [previous]
        below = next((each for each in (*start, current) if each is not None), 0)
        return [*start, *sorted((each for each in self.numbers - {current} if each < below), reverse=True)]

    def path(self, release: int) -> Path:
        """Where a release lies."""
        return self._releases / str(release)

    def _point(self, link: str, release: int | None) -> None:
        """Lets a link lead to a release, in one step; None removes it."""
        if release is None:
            (self.folder / link).unlink(missing_ok=True)
        else:
            partial = self.folder / f"{PARTIAL}{link}"
            partial.unlink(missing_ok=True)
            partial.symlink_to(f"releases/{release}")
            partial.replace(self.folder / link)
        flush_folder(self.folder)

    def _prune(self, keep: int) -> None:
        """Removes releases but the one in use and those that going back leads to first, `keep` together.

        The highest stays, because no older one may follow it, and what a process runs from.
        """
        kept = {self.current, *self.way_back[: keep - 1], self.highest}
        for release in self.numbers - kept:
            if not in_use(self.path(release)):
                remove_folder(self.path(release), aside=self._releases / f"{PARTIAL}{release}")

    def _release_of(self, link: str) -> int | None:
        try:
            target = (self.folder / link).readlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SkdError(f"{self.folder / link} isn't the link that `skd install` makes; move it away.") from error
        return next((each for each in self.numbers if target == Path("releases") / str(each)), None)

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
            for path in self._releases.glob(f"{PARTIAL}*"):
                shutil.rmtree(path, ignore_errors=True)
            for path in self.folder.glob(f"{PARTIAL}*"):
                path.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SkdError(f"Another `skd install` is at work in {self.folder}; try again when it is done.") from error


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each on the disk in the one that holds it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)
