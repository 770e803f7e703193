"""ONNX: three graphs in the layout that transformers.js and the hub know, run by ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from switchkd.errors import CheckpointError, SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import Build, Contract, Plan, Quantization, engine_of
from switchkd.export.onnx.calibration import calibrate, language_examples, vision_examples
from switchkd.export.onnx.graph import data_path, require_packages, tensor_types
from switchkd.export.onnx.kernels import BLOCK
from switchkd.export.onnx.language import KEEP, check_language, write_decoder, write_embedding
from switchkd.export.onnx.quantize import convert_half, product_inputs, quantize_four_bits, quantize_int8
from switchkd.export.onnx.vision import write_traced, write_vision
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.onnx.engine import load_parts

_NAMES = {"vision": "vision_encoder", "embedding": "embed_tokens", "language": "decoder_model_merged"}
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4"}
_PLAIN = {"language": "fp32", "vision": "fp32"}
TOLERANCE = {"pixels": 1e-5, "features": 1e-4, "projected": 1e-4, "logits": 1e-3}
# Largest mean KL in nats. With Qwen2.5-0.5B on real text, sound 8 bits lose 0.001 to 0.01 and sound 4 bits 0.02 to 0.03, where
# nine first choices in ten are still the same. The unquantized ones lose by rounding alone.
MAX_DIVERGENCE = {"fp32": 1e-4, "fp16": 5e-3, "q8": 0.01, "q4": 0.03}
_QUANTIZERS = {"q8": quantize_int8, "q4": quantize_four_bits}
_EXAMPLES = {"vision": vision_examples, "language": language_examples}
VISION_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")
VISION_QUANTS = ("q8", "fp16", "fp32")
_ALIASES = {"f32": "fp32", "f16": "fp16", "q8_0": "q8", "q4_0": "q4"}


class OnnxExporter:
    """See `Exporter`."""

    quants: Sequence[str] = ("q4", "q8", "fp16", "fp32")
    vision_quants: Sequence[str] = VISION_QUANTS
    calibrates = ("q8", "q4")

    def plan(self, checkpoint: Checkpoint, quant: str, vision_quant: str | None) -> Plan:
        """See `Exporter.plan`."""
        quant = _ALIASES.get(quant, quant)
        if quant not in self.quants:
            raise SkdError(f"ONNX has no precision '{quant}'; there are {', '.join(self.quants)}.")
        vision_quant = plan_vision(vision_quant or ("q8" if quant == "q4" else quant))
        check_language(checkpoint)
        for name in ("hidden_size", "intermediate_size"):
            if quant == "q4" and checkpoint.text[name] % BLOCK:
                raise CheckpointError(
                    f"The language model's {name} {checkpoint.text[name]} isn't a multiple of {BLOCK}, the block of "
                    "q4; take q8."
                )
        checkpoint.check_complete()
        precision = _precision(quant, vision_quant)
        files = {role: onnx_file(role, precision[role]) for role in _NAMES}
        limit = max(MAX_DIVERGENCE[quant], MAX_DIVERGENCE[vision_quant])
        return Plan(quant, vision_quant, _PLAIN, Contract(_inputs(checkpoint), files, TOLERANCE, limit))

    def write(self, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Build:
        """See `Exporter.write`."""
        files = {role: folder / f"{name}.onnx" for role, name in _NAMES.items()}
        write_vision(checkpoint, files["vision"])
        write_embedding(checkpoint, files["embedding"], "fp32")
        write_decoder(checkpoint, files["language"])
        return build_of(files, plan.plain)

    def candidates(self, job: Quantization) -> Iterator[Build]:
        """See `Exporter.candidates`: one, by the way that lost least where several were tried."""
        precision = _precision(job.plan.quant, job.plan.vision_quant)
        # A graph names its file of weights, so files have their final names from the start.
        files = {role: job.folder / Path(name).name for role, name in job.plan.contract.files.items()}
        for role in ("vision", "language"):
            convert(job, role, files[role], precision[role])
        write_embedding(job.checkpoint, files["embedding"], precision["embedding"])
        yield build_of(files, precision)

    def open(self, checkpoint: Checkpoint, build: Build, *, threads: int, traced: bool) -> Engine:
        """See `Exporter.open`."""
        vision, language = load_parts(
            vision_file(build, traced=traced),
            build.files["embedding"],
            build.files["language"],
            checkpoint.preprocess,
            checkpoint.prompt.image_token_id,
            threads=threads,
            context=min(4096, checkpoint.text["max_position_embeddings"]),
        )
        return engine_of(checkpoint, vision, language)

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        """See `Exporter.tensor_types`."""
        return tensor_types(file)

    def tools(self) -> dict[str, str]:
        """See `Exporter.tools`."""
        return {name: version(name) for name in (*VISION_TOOLS, "onnxruntime-genai")}


EXPORTER = OnnxExporter()


def plan_vision(quant: str) -> str:
    """The resolved precision of a vision file.

    Raises:
        SkdError: there is no such precision, or a package is missing.
    """
    require_packages()
    quant = _ALIASES.get(quant, quant)
    if quant not in VISION_QUANTS:
        raise SkdError(f"ONNX has no precision '{quant}' for the vision file; there are {', '.join(VISION_QUANTS)}.")
    return quant


def onnx_file(role: str, precision: str) -> str:
    """Where a graph lies in an export folder."""
    return f"onnx/{_NAMES[role]}{_SUFFIXES[precision]}.onnx"


def vision_file(build: Build, *, traced: bool) -> Path:
    """The vision graph to run, with `traced` a copy beside it that shows its stages."""
    path = build.files["vision"]
    if not traced:
        return path
    write_traced(path, copy := path.with_name("traced.onnx"))
    return copy


def build_of(files: Mapping[str, Path], precision: Mapping[str, str], note: str = "") -> Build:
    """A build with the weights that lie beside its graphs."""
    data = {role: data_path(file) for role, file in files.items() if data_path(file).exists()}
    return Build(files, precision, note, data)


def convert(job: Quantization, role: str, target: Path, precision: str) -> None:
    """Writes the vision or language graph of the unquantized build in another precision."""
    source = job.plain.files[role]
    if precision == "fp32":
        shutil.copyfile(source, target)
        if data_path(source).exists():
            shutil.copyfile(data_path(source), data_path(target))
    elif precision == "fp16":
        convert_half(source, target)
    else:
        seen = calibrate(source, product_inputs(source), _EXAMPLES[role](job), threads=job.threads)
        _QUANTIZERS[precision](source, target, seen)


def _precision(quant: str, vision_quant: str) -> dict[str, str]:
    """Role → precision. Eight bits are as good as exact for an embedding, and four save little."""
    return {"vision": vision_quant, "embedding": "q8" if quant == "q4" else quant, "language": quant}


def _inputs(checkpoint: Checkpoint) -> dict[str, tuple[int | str, ...]]:
    """Every input of the three graphs; words are dynamic axes."""
    text, side = checkpoint.text, checkpoint.vision["image_size"]
    width, heads = text["hidden_size"], text["num_key_value_heads"]
    cache = ("batch_size", heads, "past_sequence_length", checkpoint.architecture.head_width)
    return {
        "pixel_values": ("batch_size", 3, side, side),
        "input_ids": ("batch_size", "sequence_length"),
        "inputs_embeds": ("batch_size", "sequence_length", width),
        "attention_mask": ("batch_size", "total_sequence_length"),
        KEEP: (),
        **{
            f"past_key_values.{layer}.{kind}": cache
            for kind in ("key", "value")
            for layer in range(text["num_hidden_layers"])
        },
    }
