"""Writes a GGUF file tensor by tensor: names and shapes first, then one tensor at a time out of the checkpoint.

`gguf` is imported when a writer is made, so that reading about formats needs no extra.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.architecture.family import Tensor
from switchkd.errors import CheckpointError, MissingDependencyError
from switchkd.export.checkpoint import Checkpoint

FILE_TYPES = {"f32": 0, "f16": 1}  # llama.cpp's LLAMA_FTYPE of unquantized files


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


def write_tensors(
    writer: Any,
    checkpoint: Checkpoint,
    tensors: Sequence[Tensor],
    precision: str,
    made: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """Writes the header and then every tensor, and closes the writer.

    Args:
        made: tensors that follow from the configuration, by their names in the file; they come first.

    Raises:
        CheckpointError: a tensor is missing, misshapen, not finite, or too large for float16.
    """
    types = {each.name: _dtype(each, precision) for each in tensors}
    made = made or {}
    for name, values in made.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for tensor in tensors:
        dtype = types[tensor.name]
        writer.add_tensor_info(tensor.gguf, tensor.shape, dtype, int(np.prod(tensor.shape)) * dtype.itemsize)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in made.values():
            writer.write_tensor_data(values)
        for tensor in tensors:
            writer.write_tensor_data(_cast(checkpoint, tensor, types[tensor.name]))
    finally:
        writer.close()


def _dtype(tensor: Tensor, precision: str) -> np.dtype:
    half = tensor.half or (precision != "f32" and not tensor.exact)
    return np.dtype(np.float16 if half else np.float32)


def _cast(checkpoint: Checkpoint, tensor: Tensor, dtype: np.dtype) -> NDArray[Any]:
    values = checkpoint.read(tensor.name)
    if dtype == np.float16 and float(np.abs(values).max(initial=0)) > float(np.finfo(np.float16).max):
        raise CheckpointError(
            f"{checkpoint.folder}: {tensor.name} has values too large for f16; export with --quant f32."
        )
    if tensor.turned:  # a head's two halves, row by row
        values = values.reshape(-1, 2, tensor.turned // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return np.ascontiguousarray(values, dtype=dtype)
