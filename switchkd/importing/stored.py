"""A folder's tensors, whatever file holds them, read one at a time.

Pickles are read here alone, and only by torch's weights-only reader, which builds tensors and runs no code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from switchkd.architecture.weights import (
    INDEX,
    WHOLE,
    read_header,
    refuse_other_kinds,
    refuse_tensor,
    shards,
    weight_files,
)
from switchkd.errors import CheckpointError

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SAFE_SINCE = (2, 6)  # older weights-only readers could be made to run code (CVE-2025-32434)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    file: str  # its name, for people
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]  # raises CheckpointError where the file is torn

    @property
    def bytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """The floating-point tensors of a folder, by their names: of .safetensors files where there are any, else of pickles.

    Raises:
        CheckpointError: there are none, or not all that belong together; an adapter's or quantized ones; a torn file; a pickle
            that holds more than tensors.
    """
    refuse_other_kinds(folder)
    safe = any((folder / name).is_file() for name in (WHOLE, INDEX))
    pickled = _pickles(folder)
    found: dict[str, Stored] = {}
    for file in weight_files(folder) if safe or not pickled else pickled:
        for name, stored in (_in_safetensors if safe else _in_pickle)(file).items():
            if name in found:
                raise CheckpointError(f"{name} is both in {found[name].file} and in {file.name} of {folder}.")
            found[name] = stored
    return found


def holds_weights(folder: Path) -> bool:
    """Whether a folder has weight files of its own."""
    return any((folder / name).is_file() for name in (WHOLE, INDEX, PICKLE, PICKLE_INDEX))


def _pickles(folder: Path) -> list[Path]:
    if (folder / PICKLE_INDEX).is_file():
        return [folder / name for name in shards(folder / PICKLE_INDEX)]
    return [folder / PICKLE] if (folder / PICKLE).is_file() else []


def _in_safetensors(file: Path) -> dict[str, Stored]:
    found = {}
    for name, entry in read_header(file)[0].items():
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if kind in ("I64", "I32"):  # position ids, in older files
            continue
        if kind not in _TYPES:
            raise CheckpointError(f"{file}: {name} is of type {kind}; only {', '.join(_TYPES)} are read.")
        shape = tuple(map(int, entry["shape"]))
        found[name] = Stored(file.name, _TYPES[kind], shape, partial(_read_safetensor, file, name))
    try:
        safe_open(file, "pt").__exit__(None, None, None)  # whether the file is as long as its header says
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is torn ({error}); copy it again.") from error
    return found


def _read_safetensor(file: Path, name: str) -> Tensor:
    try:
        with safe_open(file, "pt") as opened:
            return opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is torn ({error}); copy it again.") from error


def _in_pickle(file: Path) -> dict[str, Stored]:
    found = {}
    for name, tensor in _unpickle(file).items():
        refuse_tensor(file, name, None)
        if tensor.dtype in (torch.int64, torch.int32):
            continue
        if tensor.dtype not in _TYPES.values():
            raise CheckpointError(f"{file}: {name} is of type {tensor.dtype}; only {', '.join(_TYPES)} are read.")
        found[name] = Stored(file.name, tensor.dtype, tuple(tensor.shape), tensor.detach)
    return found


def _unpickle(file: Path) -> Mapping[str, Tensor]:
    """What a pickle holds, mapped into memory rather than read where its form allows that."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_SINCE:
        raise CheckpointError(
            f"{file} is a pickle, which torch {torch.__version__} can't read safely: install torch 2.6."
        )
    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file} holds more than weights, which could run code; it isn't opened.") from error
    except Exception as error:  # torch raises all kinds on torn files
        raise CheckpointError(f"{file} is torn, or no file of weights; copy it again.") from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    ):
        raise CheckpointError(f"{file} holds something else than tensors by their names.")
    return loaded
