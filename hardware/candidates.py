"""The exports that may be preferred on a target, and what a student would need in memory as each of them.

Weights are counted by the shapes and the bits of a weight; the variant at hand counts with its real bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from switchkd.hardware.runtimes import RUNTIMES
from switchkd.hardware.workload import FitError, Memory, StoredModel, Workload

_BLOCK = 32  # weights that share a scale in q8_0 and q4_0


@dataclass(frozen=True)
class Candidate:
    """One way to export a student.

    Raises:
        FitError: a precision whose bits aren't known here.
    """

    format: str
    quant: str
    vision_quant: str | None  # None: without a tower

    def __post_init__(self) -> None:
        _require_known("bits", self.format, self.quant)
        if self.vision_quant is not None:
            _require_known("vision_bits", self.format, self.vision_quant)

    @property
    def title(self) -> str:
        """For people: "llama.cpp, q4_0, vision q8_0"; the tower's precision is named where it isn't the format's default."""
        return f"{RUNTIMES[self.format].title}, {self.quant}{self._vision}"

    @property
    def short(self) -> str:
        """For a table: "gguf q4_0, vision q8_0"."""
        return f"{self.format} {self.quant}{self._vision}"

    @property
    def _vision(self) -> str:
        usual = self.vision_quant in (None, next(iter(RUNTIMES[self.format].vision_bits)))
        return "" if usual else f", vision {self.vision_quant}"

    def memory(self, workload: Workload, context: int) -> Memory:
        """What students of the workload's shapes would need as this export, for conversations of `context` tokens."""
        return self._workload(workload).memory(context)

    def _workload(self, workload: Workload) -> Workload:
        """The variant at hand where it is this export, else one of its shapes with estimated bytes."""
        text, image = workload.text, workload.image
        if (text.format, text.quant) == (self.format, self.quant) and (
            image is None or (image.format, image.quant) == (self.format, self.vision_quant)
        ):
            return workload
        language, tower, runtime = workload.language, workload.tower, RUNTIMES[self.format]
        blocks, head, embedding = runtime.bits[self.quant]
        read = (language.layers * language.block_weights * blocks + language.head_weights * head) / 8
        beside = runtime.own_embedding or not workload.tied
        resident = read + (language.head_weights * embedding / 8 if beside else 0)
        vision = None
        if tower is not None and self.vision_quant is not None:
            weights = tower.layers * tower.block_weights + tower.projector_weights
            size = round(weights * runtime.vision_bits[self.vision_quant] / 8)
            vision = StoredModel(self.format, self.vision_quant, size, size)
        part = StoredModel(self.format, self.quant, round(read), round(resident))
        return replace(workload, text=part, image=vision, cache_bytes=runtime.cache_bytes_at(self.quant))


def candidates(workload: Workload, format: str, quant: str) -> list[Candidate]:
    """One way for each precision of the tower that its width allows, the format's default first."""
    tower = workload.tower
    if tower is None:
        return [Candidate(format, quant, None)]
    default, *smaller = RUNTIMES[format].vision_bits
    return [Candidate(format, quant, each) for each in (default, *(smaller if tower.width % _BLOCK == 0 else ()))]


def _require_known(table: str, format: str, quant: str) -> None:
    known = [(name, each) for name, runtime in RUNTIMES.items() for each in getattr(runtime, table)]
    if (format, quant) not in known:
        raise FitError(
            f"Nothing is known of how large {format} {quant} is; known: {', '.join(' '.join(each) for each in known)}."
        )
