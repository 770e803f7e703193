"""What llama.cpp was compiled for, against what this processor can do."""

from __future__ import annotations

from pathlib import Path

from switchkd.runtime.llama_library import library

# llama.cpp's names of what speeds its kernels up → Linux's flags in /proc/cpuinfo (x86 and Arm).
_FLAGS = {
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "NEON": "asimd",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}


def compiled_instructions() -> frozenset[str]:
    """Instruction sets that the installed llama.cpp uses, by its own names.

    Raises:
        MissingDependencyError: llama-cpp-python isn't installed.
    """
    llama_cpp, _ = library()
    _, _, listed = llama_cpp.llama_print_system_info().decode().partition(":")
    settings = dict(part.split(" = ") for part in listed.split(" | ") if " = " in part)
    return frozenset(name.strip() for name, value in settings.items() if value.strip() == "1")


def unused_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What this processor has and the build leaves unused; a build with -DGGML_NATIVE=ON uses it all. Empty where the
    processor can't be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[1].split()}
    compiled = compiled_instructions()
    return [name for name, flag in _FLAGS.items() if flag in flags and name not in compiled]


def can_rearrange_weights() -> bool:
    """Whether llama.cpp may rearrange weights for this processor's fastest kernels.

    Not in a build with AMX kernels: they end the process at the first prompt (llama.cpp's issue 20824). Compiled with
    `-mno-amx-int8`, it takes the AVX-512 kernels instead, and rearranges.
    """
    return "AMX_INT8" not in compiled_instructions()
