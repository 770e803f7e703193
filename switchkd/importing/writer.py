"""Weights into .safetensors files, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from switchkd.architecture.weights import INDEX, WHOLE
from switchkd.errors import CheckpointError

SHARD = 4 << 30  # bytes
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_weights(entries: Sequence[Entry], folder: Path, progress: Callable[[str], None], limit: int = SHARD) -> None:
    """One file, or shards with an index where that would be larger than `limit`.

    Raises:
        CheckpointError: a tensor holds values that aren't finite, or isn't as was said.
    """
    shards = _divide(entries, limit)
    if len(shards) == 1:
        _write(shards[0], folder / WHOLE, progress)
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(shard, folder / name, progress)
        placed |= {entry.name: name for entry in shard}
    index = {"metadata": {"total_size": sum(entry.bytes for entry in entries)}, "weight_map": placed}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _divide(entries: Iterable[Entry], limit: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(each.bytes for each in shards[-1]) + entry.bytes > limit:
            shards.append([])
        shards[-1].append(entry)
    return shards


def _write(entries: Sequence[Entry], path: Path, progress: Callable[[str], None]) -> None:
    """The format: eight bytes of header length, a JSON header, then the tensors' bytes (huggingface.co/docs/safetensors)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for entry in entries:
        offsets = [place, place + entry.bytes]
        header[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        place += entry.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for number, entry in enumerate(entries, 1):
            progress(f"writing {path.name}: tensor {number} of {len(entries)}")
            tensor = entry.load().contiguous()
            if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
                raise CheckpointError(f"{entry.name} is {list(tensor.shape)} of {tensor.dtype}, not as its file says.")
            if not tensor.isfinite().all():
                raise CheckpointError(f"{entry.name} holds values that aren't finite.")
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
