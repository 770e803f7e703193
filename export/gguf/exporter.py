"""GGUF: one file for the language model, one for tower and projector, run by llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from switchkd.errors import CheckpointError, SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import Build, Contract, Plan, Quantization, engine_of
from switchkd.export.gguf.importance import ImportanceCollector, collect, kept
from switchkd.export.gguf.language import check_tokenizer, write_language
from switchkd.export.gguf.mixtures import BLOCK, MIXTURES, default_mixture
from switchkd.export.gguf.quantize import Importance, quantize, tensor_types
from switchkd.export.gguf.vision import check_vision, write_vision
from switchkd.export.gguf.writer import gguf_library
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.llama.engine import LlamaModel, is_rearranged, load_parts
from switchkd.runtime.engines.llama.library import Observer, library

LANGUAGE_FILE = "language.gguf"
_FILES = {"language": LANGUAGE_FILE, "vision": "mmproj.gguf"}
LANGUAGE_QUANTS = ("q4", *(name for name in MIXTURES if name != "q8_0"), "q8", "f16", "f32")
_INPUTS: dict[str, tuple[int | str, ...]] = {
    "picture": ("height", "width", 3),  # bytes of the tower's size
    "input_ids": ("tokens",),
    "embeddings": ("image_tokens", "width"),
}
# Relative errors. llama.cpp looks gelu up in a float16 table and, in the projector, takes its tanh form for the exact one:
# with float32 weights that alone is 3e-4 to 1e-3.
TOLERANCE = {
    "f32": {"pixels": 1e-5, "features": 4e-3, "projected": 4e-3, "logits": 1e-2},
    "f16": {"pixels": 1e-5, "features": 5e-3, "projected": 5e-3, "logits": 2e-2},
}
# Largest mean KL in nats. With Qwen2.5-0.5B on real text, q8_0 loses 0.001 and q4_k_m 0.02 (see the same in onnx_exporter.py).
MAX_DIVERGENCE = {
    "f32": 1e-3,
    "f16": 5e-3,
    "q8_0": 0.01,
    "q5_k_m": 0.02,
    "q4_k_m": 0.03,
    "q4_mixed": 0.03,
    "q4_0": 0.03,
}
# Writings and scripts in which a tokenizer that was carried over wrongly shows.
_TEXTS = (
    "Two cars, 1,234 m ahead!\n\n  don't",
    "Straße über größere Brücken",
    "信号灯是红色的。",
    "🚦 naïve 🧑‍🚒\t x=3.14",
)


class GgufExporter:
    """See `Exporter`."""

    quants: Sequence[str] = LANGUAGE_QUANTS
    vision_quants: Sequence[str] = ("f16", "q8_0", "q4_0", "f32")
    calibrates = tuple(name for name, mixture in MIXTURES.items() if mixture.weighted)

    def plan(self, checkpoint: Checkpoint, quant: str, vision_quant: str | None) -> Plan:
        """See `Exporter.plan`."""
        if vision_quant not in (None, *self.vision_quants):
            known = ", ".join(self.vision_quants)
            raise SkdError(f"GGUF has no precision '{vision_quant}' for the vision file; there are {known}.")
        quant = plan_language(checkpoint, quant)
        check_vision(checkpoint)
        vision_quant = vision_quant or ("f32" if quant == "f32" else "f16")
        _check_blocks("tower", vision_quant, checkpoint.vision["hidden_size"])
        checkpoint.check_complete()
        plain = {"language": plain_precision(quant), "vision": plain_precision(vision_quant)}
        tolerance = TOLERANCE["f16" if "f16" in plain.values() else "f32"]
        limit = max(MAX_DIVERGENCE[quant], MAX_DIVERGENCE[vision_quant])
        return Plan(quant, vision_quant, plain, Contract(_INPUTS, _FILES, tolerance, limit))

    def write(self, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Build:
        """See `Exporter.write`."""
        files = {role: folder / name for role, name in _FILES.items()}
        write_checked_language(checkpoint, files["language"], plan.plain["language"])
        write_vision(checkpoint, files["vision"], plan.plain["vision"])
        return Build(files, plan.plain)

    def candidates(self, job: Quantization) -> Iterator[Build]:
        """See `Exporter.candidates`: without an importance matrix and, where rounding can follow one, with it."""
        vision = _quantized(job, "vision", job.folder / _FILES["vision"])

        def observed(observe: Observer) -> Engine:
            return self._open(job.checkpoint, job.plain, job.threads, observe=observe)

        for language, note in language_candidates(job, observed):
            precision = {"language": job.plan.quant, "vision": job.plan.vision_quant}
            yield Build({"language": language, "vision": vision}, precision, note)

    def open(self, checkpoint: Checkpoint, build: Build, *, threads: int, traced: bool) -> Engine:
        """See `Exporter.open`."""
        return self._open(checkpoint, build, threads, traced=traced)

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        """See `Exporter.tensor_types`."""
        return tensor_types(file)

    def tools(self) -> dict[str, str]:
        """See `Exporter.tools`."""
        return {name: version(name) for name in ("gguf", "llama-cpp-python")}

    def _open(
        self,
        checkpoint: Checkpoint,
        build: Build,
        threads: int,
        *,
        traced: bool = False,
        observe: Observer | None = None,
    ) -> Engine:
        vision, language = load_parts(
            build.files["vision"],
            build.files["language"],
            checkpoint.prompt.image_token_id,
            threads=threads,
            mapped=not is_rearranged(tensor_types(build.files["language"])),
            exact=(build.precision["language"] == "f32", build.precision["vision"] == "f32"),
            traced=traced,
            observe=observe,
        )
        return engine_of(checkpoint, vision, language)


EXPORTER = GgufExporter()


def plan_language(checkpoint: Checkpoint, quant: str) -> str:
    """The resolved precision of a language file.

    Raises:
        SkdError: there is no such precision, the tokenizer or the shape isn't supported, or a package is missing.
    """
    if quant not in LANGUAGE_QUANTS:
        raise SkdError(f"GGUF has no precision '{quant}'; there are {', '.join(LANGUAGE_QUANTS)}.")
    gguf_library(), library()
    check_tokenizer(checkpoint)
    quant = _resolve(quant, checkpoint)
    _check_blocks("language model", quant, checkpoint.text["hidden_size"])
    return quant


def plain_precision(quant: str) -> str:
    """The precision of the file that `quant` is made from."""
    return "f32" if quant == "f32" else "f16"


def write_checked_language(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Writes the language file. Raises CheckpointError where llama.cpp reads the tokenizer otherwise than it is."""
    write_language(checkpoint, path, precision)
    _check_tokens(checkpoint, path)


def language_candidates(job: Quantization, observed: Callable[[Observer], Engine]) -> Iterator[tuple[Path, str]]:
    """Quantized language files with what tells them apart; see `Exporter.candidates`.

    Args:
        observed: an engine of the unquantized build that shows an observer its matrix products.
    """
    yield _quantized(job, "language", job.folder / LANGUAGE_FILE), "without importance matrix"
    if job.plan.quant in MIXTURES and MIXTURES[job.plan.quant].weighted:
        weighted = job.folder / f"weighted-{LANGUAGE_FILE}"
        yield _quantized(job, "language", weighted, _importance(job, observed)), "with importance matrix"


def _importance(job: Quantization, observed: Callable[[Observer], Engine]) -> Importance:
    """Of the package's passages and the user's conversations. With these it is kept for the next export: pictures take long."""

    def make() -> Importance:
        collector = ImportanceCollector()
        with observed(collector) as engine:
            return collect(engine, collector, job.calibration, job.passages)

    if not job.calibration:
        return make()
    probes = [(probe.messages, str(probe.picture)) for probe in job.calibration]
    key = sha256(f"{job.checkpoint.sha256}{probes}{job.passages}".encode()).hexdigest()[:12]
    return kept(job.keep / f"{job.checkpoint.folder.name}-importance-{key}.npz", make)


def _resolve(quant: str, checkpoint: Checkpoint) -> str:
    """The name of a precision's mixture, or of an unquantized precision."""
    if quant == "q4":
        return default_mixture(checkpoint.text["hidden_size"], checkpoint.tied)
    return "q8_0" if quant == "q8" else quant


def _check_blocks(part: str, quant: str, width: int) -> None:
    if quant in MIXTURES and width % BLOCK:
        raise CheckpointError(
            f"The {part}'s hidden_size {width} isn't a multiple of {BLOCK}, the block of {quant}, so nearly nothing "
            "would be quantized; take f16."
        )


def _quantized(job: Quantization, role: str, target: Path, importance: Importance | None = None) -> Path:
    """`target`, or the unquantized file itself where there is nothing to quantize."""
    source = job.plain.files[role]
    quant = job.plan.quant if role == "language" else job.plan.vision_quant
    if quant not in MIXTURES:
        return source
    tied = role == "language" and job.checkpoint.tied
    quantize(source, target, MIXTURES[quant], tied=tied, threads=job.threads, importance=importance)
    return target


def _check_tokens(checkpoint: Checkpoint, language: Path) -> None:
    model = LlamaModel(language, vocabulary=True)
    try:
        for text in _TEXTS:
            expected = checkpoint.prompt.tokenizer.encode(text, add_special_tokens=False).ids
            if model.tokenize(text) != expected:
                raise CheckpointError(f"llama.cpp reads the tokenizer of {checkpoint.folder} differently: {text!r}.")
    finally:
        model.close()
