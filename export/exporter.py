"""What an exporter of any format is: a plan that refuses early, an unquantized build, candidates for the quantized one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from switchkd.architecture.endings import end_token_ids
from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.samples import Probe
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.engine import Engine, LanguageModel, VisionEncoder


@dataclass(frozen=True)
class Contract:
    """What a finished export promises."""

    inputs: Mapping[str, tuple[int | str, ...]]  # name → shape; words are dynamic axes
    files: Mapping[str, str]  # role → path in the export folder
    tolerance: Mapping[str, float]  # stage that the format shows → largest relative error of the unquantized build
    max_divergence: float  # largest mean KL divergence (nats) of the quantized build from the checkpoint


@dataclass(frozen=True)
class Plan:
    """A request that the format can fulfil."""

    quant: str  # of the language model, resolved
    vision_quant: str  # of tower and projector, resolved
    plain: Mapping[str, str]  # role → precision of the unquantized build
    contract: Contract

    @property
    def is_plain(self) -> bool:
        """True where the unquantized build is already what was asked for."""
        return self.plain == {"language": self.quant, "vision": self.vision_quant}


@dataclass(frozen=True)
class Build:
    """Weight files on disk."""

    files: Mapping[str, Path]  # role → file
    precision: Mapping[str, str]  # role → precision or quantization
    note: str = ""  # how a candidate differs from its siblings
    data: Mapping[str, Path] = field(default_factory=dict)  # role → weights that its file refers to by name


@dataclass(frozen=True)
class Quantization:
    """What quantized builds are made from."""

    checkpoint: Checkpoint
    plan: Plan
    plain: Build  # the unquantized build
    folder: Path  # takes the quantized files
    calibration: Sequence[Probe]  # pictures and texts of the user's to quantize by; empty for none
    passages: Sequence[Sequence[int]]  # token ids of the package's own text to quantize by, see switchkd.passages
    keep: Path  # a folder for what a later export can use again
    threads: int


class Exporter(Protocol):
    """One format."""

    quants: Sequence[str]  # for the language model; the first is the default
    vision_quants: Sequence[str]  # for tower and projector
    calibrates: Sequence[str]  # precisions for which `candidates` makes use of calibration data

    def plan(self, checkpoint: Checkpoint, quant: str, vision_quant: str | None) -> Plan:
        """Resolves the request without writing anything.

        Raises:
            SkdError: the configuration isn't supported, by its reason; or a package is missing.
        """
        ...

    def write(self, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Build:
        """Writes the unquantized build into `folder`."""
        ...

    def candidates(self, job: Quantization) -> Iterator[Build]:
        """Quantized builds, of which the one closest to the checkpoint is taken."""
        ...

    def open(self, checkpoint: Checkpoint, build: Build, *, threads: int, traced: bool) -> Engine:
        """An engine that runs a build."""
        ...

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        """How many tensors and bytes of a weight file are of which type."""
        ...

    def tools(self) -> dict[str, str]:
        """Versions of the packages that wrote the files."""
        ...


_MODULES = {
    "gguf": "switchkd.export.gguf.exporter",
    "onnx": "switchkd.export.onnx.exporter",
    "hybrid": "switchkd.export.hybrid_exporter",
}
FORMATS = tuple(_MODULES)


def exporter_for(format: str) -> Exporter:
    """The exporter of a format. Raises SkdError for an unknown one."""
    if format not in _MODULES:
        raise SkdError(f"There is no format '{format}'; known formats: {', '.join(FORMATS)}.")
    return import_module(_MODULES[format]).EXPORTER


def engine_of(checkpoint: Checkpoint, vision: VisionEncoder, language: LanguageModel) -> Engine:
    """An engine out of a build's two parts, which asks as the checkpoint does."""
    return Engine(
        "export",
        checkpoint.prompt,
        checkpoint.preprocess,
        vision,
        language,
        image_tokens=checkpoint.image_tokens,
        end_tokens=end_token_ids(checkpoint.folder, checkpoint.prompt),
    )
