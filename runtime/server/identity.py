"""What is served: its name, the release that it was installed as, and its manifest's hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME
from switchkd.runtime.packages.format import MANIFEST, MAX_MANIFEST, VARIANT, PackageError, Targets


@dataclass(frozen=True)
class Identity:
    """A model as clients and operators know it."""

    name: str
    release: int | None = None  # the counter of the package that it was installed from
    manifest: str | None = None  # SHA-256 of an export's manifest.json, hexadecimal

    @classmethod
    def of(cls, folder: Path) -> Identity:
        """Of a checkpoint or an export; of an installed one by its package's name, since its folder has none of its own."""
        folder = folder.resolve()
        if not (folder / FILE_NAME).exists():
            return cls(folder.name)
        digest = file_sha256(folder / FILE_NAME)
        targets = _package(folder)
        entry = None if targets is None else targets.files.get(f"{VARIANT}/{FILE_NAME}")
        if targets is None or entry is None or entry.sha256 != digest:
            return cls(folder.name, manifest=digest)
        return cls(targets.name, targets.release, digest)

    def fields(self) -> dict[str, Any]:
        """What is known, as fields of an answer."""
        known = {"release": self.release, "manifest_sha256": self.manifest}
        return {name: value for name, value in known.items() if value is not None}


def _package(folder: Path) -> Targets | None:
    """What lies beside an installed variant. Its signature is `skd install`'s and `skd verify`'s business."""
    path = folder.parent / MANIFEST
    try:
        if folder.name != VARIANT or path.stat().st_size > MAX_MANIFEST:
            return None
        return Targets.from_bytes(path.read_bytes())
    except (OSError, PackageError):
        return None
