"""An exporter of any format: two part writers, and how their promises, builds and candidates come together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from switchkd.architecture.endings import end_token_ids
from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf import parts as gguf
from switchkd.export.onnx import parts as onnx
from switchkd.export.parts import Build, PartWriter, Plan, Quantization
from switchkd.hardware.runtimes import GGUF, ONNX, Format, Runtime
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.formats import MODULES, known_formats, known_runtimes
from switchkd.runtime.engines.opening import open_parts
from switchkd.runtime.engines.parts import ExportParts, PartFiles, RunOptions

# Runtime → the writers of vision and language; one from outside is asked for its own by `writers()`.
WRITERS: dict[str, tuple[PartWriter, PartWriter]] = {
    GGUF: (gguf.VisionWriter(), gguf.LanguageWriter()),
    ONNX: (onnx.VisionWriter(), onnx.LanguageWriter()),
}


def exporter_for(format: str) -> Exporter:
    """The exporter of a format. Raises SkdError for an unknown one."""
    formats = known_formats()
    if format not in formats:
        raise SkdError(f"There is no format '{format}'; known formats: {', '.join(formats)}.")
    return Exporter(formats[format])


def _writers(runtime: str) -> tuple[PartWriter, PartWriter]:
    return WRITERS[runtime] if runtime in WRITERS else MODULES[runtime].writers()


class Exporter:
    """One format's.

    Args:
        format: the pair of parts.
    """

    def __init__(self, format: Format) -> None:
        self._format = format
        self._vision, self._language = _writers(format.vision)[0], _writers(format.language)[1]

    @property
    def quants(self) -> Sequence[str]:
        """Precisions of the language model, the coarsest first."""
        return list(known_runtimes()[self._format.language].quants)

    @property
    def calibrates(self) -> Sequence[str]:
        """Those of them for which `candidates` makes use of calibration data."""
        return self._language.calibrates

    def plan(self, checkpoint: Checkpoint, quant: str, vision_quant: str | None) -> Plan:
        """Resolves a request without writing anything.

        Args:
            vision_quant: of tower and projector; None for what goes with `quant`.

        Raises:
            SkdError: there is no such precision, or see `PartWriter.plan`.
        """
        runtime, seeing = (known_runtimes()[name] for name in (self._format.language, self._format.vision))
        for part in ("vision", "language"):
            checkpoint.architecture.require(checkpoint.folder, getattr(self._format, part), part)
        quant = self._language.plan(checkpoint, _known(quant, runtime, runtime.quants))
        usual = self._format.vision_of.get(quant, next(iter(seeing.vision_quants)))
        known = _known(vision_quant or usual, seeing, seeing.vision_quants, " for the vision file")
        vision_quant = self._vision.plan(checkpoint, known)
        checkpoint.check_complete()
        unquantized = {"language": self._language.unquantized(quant), "vision": self._vision.unquantized(vision_quant)}
        tolerance = dict(self._vision.tolerance[unquantized["vision"]])
        tolerance["logits"] = max(tolerance["logits"], self._language.tolerance[unquantized["language"]]["logits"])
        return Plan(
            quant,
            vision_quant,
            unquantized,
            {**self._language.files(quant), **self._vision.files(vision_quant)},
            tolerance,
            max(self._language.max_divergence[quant], self._vision.max_divergence[vision_quant]),
        )

    def write(self, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Build:
        """Writes the unquantized build into `folder`. Raises as `PartWriter.write`."""
        language = self._language.write(checkpoint, folder, plan.unquantized["language"])
        return language | self._vision.write(checkpoint, folder, plan.unquantized["vision"])

    def candidates(self, job: Quantization) -> Iterator[Build]:
        """Quantized builds: every one of the language model beside every one of the vision part."""
        visions = list(self._vision.candidates(job))
        for language in self._language.candidates(job):
            yield from (language | vision for vision in visions)

    def reserve(self, job: Quantization) -> Iterator[Build]:
        """Further ones of a finer language model, for where none of these is close enough."""
        for language in self._language.reserve(job):
            yield from (language | vision for vision in self._vision.candidates(job))

    def parts(self, checkpoint: Checkpoint, build: Build, *, traced: bool = False) -> ExportParts:
        """A build as it can be opened, which asks as the checkpoint does.

        Args:
            traced: every stage of the vision part shall show.
        """
        vision, files = build.files["vision"], {role: file for role, file in build.files.items() if role != "vision"}
        vision = self._vision.traced(vision) if traced else vision
        language_types = partial(self._language.tensor_types, files["language"])
        return ExportParts(
            "export",
            checkpoint.prompt,
            checkpoint.preprocess,
            PartFiles({"vision": vision}, build.precision["vision"], partial(self._vision.tensor_types, vision)),
            PartFiles(files, build.precision["language"], language_types),
            image_tokens=checkpoint.image_tokens,
            end_tokens=end_token_ids(checkpoint.folder, checkpoint.prompt),
            context=checkpoint.text["max_position_embeddings"],
        )

    def open(self, checkpoint: Checkpoint, build: Build, *, threads: int, traced: bool = False) -> Engine:
        """An engine that runs a build as `open_engine` will run it. Raises as `open_parts`."""
        return open_parts(self.parts(checkpoint, build, traced=traced), RunOptions(threads, traced=traced))

    def tensor_types(self, role: str, file: Path) -> dict[str, TensorCount]:
        """How many tensors and bytes of the file with this role are of which type."""
        return (self._vision if role == "vision" else self._language).tensor_types(file)

    def tools(self) -> dict[str, str]:
        """Versions of the packages that wrote the files."""
        return {name: version(name) for name in (*self._vision.tools, *self._language.tools)}


def _known(quant: str, runtime: Runtime, quants: Collection[str], where: str = "") -> str:
    """A precision by the runtime's own name. Raises SkdError where it hasn't got it."""
    quant = runtime.aliases.get(quant, quant)
    if quant not in quants:
        raise SkdError(f"{runtime.files} has no precision '{quant}'{where}; there are {', '.join(quants)}.")
    return quant
