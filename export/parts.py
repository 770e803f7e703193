"""What writes a part of an export, vision or language: a plan that refuses early, an unquantized build, quantized candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.samples import Sample
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.parts import ExportParts

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Plan:
    """A request that a format can fulfil, and what the finished export promises."""

    quant: str  # of the language model, resolved
    vision_quant: str  # of tower and projector, resolved
    unquantized: Mapping[str, str]  # part → precision of the unquantized build
    files: Mapping[str, str]  # role → path in the export folder
    tolerance: Mapping[str, float]  # stage that the format shows → largest relative error of the unquantized build
    max_divergence: float  # largest mean KL divergence (nats) of the quantized build from the checkpoint

    @property
    def is_unquantized(self) -> bool:
        """True where the unquantized build is already what was asked for."""
        return self.unquantized == {"language": self.quant, "vision": self.vision_quant}


@dataclass(frozen=True)
class Build:
    """Weight files on disk, of one part or of both."""

    files: Mapping[str, Path]  # role → file
    precision: Mapping[str, str]  # role → precision or quantization
    note: str = ""  # how a candidate differs from its siblings
    data: Mapping[str, Path] = field(default_factory=dict)  # role → weights that its file refers to by name

    def __or__(self, other: Build) -> Build:
        """Both parts as one."""
        note = ", ".join(filter(None, (self.note, other.note)))
        precision = {**self.precision, **other.precision}
        return Build({**self.files, **other.files}, precision, note, {**self.data, **other.data})


@dataclass(frozen=True)
class Quantization:
    """What quantized builds are made from."""

    checkpoint: Checkpoint
    plan: Plan
    unquantized: Build
    parts: ExportParts  # the same, to be opened
    folder: Path  # takes the quantized files
    calibration: Sequence[Sample]  # pictures and texts of the user's to quantize by; empty for none
    passages: Sequence[Sequence[int]]  # token ids of the package's own text to quantize by, see switchkd.passages
    cache: Path  # a folder for what a later export can use again
    threads: int
    found: dict[str, Any] = field(
        default_factory=dict
    )  # what was seen of this unquantized build, for the next precision

    def once(self, name: str, find: Callable[[], _Found]) -> _Found:
        """What `find` finds, looked for by the first precision alone that is tried."""
        key = f"{name} of {self.unquantized.files}"
        if key not in self.found:
            self.found[key] = find()
        return self.found[key]


class PartWriter(Protocol):
    """Writes vision or language for one runtime, which tells the precisions that there are (`hardware.runtimes`)."""

    calibrates: Sequence[str]  # precisions for which `candidates` makes use of calibration data
    tools: Sequence[str]  # the packages that write the files
    # Precision of the unquantized part → stage → largest relative error; of a language part "logits" counts.
    tolerance: Mapping[str, Mapping[str, float]]
    max_divergence: Mapping[str, float]  # precision → largest mean KL divergence in nats that it may cost

    def plan(self, checkpoint: Checkpoint, quant: str) -> str:
        """The resolved precision, before anything is written.

        Raises:
            SkdError: the checkpoint's configuration isn't supported, by its reason; or a package is missing.
        """
        ...

    def unquantized(self, quant: str) -> str:
        """The precision of the unquantized file that a resolved one is made from."""
        ...

    def files(self, quant: str) -> Mapping[str, str]:
        """Role → path in the export folder, at a resolved precision."""
        ...

    def write(self, checkpoint: Checkpoint, folder: Path, unquantized: str) -> Build:
        """Writes the unquantized part into `folder`. Raises CheckpointError where what was written isn't the checkpoint."""
        ...

    def candidates(self, job: Quantization) -> Iterator[Build]:
        """Quantized ones, of which the one closest to the checkpoint is taken."""
        ...

    def reserve(self, job: Quantization) -> Iterator[Build]:
        """Larger or slower ones of the same precision, made where no candidate is close enough."""
        ...

    def traced(self, file: Path) -> Path:
        """The vision file to be opened where every stage shall show: itself, or a copy beside it."""
        ...

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        """How many tensors and bytes of a weight file are of which type."""
        ...
