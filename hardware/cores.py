"""What one processor core computes and reads in a cycle, for computers that can't be measured.

Vector widths and pipes follow the makers' optimization guides (Arm's for Cortex and Neoverse; Kryo cores are taken as the
Cortex cores that they derive from). What real products reach of that, and what one core reads, was measured, as said beside
each figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Core:
    """Most multiply-adds in a cycle, by number format."""

    f32: int  # float32
    int8: int  # int8 with 32-bit sums
    unpacking: float = 6.0  # int8 by one vector out of cache; see UNPACKING below


_IN_ORDER = 3.0  # half of what cores do that reorder instructions; a judgement

CORES: dict[str, Core] = {
    "Cortex-A53": Core(4, 8, _IN_ORDER),  # no dot-product instruction: SMLAL
    "Cortex-A55": Core(4, 16, _IN_ORDER),  # SDOT
    "Cortex-A72": Core(4, 8),  # no dot-product instruction
    "Cortex-A76": Core(8, 32),  # two pipes of 128 bits
    "Cortex-A78AE": Core(8, 32),
    "Cortex-A520": Core(4, 16, _IN_ORDER),
    "Cortex-A720": Core(8, 64),  # SMMLA
    "Cortex-X4": Core(16, 128),  # four pipes
    "Neoverse V3AE": Core(16, 128),
    "Kryo 485 Gold Prime": Core(8, 32),  # from Cortex-A76
    "Kryo 485 Gold": Core(8, 32),
    "Kryo 485 Silver": Core(4, 16, _IN_ORDER),  # from Cortex-A55
    "Kryo 695 Gold Prime": Core(16, 64),  # from Cortex-X1
    "Kryo 695 Gold": Core(8, 32),  # from Cortex-A78
}

# Shares of the most that large products reach. Float: 0.75 measured on a Xeon with AVX-512, 0.48 of float64 on a Raspberry
# Pi 5 (HPL, 36.7 of 76.8 GFLOP/s, geerlingguy/sbc-reviews #21). Int8: 0.54 measured on the same Xeon by ONNX Runtime.
MATRIX_F32_SHARE = 0.6
MATRIX_INT8_SHARE = 0.5
# UNPACKING: a matrix in cache by one vector took a Xeon core 7 multiply-adds a cycle; 6 explains the tokens a second of three
# quantizations of one model on a Raspberry Pi 5 within 12 % together with BUS_SHARE (llama.cpp #26484).
BUS_SHARE = 0.85  # of the memory bus that a processor's cores reach together; same source
CORE_READ_GBPS = 12.0  # that one core reads alone; a Xeon core read 10 to 12


@dataclass(frozen=True)
class Together:
    """The cores that are best used together, and what they do; Gmac/s."""

    count: int
    f32: float
    int8: float
    unpacking: float


def together(cores: Mapping[str, int], clock_ghz: Mapping[str, float]) -> Together | None:
    """The fastest choice of cores, threads sharing the work in equal parts and waiting for the slowest.

    Args:
        cores: type → how many.
        clock_ghz: type → highest clock; types without one are left out.

    Returns:
        None where no type is known with its clock.
    """
    known = [name for name in cores if name in clock_ghz and name in CORES]
    choices = []
    for slowest in known:
        chosen = [name for name in known if _speed(name, clock_ghz) >= _speed(slowest, clock_ghz)]
        count = sum(cores[name] for name in chosen)
        rates = [
            min(getattr(CORES[name], kind) * clock_ghz[name] for name in chosen)
            for kind in ("f32", "int8", "unpacking")
        ]
        choices.append(Together(count, *(count * rate for rate in rates)))
    return max(choices, key=lambda choice: choice.f32, default=None)


def _speed(name: str, clock_ghz: Mapping[str, float]) -> float:
    return CORES[name].f32 * clock_ghz[name]
