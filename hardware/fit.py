"""Whether a student fits a target and how fast it will be there: a roofline over its real bytes and operations.

A phase takes the time its multiply-adds take, plus the time its bytes take to come out of memory, plus a fixed cost for each
block. The two are added rather than compared: quantized weights are unpacked while they arrive, and measured times lie
near the sum. Every speed has a band; the times' bands follow from it. All of it is prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from switchkd.hardware.advice import Advice, advise
from switchkd.hardware.profile import Profile
from switchkd.hardware.rates import CPU, Rate, Rates, rates_of
from switchkd.hardware.workload import FitError as FitError
from switchkd.hardware.workload import Memory, Phase, Workload

GB = 1e9
DEFAULT_CONTEXT = 2048
FIXED_SPREAD = 2.0  # factor up and down of the fixed cost of a block
YES, NO, PERHAPS, UNKNOWN = "yes", "no", "perhaps", "unknown"


@dataclass(frozen=True)
class Estimate:
    """A predicted number with its band: the truth is expected between `low` and `high`."""

    low: float
    value: float
    high: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.low + other.low, self.value + other.value, self.high + other.high)

    def scaled(self, factor: float) -> Estimate:
        """Times a positive factor."""
        return Estimate(self.low * factor, self.value * factor, self.high * factor)

    def inverse(self) -> Estimate:
        """One divided by it: seconds to times a second."""
        return Estimate(*(1 / each if each else math.inf for each in (self.high, self.value, self.low)))

    def to_json(self) -> dict[str, float]:
        """Three significant digits: more would be a promise."""
        return {name: float(f"{getattr(self, name):.3g}") for name in ("low", "value", "high")}


@dataclass(frozen=True)
class Fit:
    """One variant on one target. Times are seconds; every estimate is None where a figure of the target is missing."""

    workload: Workload
    profile: Profile
    processor: str  # cpu or accelerator
    context: int  # tokens of memory for a conversation
    prompt_tokens: int  # picture and text
    answer_tokens: int  # of one answer to one picture
    memory: Memory  # predicted, bytes
    available: float | None  # bytes: RAM less what the system keeps
    encode: Estimate | None  # a picture to its tokens; zero without a tower
    prefill: Estimate | None  # the prompt
    token: Estimate | None  # one token after the first, in the middle of an answer
    rate: float | None = None  # pictures a second that a camera gives
    missing: tuple[str, ...] = field(default_factory=tuple)  # why an estimate is None

    @property
    def fits(self) -> str:
        """ "yes", "no", or "unknown" where the target's memory is."""
        if self.available is None:
            return UNKNOWN
        return YES if self.memory.total <= self.available else NO

    @property
    def first_token(self) -> Estimate | None:
        """From a prepared picture to the first token."""
        return None if self.encode is None or self.prefill is None else self.encode + self.prefill

    @property
    def tokens_per_second(self) -> Estimate | None:
        """Decoding speed after the first token."""
        return None if self.token is None else self.token.inverse()

    @property
    def picture(self) -> Estimate | None:
        """One picture with its whole answer."""
        if self.first_token is None or self.token is None:
            return None
        return self.first_token + self.token.scaled(self.answer_tokens - 1)

    @property
    def pictures_per_second(self) -> Estimate | None:
        """How many pictures a second can be answered, one after the other."""
        return None if self.picture is None else self.picture.inverse()

    @property
    def holds_rate(self) -> str | None:
        """Whether the camera's rate can be held: "yes" if even the slow end of the band does, "no" if not even the fast
        end does, else "perhaps"; "unknown" without figures, None where no rate was asked for."""
        if self.rate is None:
            return None
        if self.fits == NO:
            return NO
        if self.picture is None:
            return UNKNOWN
        deadline = 1 / self.rate
        if self.picture.high <= deadline:
            return YES if self.fits == YES else PERHAPS
        return NO if self.picture.low > deadline else PERHAPS

    @property
    def advice(self) -> Advice:
        """What to prefer on this target for a student of these shapes."""
        return advise(
            self.workload,
            self.profile,
            context=self.context,
            answer_tokens=self.answer_tokens,
            available=self.available,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain objects for json.dumps; what is predicted stands under "predicted"."""
        estimates = {
            "encode_seconds": self.encode,
            "prefill_seconds": self.prefill,
            "first_token_seconds": self.first_token,
            "decode_tokens_per_second": self.tokens_per_second,
            "picture_seconds": self.picture,
            "pictures_per_second": self.pictures_per_second,
        }
        memory = self.memory
        parts = {name: getattr(memory, name) for name in ("weights", "cache", "activations", "runtime", "total")}
        text, image = self.workload.text, self.workload.image
        return {
            "variant": self.workload.name,
            "precision": {
                "language": f"{text.format} {text.quant}",
                "vision": None if image is None else f"{image.format} {image.quant}",
            },
            "target": self.profile.name,
            "processor": self.processor,
            "asked": {
                "context": self.context,
                "prompt_tokens": self.prompt_tokens,
                "answer_tokens": self.answer_tokens,
                "camera_hz": self.rate,
            },
            "available_bytes": None if self.available is None else round(self.available),
            "predicted": {
                "memory_bytes": parts,
                "fits": self.fits,
                **{name: None if each is None else each.to_json() for name, each in estimates.items()},
                "holds_camera_rate": self.holds_rate,
            },
            "missing": list(self.missing),
            "prefer": self.advice.to_json(),
        }


def fit(
    workload: Workload,
    profile: Profile,
    *,
    context: int | None = None,
    text_tokens: int = 32,
    answer_tokens: int = 16,
    rate: float | None = None,
    processor: str = CPU,
    ram_gb: float | None = None,
) -> Fit:
    """Predicts memory and speed of a variant on a target.

    Args:
        context: tokens that a conversation may have, prompt and answer; by default DEFAULT_CONTEXT, or what the student
            was trained on where that is less.
        text_tokens: of the prompt, beside the picture's.
        answer_tokens: of the answer to one picture.
        rate: pictures a second of a camera, all to be answered.
        processor: "cpu", where this project's engines run, or "accelerator".
        ram_gb: memory of the board, where the profile has none.

    Raises:
        FitError: the prompt and its answer don't fit into the context, that is longer than the student was trained on, or
            nothing is known of how fast the variant's precision is.
    """
    context = min(DEFAULT_CONTEXT, workload.trained_context) if context is None else context
    prompt = workload.image_tokens + text_tokens
    if min(context, text_tokens, answer_tokens) < 1 or (rate is not None and rate <= 0):
        raise FitError("Context, text, answer and camera rate must be positive.")
    if prompt + answer_tokens > context:
        raise FitError(
            f"{workload.name} needs {prompt} tokens for a picture with its question and {answer_tokens} for the answer, "
            f"more than the context of {context}."
        )
    if context > workload.trained_context:
        raise FitError(
            f"{workload.name} was trained on {workload.trained_context} tokens, fewer than the context of {context}."
        )
    rates = rates_of(profile, processor)
    encoding = workload.encode()
    return Fit(
        workload=workload,
        profile=profile,
        processor=processor,
        context=context,
        prompt_tokens=prompt,
        answer_tokens=answer_tokens,
        memory=workload.memory(context),
        available=available_bytes(profile, ram_gb),
        encode=Estimate(0, 0, 0) if encoding is None else seconds(encoding, rates),
        prefill=seconds(workload.prefill(prompt), rates),
        token=seconds(workload.decode(prompt + answer_tokens // 2), rates),
        rate=rate,
        missing=_missing(profile, rates, ram_gb),
    )


def available_bytes(profile: Profile, ram_gb: float | None = None) -> float | None:
    """RAM less what the system keeps; None where one of them is unknown."""
    ram, system = profile.value("ram_gb") or ram_gb, profile.value("system_gb")
    return None if ram is None or system is None else max(ram - system, 0.0) * GB


def seconds(phase: Phase, rates: Rates) -> Estimate | None:
    """How long a phase takes; None where a rate that it needs is unknown.

    Raises:
        FitError: the precision isn't one whose speed is known.
    """
    costs = _costs(phase, rates)
    if any(rate is None for _, rate in costs):
        return None
    known = [(amount / (rate.value * 1e9), rate.spread) for amount, rate in costs if rate is not None]
    block = phase.part.runtime.block_seconds if rates.block_seconds is None else rates.block_seconds
    known.append((phase.blocks * block, FIXED_SPREAD))
    return Estimate(
        sum(time / spread for time, spread in known),
        sum(time for time, _ in known),
        sum(time * spread for time, spread in known),
    )


def _costs(phase: Phase, rates: Rates) -> Sequence[tuple[float, Rate | None]]:
    """Amounts of work, in bytes or multiply-adds, with the rate at which each is done."""
    kernel = phase.part.kernel
    costs: list[tuple[float, Rate | None]] = [(phase.bytes, rates.read)]
    if phase.single:
        # An accelerator unpacks faster than its memory reads: the bus is all.
        if kernel.single and rates.measured_kernels:
            costs.append((phase.macs / kernel.single, rates.vector))
        return costs
    share = attention = 1.0
    if rates.measured_kernels:
        share, attention = kernel.vision if phase.vision else kernel.prefill, phase.part.runtime.attention
    costs.append((phase.macs / share, rates.int8 if kernel.int8 else rates.f32))
    costs.append((phase.attention / attention, rates.f32))
    return costs


def _missing(profile: Profile, rates: Rates, ram_gb: float | None) -> tuple[str, ...]:
    memory = {"ram_gb": profile.value("ram_gb") or ram_gb, "system_gb": profile.value("system_gb")}
    return (
        *(f"{name}: {profile.unknown.get(name, 'not known')}" for name, value in memory.items() if value is None),
        *rates.missing,
    )
