"""GGUF's part writers: one file for the language model, one for tower and projector, run by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.importance import ImportanceCollector, collect, kept
from switchkd.export.gguf.language import write_language
from switchkd.export.gguf.limits import MAX_DIVERGENCE, TOLERANCE
from switchkd.export.gguf.mixtures import BLOCK, MIXTURES, default_mixture
from switchkd.export.gguf.quantize import Importance, quantize, tensor_types
from switchkd.export.gguf.tokenizer import check_tokenizer
from switchkd.export.gguf.vision import check_vision, write_vision
from switchkd.export.gguf.writer import gguf_library
from switchkd.export.parts import Build, Quantization
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.llama.engine import LlamaModel
from switchkd.runtime.engines.llama.library import library
from switchkd.runtime.engines.opening import open_parts
from switchkd.runtime.engines.parts import RunOptions

# Writings and scripts in which a tokenizer that was carried over wrongly shows.
_TEXTS = (
    "Two cars, 1,234 m ahead!\n\n  don't",
    "Straße über größere Brücken",
    "信号灯是红色的。",
    "🚦 naïve 🧑‍🚒\t x=3.14",
)


class _Writer:
    """What both parts have in common; see `PartWriter`."""

    calibrates: Sequence[str] = ()
    tools: Sequence[str] = ("gguf", "llama-cpp-python")
    tolerance: Mapping[str, Mapping[str, float]] = TOLERANCE
    max_divergence: Mapping[str, float] = MAX_DIVERGENCE
    role: str
    name: str  # of the file

    def unquantized(self, quant: str) -> str:
        return "f32" if quant == "f32" else "f16"

    def files(self, quant: str) -> Mapping[str, str]:
        return {self.role: self.name}

    def reserve(self, job: Quantization) -> Iterator[Build]:
        return iter(())

    def traced(self, file: Path) -> Path:
        return file

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        return tensor_types(file)

    def _quantized(self, job: Quantization, quant: str, name: str, note: str, importance: Importance | None) -> Build:
        """A quantized file, or the unquantized one itself where there is nothing to quantize."""
        file = job.unquantized.files[self.role]
        if quant in MIXTURES:
            source, file = file, job.folder / name
            tied = self.role == "language" and job.checkpoint.tied
            quantize(source, file, MIXTURES[quant], tied=tied, threads=job.threads, importance=importance)
        return Build({self.role: file}, {self.role: quant}, note)


class VisionWriter(_Writer):
    """Tower and projector; see `PartWriter`."""

    role, name = "vision", "mmproj.gguf"

    def plan(self, checkpoint: Checkpoint, quant: str) -> str:
        gguf_library(), library()
        check_vision(checkpoint)
        _check_blocks("tower", quant, checkpoint.vision["hidden_size"])
        return quant

    def write(self, checkpoint: Checkpoint, folder: Path, unquantized: str) -> Build:
        write_vision(checkpoint, folder / self.name, unquantized)
        return Build({self.role: folder / self.name}, {self.role: unquantized})

    def candidates(self, job: Quantization) -> Iterator[Build]:
        yield self._quantized(job, job.plan.vision_quant, self.name, "", None)


class LanguageWriter(_Writer):
    """The language model; see `PartWriter`. Candidates: without an importance matrix and, where rounding can follow one, with."""

    role, name = "language", "language.gguf"
    calibrates: Sequence[str] = tuple(name for name, mixture in MIXTURES.items() if mixture.weighted)

    def plan(self, checkpoint: Checkpoint, quant: str) -> str:
        gguf_library(), library()
        check_tokenizer(checkpoint)
        if quant == "q4":
            quant = default_mixture(checkpoint.text["hidden_size"])
        quant = "q8_0" if quant == "q8" else quant
        _check_blocks("language model", quant, checkpoint.text["hidden_size"])
        return quant

    def write(self, checkpoint: Checkpoint, folder: Path, unquantized: str) -> Build:
        path = folder / self.name
        write_language(checkpoint, path, unquantized)
        _check_tokens(checkpoint, path)
        return Build({self.role: path}, {self.role: unquantized})

    def candidates(self, job: Quantization) -> Iterator[Build]:
        quant = job.plan.quant
        yield self._quantized(job, quant, self.name, "without importance matrix", None)
        if quant in self.calibrates:
            importance = job.once("importance", lambda: _importance(job))
            yield self._quantized(job, quant, f"weighted-{self.name}", "with importance matrix", importance)


def _importance(job: Quantization) -> Importance:
    """Of the package's passages and the user's conversations. With these it is kept for the next export: pictures take long."""

    def make() -> Importance:
        collector = ImportanceCollector()
        with open_parts(job.parts, RunOptions(job.threads, observe=collector)) as engine:
            return collect(engine, collector, job.calibration, job.passages)

    if not job.calibration:
        return make()
    samples = [(sample.messages, [*map(str, sample.pictures)]) for sample in job.calibration]
    key = sha256(f"{job.checkpoint.sha256}{samples}{job.passages}".encode()).hexdigest()[:12]
    return kept(job.cache / f"{job.checkpoint.folder.name}-importance-{key}.npz", make)


def _check_blocks(part: str, quant: str, width: int) -> None:
    if quant in MIXTURES and width % BLOCK:
        raise CheckpointError(
            f"The {part}'s hidden_size {width} isn't a multiple of {BLOCK}, the block of {quant}, so nearly nothing "
            "would be quantized; take f16."
        )


def _check_tokens(checkpoint: Checkpoint, language: Path) -> None:
    """Raises CheckpointError where llama.cpp reads the tokenizer otherwise than it is."""
    model = LlamaModel(language, vocabulary=True)
    try:
        for text in _TEXTS:
            expected = checkpoint.prompt.tokenizer.encode(text, add_special_tokens=False).ids
            if model.tokenize(text) != expected:
                raise CheckpointError(f"llama.cpp reads the tokenizer of {checkpoint.folder} differently: {text!r}.")
    finally:
        model.close()
