"""Writes a GGUF file tensor by tensor: names and shapes first, then one tensor at a time out of the checkpoint.

`gguf` is imported when a writer is made, so that reading about formats needs no extra.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import CheckpointError, MissingDependencyError
from switchkd.export.checkpoint import Checkpoint

FILE_TYPES = {"f32": 0, "f16": 1}  # llama.cpp's LLAMA_FTYPE of unquantized files


@dataclass(frozen=True)
class Placed:
    """A checkpoint's tensor in a GGUF file."""

    source: str  # its name in the checkpoint
    shape: tuple[int, ...]  # what the configuration means it to be
    exact: bool = False  # float32 whatever the file's precision: norms, biases and positions are small and sensitive


def gguf_library() -> Any:
    """The `gguf` package.

    Raises:
        MissingDependencyError: it isn't installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError("GGUF files need an extra: pip install 'switchkd[gguf]'.") from error
    logging.getLogger("gguf").setLevel(logging.ERROR)
    return gguf


def new_writer(path: Path, architecture: str, name: str, precision: str) -> Any:
    """A GGUFWriter with the general keys set."""
    gguf = gguf_library()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("mmproj" if architecture == "clip" else "model")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return writer


def write_tensors(writer: Any, checkpoint: Checkpoint, placed: dict[str, Placed], precision: str) -> None:
    """Writes the header and then every tensor of `placed` (name in the file → tensor), and closes the writer.

    Raises:
        CheckpointError: a tensor is missing, misshapen, not finite, or too large for float16.
    """
    types = {name: np.dtype(np.float32 if entry.exact else _dtype(precision)) for name, entry in placed.items()}
    for name, entry in placed.items():
        bytes_ = int(np.prod(entry.shape)) * types[name].itemsize
        writer.add_tensor_info(name, entry.shape, types[name], bytes_)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, entry in placed.items():
            writer.write_tensor_data(_cast(checkpoint, entry, types[name]))
    finally:
        writer.close()


def check_complete(checkpoint: Checkpoint, *files: dict[str, Placed]) -> None:
    """Raises CheckpointError unless the files together take every tensor of the checkpoint, and it has them all."""
    wanted = {entry.source for file in files for entry in file.values()}
    present = set(checkpoint.tensors) - ({"lm_head.weight"} if checkpoint.tied else set())
    for kind, names in (("lacks", wanted - present), ("has unexpected", present - wanted)):
        if names:
            raise CheckpointError(f"{checkpoint.folder} {kind} tensors: {len(names)}, first {min(names)}.")
    for file in files:
        for entry in file.values():
            if checkpoint.tensors[entry.source].shape != entry.shape:
                raise CheckpointError(
                    f"{checkpoint.folder}: {entry.source} is {list(checkpoint.tensors[entry.source].shape)}, "
                    f"its config.json means {list(entry.shape)}."
                )


def _dtype(precision: str) -> type:
    return np.float32 if precision == "f32" else np.float16


def _cast(checkpoint: Checkpoint, entry: Placed, dtype: np.dtype) -> NDArray[Any]:
    values = checkpoint.read(entry.source)
    if dtype == np.float16 and float(np.abs(values).max(initial=0)) > float(np.finfo(np.float16).max):
        raise CheckpointError(
            f"{checkpoint.folder}: {entry.source} has values too large for f16; export with --quant f32."
        )
    return np.ascontiguousarray(values, dtype=dtype)
