"""What llama.cpp was compiled for, against what this processor can do."""

from __future__ import annotations

import ctypes
from functools import cache

from switchkd.errors import SkdError
from switchkd.processor import instructions
from switchkd.runtime.engines.llama.bindings import bindings, libraries, shared_library

# llama.cpp's names of what its kernels use → Linux's.
_SETS = {
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "SME": "sme",
}
_ASKED_WHILE_RUNNING = "AMX_INT8"  # llama.cpp itself sees whether the processor and the system have it
_HELPFUL = frozenset(_SETS) - {"SSSE3", "AVX", "BMI2", "AVX512_VBMI", "AVX512_BF16", "AMX_INT8", "FP16_VA", "SME"}


@cache
def compiled_instructions() -> frozenset[str]:
    """Instruction sets that the installed llama.cpp uses here, by its own names.

    Of a build with several sets of kernels, those that it took for this processor.

    Raises:
        MissingDependencyError: llama-cpp-python isn't installed.
    """
    kernels = _only_kernels()
    if kernels is not None:
        functions = {name: getattr(kernels, f"ggml_cpu_has_{name.lower()}", None) for name in _SETS}
        return frozenset(name for name, function in functions.items() if function is not None and function())
    _load_best()
    _, _, listed = bindings().llama_print_system_info().decode().partition(":")
    settings = dict(part.split(" = ") for part in listed.split(" | ") if " = " in part)
    return frozenset(name.strip() for name, value in settings.items() if value.strip() == "1")


def load_kernels() -> None:
    """Lets llama.cpp choose its kernels for this processor, where it was compiled with several sets of them.

    Raises:
        SkdError: it was compiled with one, for instructions that this processor lacks: the first use would end the process.
        MissingDependencyError: llama-cpp-python isn't installed.
    """
    if _only_kernels() is not None:
        if lacking := lacking_instructions():
            raise SkdError(
                f"The installed llama.cpp was compiled for {', '.join(lacking)}, which this processor lacks: compile it here "
                "(pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python), or run an ONNX export."
            )
        return
    _load_best()


def lacking_instructions() -> list[str]:
    """What the build uses without asking and this processor lacks. Empty where the processor can't be read."""
    has = instructions()
    if not has or _only_kernels() is None:
        return []
    needed = compiled_instructions() - {_ASKED_WHILE_RUNNING}
    return [name for name, flag in _SETS.items() if name in needed and flag not in has]


def unused_instructions() -> list[str]:
    """What this processor has and the build leaves unused, of what makes it faster; a build with -DGGML_NATIVE=ON uses it all.
    Empty where the processor can't be read."""
    has, compiled = instructions(), compiled_instructions()
    return [name for name, flag in _SETS.items() if name in _HELPFUL and flag in has and name not in compiled]


def can_rearrange_weights() -> bool:
    """Whether llama.cpp may rearrange weights for this processor's fastest kernels.

    Not in a build with AMX kernels: they end the process at the first prompt (llama.cpp's issue 20824). Compiled with
    `-mno-amx-int8`, it takes the AVX-512 kernels instead, and rearranges.
    """
    return "AMX_INT8" not in compiled_instructions()


@cache
def _only_kernels() -> ctypes.CDLL | None:
    """The library of the kernels where there is one set of them: llama.cpp is linked against it. Asking it what it was compiled
    for is safe on every processor."""
    try:
        return shared_library("ggml-cpu")
    except FileNotFoundError:
        return None


@cache
def _load_best() -> None:
    library = shared_library("ggml")
    library.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    library.ggml_backend_load_all_from_path(str(libraries()).encode())
