"""Quantization by llama.cpp itself, and what really came out of it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from switchkd.export.gguf_writer import gguf_library
from switchkd.manifest import TensorCount
from switchkd.runtime.llama_library import failure, library

# Our names → llama.cpp's LLAMA_FTYPE.
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17}
BLOCK = 32  # values that share a scale in q4_0 and q8_0; a row that isn't a multiple stays f16
K_BLOCK = 256  # the same for K-quants; llama.cpp falls back to a 32-block type elsewhere

Importance = Mapping[str, NDArray[np.float32]]


def quantize(source: Path, target: Path, quant: str, *, threads: int, importance: Importance | None = None) -> None:
    """Writes a quantized copy of a GGUF file.

    Args:
        importance: tensor name → mean square of each input column, to round by what matters.

    Raises:
        SkdError: llama.cpp refused, or couldn't write.
    """
    llama, _ = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[quant]
    params.nthread = threads
    if importance:
        entries = _importance_array(importance)
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama.llama_model_imatrix_data))
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise failure(f"llama.cpp couldn't quantize to {quant}")


def tensor_types(path: Path) -> dict[str, TensorCount]:
    """What a GGUF file's tensors really are: type → how many, and how many bytes; the largest first."""
    totals: dict[str, tuple[int, int]] = {}
    for tensor in gguf_library().GGUFReader(path).tensors:
        count, size = totals.get(tensor.tensor_type.name, (0, 0))
        totals[tensor.tensor_type.name] = (count + 1, size + int(tensor.n_bytes))
    return {name: TensorCount(*totals[name]) for name in sorted(totals, key=lambda name: -totals[name][1])}


def _importance_array(importance: Importance) -> ctypes.Array:
    """llama.cpp's form: an array that ends with a nameless entry. It points into `importance`, which must outlive it."""
    llama, _ = library()
    entries = (llama.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries
