"""llama.cpp through llama-cpp-python's plain C bindings: loading it, and a look at its tensors."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import SkdError
from switchkd.runtime.engines.llama.bindings import bindings, log_message, shared_library
from switchkd.runtime.engines.llama.build import load_kernels

Observer = Callable[["Tensor"], None]  # sees a tensor of a running graph right after it was computed

_MAX_DIMS, _MAX_SRC, _MAX_NAME, _MAX_OP_PARAMS = 4, 10, 64, 64  # ggml.h
_F32, _I32 = 0, 26  # ggml_type


class _TensorFields(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as far as it is read here."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _MAX_DIMS),
        ("nb", ctypes.c_size_t * _MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_MAX_OP_PARAMS // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _MAX_NAME),
    )


class Tensor:
    """A tensor of a running graph."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        self._fields = _TensorFields.from_address(pointer)

    @property
    def name(self) -> str:
        """Its name, e.g. "blk.0.attn_q.weight"."""
        return self._fields.name.decode(errors="replace")

    @property
    def operation(self) -> str:
        """The operation that makes it, e.g. "MUL_MAT"."""
        return _ggml().ggml_op_desc(self._pointer).decode()

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self._fields.ne)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its four dimensions, the slowest first."""
        return tuple(self._fields.ne)[::-1]

    def source(self, index: int) -> Tensor | None:
        """An operand of the operation."""
        pointer = self._fields.src[index]
        return Tensor(pointer) if pointer else None

    def values(self) -> NDArray[np.float32]:
        """A copy of its values, slowest dimension first. Raises SkdError unless it is contiguous float32."""
        fields = self._fields
        contiguous = [4]
        for size in tuple(fields.ne)[:-1]:
            contiguous.append(contiguous[-1] * size)
        if fields.type != _F32 or list(fields.nb) != contiguous:
            raise SkdError(f"llama.cpp's tensor {self.name} isn't contiguous float32, so it can't be looked at.")
        values = np.empty(self.shape, np.float32)
        _ggml().ggml_backend_tensor_get(self._pointer, values.ctypes.data, 0, values.nbytes)
        return values

    def replace_integers(self, values: NDArray[np.int32]) -> None:
        """Overwrites an int32 tensor, such as a graph's input, before an operation reads it."""
        if self._fields.type != _I32 or values.size != self.size:
            raise SkdError(f"llama.cpp's tensor {self.name} isn't {values.size} whole numbers.")
        values = np.ascontiguousarray(values, np.int32)
        _ggml().ggml_backend_tensor_set(self._pointer, values.ctypes.data, 0, values.nbytes)


@cache
def library() -> tuple[ModuleType, ModuleType]:
    """The modules llama_cpp and llama_cpp.mtmd_cpp, with llama.cpp's chatter turned off.

    Raises:
        MissingDependencyError: llama-cpp-python isn't installed.
        SkdError: it was compiled for another processor than this one.
    """
    llama_cpp = bindings()
    load_kernels()
    from llama_cpp import mtmd_cpp

    mtmd_cpp.mtmd_log_set(log_message, None)
    mtmd_cpp.mtmd_helper_log_set(log_message, None)
    llama_cpp.llama_backend_init()
    return llama_cpp, mtmd_cpp


def observer_callback(wants: Callable[[Tensor], bool], sees: Observer) -> Any:
    """A `ggml_backend_sched_eval_callback` that hands every tensor that `wants` says to `sees`.

    The caller keeps the result alive as long as the context that has it. An error in `sees` ends the computation early and
    is printed, as ctypes does; what was to be seen is then missing.
    """
    llama_cpp, _ = library()

    def callback(pointer: int, ask: bool, _: Any) -> bool:
        tensor = Tensor(pointer)
        if ask:
            return wants(tensor)
        sees(tensor)
        return True

    return llama_cpp.ggml_backend_sched_eval_callback(callback)


@cache
def _ggml() -> ctypes.CDLL:
    base = shared_library("ggml-base")
    base.ggml_op_desc.argtypes, base.ggml_op_desc.restype = [ctypes.c_void_p], ctypes.c_char_p
    for function in (base.ggml_backend_tensor_get, base.ggml_backend_tensor_set):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    return base
