"""Tensors out of .safetensors files, one at a time and without torch.

The format (huggingface.co/docs/safetensors): eight bytes of header length, a JSON header that names every tensor's type,
shape and byte range, then the bytes. Files are mapped, never read whole, so a model of any size costs one tensor of memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.architecture.weights import read_header, weight_files
from switchkd.errors import CheckpointError

# bfloat16 has no numpy type: it is the upper half of a float32.
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    kind: str  # F32, F16 or BF16
    shape: tuple[int, ...]
    start: int  # byte offset in the file

    def read(self) -> NDArray[np.float32]:
        """The values as float32, in a new array."""
        count = math.prod(self.shape)
        raw = np.memmap(self.file, dtype=_TYPES[self.kind], mode="r", offset=self.start, shape=(count,))
        wide = (raw.astype(np.uint32) << 16).view(np.float32) if self.kind == "BF16" else raw.astype(np.float32)
        return wide.reshape(self.shape)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All floating-point tensors of a checkpoint folder's weight files, by name; see `weight_files`.

    Raises:
        CheckpointError: as `weight_files`; a torn file, a name in two files, or a type other than float32, float16, bfloat16.
    """
    tensors: dict[str, Stored] = {}
    for file in weight_files(folder):
        for name, stored in _read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"{name} is both in {tensors[name].file.name} and in {file.name} of {folder}.")
            tensors[name] = stored
    return tensors


def _read_header(file: Path) -> dict[str, Stored]:
    entries, base, size = read_header(file)
    return {
        name: stored
        for name, entry in entries.items()
        if (stored := _locate(file, name, entry, base, size)) is not None
    }


def _locate(file: Path, name: str, entry: dict, base: int, size: int) -> Stored | None:
    """One header entry, checked against the file; None for integers, which are no weights."""
    try:
        kind, shape, (start, end) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} has a torn header: the entry of {name} can't be read.") from error
    if kind in ("I64", "I32"):  # position ids, in older files
        return None
    if kind not in _TYPES:
        raise CheckpointError(f"{file}: {name} is of type {kind}; only {', '.join(_TYPES)} are read.")
    if not 0 <= start <= end or end - start != math.prod(shape) * _TYPES[kind].itemsize:
        raise CheckpointError(f"{file} has a torn header: the byte range of {name} doesn't fit its shape.")
    if base + end > size:
        raise CheckpointError(f"{file} is truncated: {name} ends at byte {base + end} of {size}; copy it again.")
    return Stored(file, kind, shape, base + start)
