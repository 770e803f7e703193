"""What an export folder says of itself: `manifest.json`, one schema for every format. Standard library only.

    {"schema": 1, "format": "gguf", "quant": "q4_0", "vision_quant": "f16",
     "source": {"name": …, "sha256": …}, "tools": {name: version},
     "files": {path: {"role": …, "bytes": …, "sha256": …, "tensor_types": {type: {"count": …, "bytes": …}}}},
     "image": {"tokens": …, "token": …, "token_id": …}, "prompt_template": …, "end_tokens": […],
     "context": …, "parity": {…}, "measured": {…}, "pictures": …}

A reader refuses a newer schema, a path that leaves the folder, and a file whose bytes aren't those that were written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from switchkd.errors import SkdError
from switchkd.files import file_sha256, read_json, write_text

FILE_NAME = "manifest.json"
SCHEMA = 1


class ManifestError(SkdError):
    """An export folder that can't be trusted or understood."""


@dataclass(frozen=True)
class TensorCount:
    """How much of a file is of one tensor type."""

    count: int  # tensors
    bytes: int  # of their data


@dataclass(frozen=True)
class FileEntry:
    """One file of the export."""

    role: str  # "language", "vision", "embedding" for weights; "" for the files beside them
    bytes: int  # size
    sha256: str  # of the whole file, hexadecimal
    tensor_types: dict[str, TensorCount] = field(default_factory=dict)  # by the format's own name of the type


@dataclass(frozen=True)
class Origin:
    """The checkpoint that was exported."""

    name: str  # its folder's name
    sha256: str  # over its files' names and contents


@dataclass(frozen=True)
class ImageTokens:
    """How a picture stands in a prompt."""

    tokens: int  # that one picture takes
    token: str  # the placeholder's text
    token_id: int  # and its id


@dataclass(frozen=True)
class Manifest:
    """An export folder's contents, origin and proof."""

    format: str  # gguf, onnx
    quant: str  # of the language model, as the format's tools call it
    vision_quant: str  # of tower and projector
    source: Origin
    tools: dict[str, str]  # name → version of what wrote the files
    files: dict[str, FileEntry]  # path inside the folder, with "/" → entry
    image: ImageTokens
    prompt_template: str  # the chat template
    end_tokens: list[int]  # ids that end an answer
    context: int  # most tokens the model was trained to read
    parity: dict[str, Any]  # measured against the source; see the exporter's documentation
    measured: dict[str, Any] = field(default_factory=dict)  # speed, in older exports alone; `skd bench` measures it
    pictures: int | None = None  # most of a record that it was trained on; None: not known
    schema: int = SCHEMA

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Manifest:
        """Reads and checks a folder's manifest.

        Args:
            verify: also compare every file with its hash, which reads it whole.

        Raises:
            ManifestError: it is missing, torn or newer than this reader; a path leaves the folder; a file is missing or
                isn't what was written.
        """
        path = folder / FILE_NAME
        try:
            value = read_json(path, ManifestError)
        except FileNotFoundError as error:
            raise ManifestError(f"{path} is missing, so {folder} is no export; make one with `skd export`.") from error
        manifest = cls._from_json(value, path)
        for name, entry in manifest.files.items():
            _check_file(folder, name, entry, verify)
        return manifest

    def save(self, folder: Path) -> None:
        """Writes manifest.json. Raises SkdError where it can't."""
        write_text(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def weights(self) -> int:
        """Bytes of the files that hold weights, whatever their format: those with a role, and ONNX's data beside them."""
        holders = {name for name, entry in self.files.items() if entry.role}
        return sum(entry.bytes for name, entry in self.files.items() if name.removesuffix("_data") in holders)

    def file_of(self, role: str) -> str:
        """The path of the one file with this role. Raises ManifestError unless there is exactly one."""
        names = [name for name, entry in self.files.items() if entry.role == role]
        if len(names) != 1:
            raise ManifestError(f"The manifest names {len(names)} files with the role '{role}'; there must be one.")
        return names[0]

    @classmethod
    def _from_json(cls, value: Any, path: Path) -> Manifest:
        schema = value.get("schema") if isinstance(value, dict) else None
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise ManifestError(f"{path} is no manifest: it names no schema.")
        if schema > SCHEMA:
            raise ManifestError(
                f"{path} has schema {schema}, newer than {SCHEMA}, which this version reads: update skd."
            )
        try:
            files = {name: _file_entry(entry) for name, entry in value["files"].items()}
            manifest = cls(
                **{name: _typed(value, name, kind) for name, kind in _PLAIN.items()},
                source=_build(Origin, value["source"]),
                image=_build(ImageTokens, value["image"]),
                measured=_typed({"measured": {}, **value}, "measured", dict),
                pictures=None if value.get("pictures") is None else _typed(value, "pictures", int),
                files=files,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(f"{path} is torn: {type(error).__name__} {error}.") from error
        for name in files:
            if not _is_inside(name):
                raise ManifestError(f"{path} names a file outside its folder: {name!r}.")
        return manifest


_PLAIN: dict[str, type] = {
    "format": str,
    "quant": str,
    "vision_quant": str,
    "tools": dict,
    "prompt_template": str,
    "end_tokens": list,
    "context": int,
    "parity": dict,
    "schema": int,
}
_TYPES: dict[str, type] = {"str": str, "int": int}


def _typed(value: Mapping[str, Any], name: str, kind: type) -> Any:
    if type(value[name]) is not kind:
        raise TypeError(f"{name} isn't of type {kind.__name__}")
    return value[name]


def _build(cls: type, value: Mapping[str, Any]) -> Any:
    """A dataclass of strings and whole numbers out of a JSON object."""
    return cls(**{entry.name: _typed(value, entry.name, _TYPES[str(entry.type)]) for entry in fields(cls)})


def _file_entry(value: Mapping[str, Any]) -> FileEntry:
    types = {name: _build(TensorCount, count) for name, count in value.get("tensor_types", {}).items()}
    role, size, digest = (_typed(value, *item) for item in (("role", str), ("bytes", int), ("sha256", str)))
    return FileEntry(role, size, digest, types)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
    )


def _blobs(folder: Path) -> list[Path]:
    """Where a snapshot in the hub's cache (`models--OWNER--NAME/snapshots/HASH`) has its files, behind links."""
    for place in folder.parents:
        if place.name == "snapshots" and place.parent.name.startswith("models--"):
            return [place.parent / "blobs"]
    return []


def _check_file(folder: Path, name: str, entry: FileEntry, verify: bool) -> None:
    path = folder / name
    if not any(path.resolve().is_relative_to(place) for place in (folder.resolve(), *_blobs(folder.resolve()))):
        raise ManifestError(f"{path} leads out of its folder.")
    if not path.is_file():
        raise ManifestError(f"{path} is missing; export again or copy the folder again.")
    if path.stat().st_size != entry.bytes:
        raise ManifestError(f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}; copy the folder again.")
    if verify and file_sha256(path) != entry.sha256:
        raise ManifestError(f"{path} isn't the file that was exported (its SHA-256 differs); copy the folder again.")
