"""What is installed in a folder, what runs from it, and where going back leads. Nothing is checked here, and nothing changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.manifest import FILE_NAME
from switchkd.runtime.packages.checks import LastCheck, last_checks, targets_sha256
from switchkd.runtime.packages.format import MANIFEST, MAX_MANIFEST, VARIANT, PackageError, Targets
from switchkd.runtime.packages.reader import read_small
from switchkd.runtime.packages.releases import Releases
from switchkd.runtime.packages.usage import in_use, users

SCHEMA = 1


@dataclass(frozen=True)
class ReleaseStatus:
    """One release, as it describes itself."""

    release: int
    current: bool  # the links lead to it
    running: bool  # a process has opened it
    processes: list[int]  # their numbers, those that this one may see
    targets: Targets | None  # what is signed there, the signature not checked here; None: it can't be read
    targets_sha256: str
    check: LastCheck | None  # by `skd verify`, of this very targets.json

    @property
    def manifest_sha256(self) -> str | None:
        """Of the variant's manifest.json, as in bench.json and the bill of materials."""
        entry = self.targets.files.get(f"{VARIANT}/{FILE_NAME}") if self.targets else None
        return entry.sha256 if entry else None

    def to_json(self) -> dict[str, Any]:
        """As `skd status --json` prints it."""
        check = self.check and {"time": self.check.time, "right": not self.check.refused, "refused": self.check.refused}
        return {
            "release": self.release,
            "name": self.targets and self.targets.name,
            "target": self.targets and self.targets.hardware_id,
            "manifest_sha256": self.manifest_sha256,
            "targets_sha256": self.targets_sha256 or None,
            "current": self.current,
            "running": self.running,
            "processes": self.processes,
            "last_check": check,
        }


@dataclass(frozen=True)
class Status:
    """A folder of releases."""

    folder: Path
    current: int | None  # the release in use
    highest: int  # that was installed; no lower one may follow
    way_back: list[int]  # where `skd install --rollback` leads, step by step
    releases: list[ReleaseStatus]  # the newest first

    @classmethod
    def of(cls, folder: Path) -> Status:
        """Looks at a folder. Raises SkdError where no release is installed there."""
        releases = Releases(folder)
        highest, current = releases.highest, releases.current
        if highest is None:
            raise SkdError(f"{folder} holds no installed release; give the folder that `skd install` installs into.")
        checks = last_checks(releases)
        listed = [
            _release(releases.path(number), number, number == current, checks.get(number))
            for number in sorted(releases.numbers, reverse=True)
        ]
        return cls(folder, current, highest, releases.way_back, listed)

    def to_json(self) -> dict[str, Any]:
        """As `skd status --json` prints it."""
        return {
            "schema": SCHEMA,
            "folder": str(self.folder),
            "current": self.current,
            "running": [each.release for each in self.releases if each.running],
            "highest": self.highest,
            "rollback": self.way_back,
            "releases": [each.to_json() for each in self.releases],
        }


def _release(folder: Path, number: int, current: bool, check: LastCheck | None) -> ReleaseStatus:
    digest = targets_sha256(folder)
    if check is not None and check.targets_sha256 != digest:
        check = None  # of other contents
    try:
        targets = Targets.from_bytes(read_small(folder / MANIFEST, MAX_MANIFEST))
    except PackageError:
        targets = None
    return ReleaseStatus(number, current, in_use(folder), users(folder), targets, digest, check)
