"""ONNX's part writers: three graphs in the layout that transformers.js and the hub know, run by ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.onnx.calibration import calibrate, language_examples, vision_examples
from switchkd.export.onnx.graph import data_path, forget_graphs, require_packages, tensor_types
from switchkd.export.onnx.kernels import BLOCK
from switchkd.export.onnx.language import check_language, write_decoder, write_embedding
from switchkd.export.onnx.limits import MAX_DIVERGENCE, TOLERANCE
from switchkd.export.onnx.products import Feeds
from switchkd.export.onnx.quantize import (
    Observed,
    convert_half,
    product_inputs,
    quantize_eight_bits,
    quantize_four_bits,
    quantize_gate,
    quantize_int8,
)
from switchkd.export.onnx.vision import write_traced, write_vision
from switchkd.export.parts import Build, Quantization
from switchkd.manifest import TensorCount

_NAMES = {"vision": "vision_encoder", "embedding": "embed_tokens", "language": "decoder_model_merged"}
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4"}
_PLAIN = "fp32"
Quantizers = Mapping[str, Callable[[Path, Path, Observed], None]]
_QUANTIZERS: Quantizers = {"q8": quantize_int8, "q4": quantize_four_bits}
_FINER: Quantizers = {"q8": quantize_eight_bits, "q4": quantize_gate}


class _Writer:
    """What both parts have in common; see `PartWriter`."""

    calibrates: Sequence[str] = ("q8", "q4")
    tools: Sequence[str] = ("torch", "onnx", "onnxscript", "onnxruntime")
    tolerance: Mapping[str, Mapping[str, float]] = TOLERANCE
    max_divergence: Mapping[str, float] = MAX_DIVERGENCE
    role: str  # of the graph that is quantized

    def unquantized(self, quant: str) -> str:
        return _PLAIN

    def files(self, quant: str) -> Mapping[str, str]:
        return {role: f"onnx/{_file(role, each)}" for role, each in self._precision(quant).items()}

    def reserve(self, job: Quantization) -> Iterator[Build]:
        return iter(())

    def traced(self, file: Path) -> Path:
        write_traced(file, copy := file.with_name("traced.onnx"))
        return copy

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        return tensor_types(file)

    def _precision(self, quant: str) -> dict[str, str]:
        """Role → precision of this part's graphs."""
        return {self.role: quant}


class VisionWriter(_Writer):
    """Tower and projector; see `PartWriter`."""

    role = "vision"

    def plan(self, checkpoint: Checkpoint, quant: str) -> str:
        require_packages()
        return quant

    def write(self, checkpoint: Checkpoint, folder: Path, unquantized: str) -> Build:
        files = _paths(folder, self._precision(unquantized))
        write_vision(checkpoint, files["vision"])
        forget_graphs()
        return _build(files, self._precision(unquantized))

    def candidates(self, job: Quantization) -> Iterator[Build]:
        precision = self._precision(job.plan.vision_quant)
        files = _paths(job.folder, precision)
        _convert(job, self.role, files[self.role], precision[self.role], vision_examples)
        yield _build(files, precision)


class LanguageWriter(_Writer):
    """Decoder and embedding; see `PartWriter`."""

    role = "language"
    tools: Sequence[str] = (*_Writer.tools, "onnxruntime-genai")

    def plan(self, checkpoint: Checkpoint, quant: str) -> str:
        require_packages()
        check_language(checkpoint)
        for name in ("hidden_size", "intermediate_size"):
            if quant == "q4" and checkpoint.text[name] % BLOCK:
                raise CheckpointError(
                    f"The language model's {name} {checkpoint.text[name]} isn't a multiple of {BLOCK}, the block of "
                    "q4; take q8."
                )
        return quant

    def write(self, checkpoint: Checkpoint, folder: Path, unquantized: str) -> Build:
        files = _paths(folder, self._precision(unquantized))
        write_embedding(checkpoint, files["embedding"], unquantized)
        write_decoder(checkpoint, files["language"])
        forget_graphs()
        return _build(files, self._precision(unquantized))

    def candidates(self, job: Quantization) -> Iterator[Build]:
        yield self._quantized(job, _QUANTIZERS)

    def reserve(self, job: Quantization) -> Iterator[Build]:
        """Models of a hundred million weights take activations in int8 by the row less well than larger ones."""
        if job.plan.quant in _FINER:
            yield replace(self._quantized(job, _FINER, embedding="q8"), note="finer")

    def _quantized(self, job: Quantization, quantizers: Quantizers, embedding: str | None = None) -> Build:
        """A build, its embedding in the same precision or another one."""
        precision = self._precision(job.plan.quant)
        files = _paths(job.folder, precision)
        _convert(job, self.role, files[self.role], precision[self.role], language_examples, quantizers)
        write_embedding(job.checkpoint, files["embedding"], embedding or precision["embedding"])
        return _build(files, precision)

    def _precision(self, quant: str) -> dict[str, str]:
        return {self.role: quant, "embedding": quant}


def _file(role: str, precision: str) -> str:
    return f"{_NAMES[role]}{_SUFFIXES[precision]}.onnx"


def _paths(folder: Path, precision: Mapping[str, str]) -> dict[str, Path]:
    """Role → graph. One names its file of weights, so they have their final names from the start."""
    return {role: folder / _file(role, each) for role, each in precision.items()}


def _build(files: Mapping[str, Path], precision: Mapping[str, str]) -> Build:
    """A build with the weights that lie beside its graphs."""
    return Build(
        files, precision, data={role: data_path(file) for role, file in files.items() if data_path(file).exists()}
    )


def _convert(
    job: Quantization,
    role: str,
    target: Path,
    precision: str,
    examples: Callable[[Quantization], Iterator[Feeds]],
    quantizers: Quantizers = _QUANTIZERS,
) -> None:
    """Writes a graph of the unquantized build in another precision."""
    source = job.unquantized.files[role]
    if precision == _PLAIN:
        shutil.copyfile(source, target)
        if data_path(source).exists():
            shutil.copyfile(data_path(source), data_path(target))
    elif precision == "fp16":
        convert_half(source, target)
    else:
        names = product_inputs(source)
        forget_graphs()
        seen = job.once(role, lambda: calibrate(source, names, examples(job), threads=job.threads))
        quantizers[precision](source, target, seen)
    forget_graphs()
