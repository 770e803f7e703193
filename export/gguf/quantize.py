"""Quantization by llama.cpp itself, and what really came out of it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from switchkd.export.gguf.mixtures import FILE_TYPES, Mixture
from switchkd.export.gguf.writer import gguf_library
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.llama.bindings import failure
from switchkd.runtime.engines.llama.library import library

Importance = Mapping[str, NDArray[np.float32]]


def quantize(
    source: Path,
    target: Path,
    mixture: Mixture,
    *,
    tied: bool = False,
    threads: int,
    importance: Importance | None = None,
) -> None:
    """Writes a quantized copy of a GGUF file.

    Args:
        tied: the embedding serves as the head as well.
        importance: tensor name → mean square of each input column, to round by what matters.

    Raises:
        SkdError: llama.cpp refused, or couldn't write.
    """
    llama, _ = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[mixture.base]
    params.nthread = threads
    if mixture.head:
        params.output_tensor_type = _type_id(mixture.head)
    if embedding := mixture.head if tied else mixture.embedding:
        params.token_embedding_type = _type_id(embedding)
    # Arrays that llama.cpp is shown have to outlive the call.
    entries, overrides = _importance_array(importance or {}), _override_array(mixture.blocks)
    if importance:
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama.llama_model_imatrix_data))
    if mixture.blocks:
        params.tt_overrides = ctypes.cast(overrides, ctypes.POINTER(llama.llama_model_tensor_override))
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise failure(f"llama.cpp couldn't quantize {source.name}")


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


def _override_array(types: Mapping[str, str]) -> ctypes.Array:
    """The same for regular expressions of names with the type that they mean."""
    llama, _ = library()
    entries = (llama.llama_model_tensor_override * (len(types) + 1))()
    for entry, (pattern, name) in zip(entries, types.items(), strict=False):
        entry.pattern, entry.type = pattern.encode(), _type_id(name)
    return entries


def _type_id(name: str) -> int:
    return int(gguf_library().GGMLQuantizationType[name.upper()])
