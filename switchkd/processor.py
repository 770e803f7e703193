"""This processor's instruction sets, by Linux's names. Standard library only.

The C library is asked before /proc/cpuinfo is read: it asks the processor itself, and so is right in an emulator too, which
shows programs the file of the computer below it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
from contextlib import suppress
from pathlib import Path

from switchkd.computer import ROOT, read_text
from switchkd.errors import SkdError

# Name → leaf in glibc's order (CPUID 1; 7; 7, second page), register (eax, ebx, ecx, edx), bit: Intel's manual, CPUID.
_X86 = {
    "ssse3": (0, 2, 9),
    "fma": (0, 2, 12),
    "sse4_1": (0, 2, 19),
    "sse4_2": (0, 2, 20),
    "popcnt": (0, 2, 23),
    "avx": (0, 2, 28),
    "f16c": (0, 2, 29),
    "avx2": (1, 1, 5),
    "bmi2": (1, 1, 8),
    "avx512f": (1, 1, 16),
    "avx512bw": (1, 1, 30),
    "avx512vbmi": (1, 2, 1),
    "avx512_vnni": (1, 2, 11),
    "avx512_fp16": (1, 3, 23),
    "amx_bf16": (1, 3, 22),
    "amx_tile": (1, 3, 24),
    "amx_int8": (1, 3, 25),
    "avx_vnni": (6, 0, 4),
    "avx512_bf16": (6, 0, 5),
}
_ACTIVE = 4  # behind the processor's four registers stand those of what the system has switched on as well
# Name → word of the auxiliary vector (AT_HWCAP, AT_HWCAP2), bit: Linux's arch/arm64/include/uapi/asm/hwcap.h.
_ARM = {
    "asimd": (16, 1),
    "fphp": (16, 9),
    "asimdhp": (16, 10),
    "asimddp": (16, 20),
    "sve": (16, 22),
    "sve2": (26, 1),
    "i8mm": (26, 13),
    "bf16": (26, 14),
    "sme": (26, 23),
}
_NUMPY = ("ssse3", "sse4_1", "sse4_2", "popcnt")  # x86-64-v2, for which its wheels are compiled
_NUMPY_SINCE = (2, 4)  # 2.3.5's still ran without


def instructions(root: Path = ROOT) -> frozenset[str]:
    """The names that /proc/cpuinfo lists, or those of the ones above that the processor has; empty where nothing tells.

    Args:
        root: of another file system, whose proc/cpuinfo then counts.
    """
    asked: frozenset[str] = frozenset()
    if root == ROOT:
        with suppress(AttributeError, OSError, TypeError):  # another C library, or an older one
            asked = _ask_x86() if is_x86() else _ask_arm()
    return asked or _read(root)


def require_numpy() -> None:
    """Raises SkdError where importing the installed numpy would end the process, as it was compiled for newer processors."""
    has = instructions()
    lacking = [name for name in _NUMPY if name not in has]
    if not is_x86() or not has or not lacking:
        return
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):
        version = importlib.metadata.version("numpy")
        if tuple(map(int, version.split(".")[:2])) >= _NUMPY_SINCE:
            raise SkdError(
                f"This processor lacks {', '.join(lacking)}, for which numpy {version} was compiled: pip install 'numpy<2.4'."
            )


def is_x86() -> bool:
    """Whether this is a 64-bit x86 processor."""
    return platform.machine() in ("x86_64", "AMD64")


def _ask_x86() -> frozenset[str]:
    leaf = ctypes.CDLL(None).__x86_get_cpuid_feature_leaf  # glibc 2.33
    leaf.argtypes, leaf.restype = [ctypes.c_uint], ctypes.POINTER(ctypes.c_uint32 * 8)
    return frozenset(
        name for name, (page, register, bit) in _X86.items() if leaf(page).contents[_ACTIVE + register] >> bit & 1
    )


def _ask_arm() -> frozenset[str]:
    if platform.machine() not in ("aarch64", "arm64"):
        return frozenset()
    word = ctypes.CDLL(None).getauxval
    word.argtypes, word.restype = [ctypes.c_ulong], ctypes.c_ulong
    return frozenset(name for name, (kind, bit) in _ARM.items() if word(kind) >> bit & 1)


def _read(root: Path) -> frozenset[str]:
    lines = read_text(root / "proc/cpuinfo").splitlines()
    return frozenset(
        word for line in lines if line.startswith(("flags", "Features")) for word in line.partition(":")[2].split()
    )
