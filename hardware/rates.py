"""How fast a target moves and multiplies: measured, or computed from its cores and memory bus, with how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

from switchkd.hardware.cores import (
    BUS_SHARE,
    CORE_READ_GBPS,
    CORES,
    MATRIX_F32_SHARE,
    MATRIX_INT8_SHARE,
    Together,
    together,
)
from switchkd.hardware.profile import Profile

CPU, ACCELERATOR = "cpu", "accelerator"
PROCESSORS = (CPU, ACCELERATOR)
# What an accelerator reaches of its memory bus and of its int8 figure, and what a block costs beside; from the published
# decoding speeds in docs/results/hardware.md, which scatter by the factor of the band.
ACCELERATOR_BUS_SHARE = 0.7
ACCELERATOR_INT8_SHARE = 0.3
ACCELERATOR_BLOCK_SECONDS = 120e-6
_MEASURED, _BUS, _COMPUTED = 1.3, 1.5, 2.0  # factors up and down


@dataclass(frozen=True)
class Rate:
    """A speed and how sure it is."""

    value: float  # GB/s or Gmac/s (10⁹ multiply-adds a second)
    spread: float  # the true one is taken to lie between value / spread and value · spread
    basis: str  # where it comes from, for people


@dataclass(frozen=True)
class Rates:
    """What a processor does; None with an entry in `missing` where it isn't known."""

    read: Rate | None  # GB/s out of memory
    f32: Rate | None  # Gmac/s in large float products
    int8: Rate | None  # Gmac/s in large int8 products
    vector: Rate | None  # Gmac/s of a quantized matrix by one vector, its weights in cache; None for an accelerator
    block_seconds: float | None  # fixed cost of a block; None: the runtime's own
    missing: tuple[str, ...]  # what can't be told and why

    @property
    def measured_kernels(self) -> bool:
        """Whether this project's kernels run there, whose shares of these rates were measured: not on an accelerator."""
        return self.block_seconds is None


def rates_of(profile: Profile, processor: str = CPU) -> Rates:
    """The speeds of a target's cores or of its accelerator.

    Raises:
        ValueError: another processor than those in PROCESSORS.
    """
    if processor not in PROCESSORS:
        raise ValueError(f"There is no processor '{processor}'; there are {', '.join(PROCESSORS)}.")
    return _cpu(profile) if processor == CPU else _accelerator(profile)


def _cpu(profile: Profile) -> Rates:
    cores, clock = profile.value("cores"), profile.value("clock_ghz")
    best = together(cores, clock) if cores and clock else None
    read = _measured(profile, "memory_read_gbps") or _bus_read(profile, best)
    f32 = _measured(profile, "matrix_f32_gmacs")
    int8 = _measured(profile, "matrix_int8_gmacs")
    vector = _measured(profile, "vector_int8_gmacs")
    if best is not None:
        basis = f"{best.count} cores, their widths and clocks"
        f32 = f32 or Rate(MATRIX_F32_SHARE * best.f32, _COMPUTED, basis)
        int8 = int8 or Rate(MATRIX_INT8_SHARE * best.int8, _COMPUTED, basis)
        vector = vector or Rate(best.unpacking, _COMPUTED, basis)
    missing = []
    if read is None:
        missing.append(f"memory bandwidth: {_why(profile, 'memory_gbps')}")
    if f32 is None:
        missing.append(_why_no_products(profile))
    elif int8 is None:
        missing.append(f"int8 rate: {_why(profile, 'matrix_int8_gmacs')}")
    return Rates(read, f32, int8, vector, None, tuple(missing))


def _accelerator(profile: Profile) -> Rates:
    tops, bus = profile.value("accelerator_int8_tops"), profile.value("memory_gbps")
    missing = []
    int8 = f32 = read = None
    if tops is None:
        missing.append(f"accelerator's int8 rate: {_why(profile, 'accelerator_int8_tops')}")
    else:
        gmacs = ACCELERATOR_INT8_SHARE * tops * 1e3 / 2
        int8 = Rate(gmacs, _COMPUTED, f"{tops:g} TOPS")
        f32 = Rate(gmacs / 2, _COMPUTED, f"{tops:g} TOPS, half of it in 16 bits")
    if bus is None:
        missing.append(f"memory bandwidth: {_why(profile, 'memory_gbps')}")
    elif profile.value("accelerator") is None:
        missing.append(f"accelerator: {_why(profile, 'accelerator')}")
    else:
        read = Rate(ACCELERATOR_BUS_SHARE * bus, _COMPUTED, f"bus of {bus:g} GB/s")
    return Rates(read, f32, int8, None, ACCELERATOR_BLOCK_SECONDS, tuple(missing))


def _measured(profile: Profile, field: str) -> Rate | None:
    value = profile.value(field)
    return None if value is None else Rate(value, _MEASURED, profile.figures[field].source)


def _bus_read(profile: Profile, best: Together | None) -> Rate | None:
    bus = profile.value("memory_gbps")
    if bus is None:
        return None
    read = BUS_SHARE * bus
    if best is not None:
        read = min(read, CORE_READ_GBPS * best.count)
    return Rate(read, _BUS, f"bus of {bus:g} GB/s")


def _why_no_products(profile: Profile) -> str:
    """Why the cores' rate isn't known."""
    cores, clock = profile.value("cores"), profile.value("clock_ghz")
    if cores is None or clock is None:
        lacking = "cores" if cores is None else "clock_ghz"
        return f"{lacking}: {_why(profile, lacking)}"
    return f"cores: nothing is known of {', '.join(clock)}; known are {', '.join(CORES)}"


def _why(profile: Profile, field: str) -> str:
    return profile.unknown.get(field, "not known")
