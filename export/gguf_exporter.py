"""GGUF: one file for the language model, one for tower and projector, run by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from switchkd.errors import CheckpointError, SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import Build, Contract, Plan
from switchkd.export.gguf_language import check_tokenizer, language_tensors, write_language
from switchkd.export.gguf_quantize import BLOCK, FILE_TYPES, K_BLOCK, Importance, quantize, tensor_types
from switchkd.export.gguf_vision import check_vision, vision_tensors, write_vision
from switchkd.export.gguf_writer import check_complete, gguf_library
from switchkd.export.importance import ImportanceCollector, collect, kept
from switchkd.export.probes import Probe
from switchkd.manifest import TensorCount
from switchkd.runtime.engine import Engine, end_token_ids
from switchkd.runtime.llama_engine import LlamaModel, load_parts
from switchkd.runtime.llama_library import Observer, library

_FILES = {"language": "language.gguf", "vision": "mmproj.gguf"}
_INPUTS: dict[str, tuple[int | str, ...]] = {
    "picture": ("height", "width", 3),  # bytes of the tower's size
    "input_ids": ("tokens",),
    "embeddings": ("image_tokens", "width"),
}
# Relative errors. llama.cpp looks gelu up in a float16 table and, in the projector, takes its tanh form for the exact one:
# with float32 weights that alone is 3e-4 to 1e-3.
_TOLERANCE = {
    "f32": {"pixels": 1e-5, "features": 4e-3, "projected": 4e-3, "logits": 1e-2},
    "f16": {"pixels": 1e-5, "features": 5e-3, "projected": 5e-3, "logits": 2e-2},
}
_MAX_DIVERGENCE = {"f32": 1e-3, "f16": 5e-3, "q8_0": 0.05, "q5_k_m": 0.3, "q4_k_m": 0.6, "q4_0": 0.6}
# Writings and scripts in which a tokenizer that was carried over wrongly shows.
_TEXTS = (
    "Two cars, 1,234 m ahead!\n\n  don't",
    "Straße über größere Brücken",
    "信号灯是红色的。",
    "🚦 naïve 🧑‍🚒\t x=3.14",
)


class GgufExporter:
    """See `Exporter`."""

    quants: Sequence[str] = ("q4", "q4_0", "q4_k_m", "q5_k_m", "q8", "f16", "f32")
    vision_quants: Sequence[str] = ("f16", "q8_0", "q4_0", "f32")
    calibrates = True

    def plan(self, checkpoint: Checkpoint, quant: str, vision_quant: str | None) -> Plan:
        """See `Exporter.plan`. `q4` is q4_k_m where every row can be cut into K-quant blocks, else q4_0."""
        self._check_names(quant, vision_quant)
        gguf_library(), library()
        check_vision(checkpoint)
        check_tokenizer(checkpoint)
        quant = _resolve(quant, checkpoint.text["hidden_size"])
        vision_quant = vision_quant or ("f32" if quant == "f32" else "f16")
        _check_blocks("language model", quant, checkpoint.text["hidden_size"])
        _check_blocks("tower", vision_quant, checkpoint.vision["hidden_size"])
        check_complete(checkpoint, language_tensors(checkpoint), vision_tensors(checkpoint))
        plain = {"language": _plain(quant), "vision": _plain(vision_quant)}
        tolerance = _TOLERANCE["f16" if "f16" in plain.values() else "f32"]
        limit = max(_MAX_DIVERGENCE[quant], _MAX_DIVERGENCE[vision_quant])
        return Plan(quant, vision_quant, plain, Contract(_INPUTS, _FILES, tolerance, limit))

    def write(self, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Build:
        """See `Exporter.write`. Raises CheckpointError where llama.cpp reads the tokenizer otherwise than it is."""
        files = {role: folder / name for role, name in _FILES.items()}
        write_language(checkpoint, files["language"], plan.plain["language"])
        write_vision(checkpoint, files["vision"], plan.plain["vision"])
        _check_tokens(checkpoint, files["language"])
        return Build(files, plan.plain)

    def candidates(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        plain: Build,
        folder: Path,
        *,
        calibration: Sequence[Probe],
        keep: Path,
        threads: int,
    ) -> Iterator[Build]:
        """See `Exporter.candidates`: without an importance matrix, and with one where there is calibration data."""
        vision = _quantized(plain.files["vision"], folder / _FILES["vision"], plan.vision_quant, threads)
        precision = {"language": plan.quant, "vision": plan.vision_quant}
        language = _quantized(plain.files["language"], folder / _FILES["language"], plan.quant, threads)
        yield Build({"language": language, "vision": vision}, precision, "without importance matrix")
        if calibration and plan.quant in FILE_TYPES:
            key = sha256(
                f"{checkpoint.sha256}{[(probe.messages, str(probe.picture)) for probe in calibration]}".encode()
            )
            path = keep / f"{checkpoint.folder.name}-importance-{key.hexdigest()[:12]}.npz"
            importance = kept(path, lambda: self._importance(checkpoint, plain, calibration, threads))
            weighted = folder / f"weighted-{_FILES['language']}"
            _quantized(plain.files["language"], weighted, plan.quant, threads, importance)
            yield Build({"language": weighted, "vision": vision}, precision, "with importance matrix")

    def open(self, checkpoint: Checkpoint, build: Build, *, threads: int, traced: bool) -> Engine:
        """See `Exporter.open`."""
        return self._open(checkpoint, build, threads, traced=traced)

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        """See `Exporter.tensor_types`."""
        return tensor_types(file)

    def tools(self) -> dict[str, str]:
        """See `Exporter.tools`."""
        return {name: version(name) for name in ("gguf", "llama-cpp-python")}

    def _check_names(self, quant: str, vision_quant: str | None) -> None:
        if quant not in self.quants:
            raise SkdError(f"GGUF has no precision '{quant}'; there are {', '.join(self.quants)}.")
        if vision_quant not in (None, *self.vision_quants):
            known = ", ".join(self.vision_quants)
            raise SkdError(f"GGUF has no precision '{vision_quant}' for the vision file; there are {known}.")

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
            exact=(build.precision["language"] == "f32", build.precision["vision"] == "f32"),
            traced=traced,
            observe=observe,
        )
        return Engine(
            "export",
            checkpoint.prompt,
            checkpoint.preprocess,
            vision,
            language,
            image_tokens=checkpoint.image_tokens,
            end_tokens=end_token_ids(checkpoint.folder, checkpoint.prompt),
        )

    def _importance(self, checkpoint: Checkpoint, plain: Build, probes: Sequence[Probe], threads: int) -> Importance:
        collector = ImportanceCollector()
        with self._open(checkpoint, plain, threads, observe=collector) as engine:
            return collect(engine, collector, probes)


EXPORTER = GgufExporter()


def _resolve(quant: str, width: int) -> str:
    """llama.cpp's name of a precision, for rows of `width` values."""
    if quant == "q4":
        return "q4_0" if width % K_BLOCK else "q4_k_m"
    return "q8_0" if quant == "q8" else quant


def _check_blocks(part: str, quant: str, width: int) -> None:
    if quant in FILE_TYPES and width % BLOCK:
        raise CheckpointError(
            f"The {part}'s hidden_size {width} isn't a multiple of {BLOCK}, the block of {quant}, so nearly nothing "
            "would be quantized; take f16."
        )


def _plain(quant: str) -> str:
    return "f32" if quant == "f32" else "f16"


def _quantized(source: Path, target: Path, quant: str, threads: int, importance: Importance | None = None) -> Path:
    """`target`, or `source` itself where there is nothing to quantize."""
    if quant not in FILE_TYPES:
        return source
    quantize(source, target, quant, threads=threads, importance=importance)
    return target


def _check_tokens(checkpoint: Checkpoint, language: Path) -> None:
    model = LlamaModel(language)
    try:
        for text in _TEXTS:
            expected = checkpoint.prompt.tokenizer.encode(text, add_special_tokens=False).ids
            if model.tokenize(text) != expected:
                raise CheckpointError(f"llama.cpp reads the tokenizer of {checkpoint.folder} differently: {text!r}.")
    finally:
        model.close()
