"""When `skd verify` last checked an installed release, and what it found: noted beside the releases, for people.

Nothing is decided by it: it isn't signed, and whoever may write to the folder may write it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from switchkd.runtime.packages.format import MANIFEST, MAX_MANIFEST, PackageError
from switchkd.runtime.packages.reader import read_small
from switchkd.runtime.packages.releases import PARTIAL, Releases
from switchkd.runtime.packages.usage import is_release

FILE = ".checks.json"
_MAX = 1 << 20  # bytes


@dataclass(frozen=True)
class LastCheck:
    """One release's last check."""

    time: str  # UTC, by this computer's clock
    refused: str | None  # why; None: it was what was signed
    targets_sha256: str  # of the targets.json that was checked; empty where it couldn't be read


def note_check(folder: Path, refused: str | None) -> bool:
    """Notes a check of an installed release; does nothing for another folder.

    Args:
        folder: the release's, or a link to it.
        refused: why; None where all was right.

    Returns:
        False: it should have been noted, and can't be.
    """
    folder = folder.resolve()
    if not is_release(folder):
        return True
    releases = Releases(folder.parent.parent)
    check = LastCheck(datetime.now(UTC).isoformat(timespec="seconds"), refused, targets_sha256(folder))
    noted = {**last_checks(releases), int(folder.name): check}
    value = {str(release): asdict(each) for release, each in noted.items() if release in releases.numbers}
    try:
        descriptor, partial = tempfile.mkstemp(prefix=PARTIAL, dir=releases.folder)
        try:
            with os.fdopen(descriptor, "w") as stream:
                json.dump(value, stream, indent=1)
                os.fchmod(stream.fileno(), 0o644)
            Path(partial).replace(releases.folder / FILE)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError:
        return False
    return True


def last_checks(releases: Releases) -> dict[int, LastCheck]:
    """By release; empty where nothing is noted, or the note is torn."""
    with contextlib.suppress(PackageError, ValueError, TypeError, AttributeError, RecursionError):
        value = json.loads(read_small(releases.folder / FILE, _MAX))
        return {int(release): _check(each) for release, each in value.items()}
    return {}


def targets_sha256(folder: Path) -> str:
    """Of an installed release's targets.json; empty where it can't be read."""
    with contextlib.suppress(PackageError):
        return sha256(read_small(folder / MANIFEST, MAX_MANIFEST)).hexdigest()
    return ""


def _check(value: dict[str, Any]) -> LastCheck:
    check = LastCheck(**value)
    if not all(isinstance(each, str) for each in (check.time, check.refused or "", check.targets_sha256)):
        raise TypeError
    return check
