"""The language model as ONNX: onnxruntime-genai's builder writes the decoder, from a folder of the language model alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from switchkd.architecture.family import Refusal, refuse
from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.onnx.graph import CONTRIB, constant, save_graph, small_graph
from switchkd.export.onnx.grids import halved
from switchkd.export.onnx.kernels import BLOCK, Blocks

KEEP = "num_logits_to_keep"


REFUSALS = (
    Refusal(
        "heads that aren't a multiple of 16 wide, or more for keys than divide the others: its fused attention",
        lambda settings: bool(
            settings["head_width"] % 16 or settings["num_attention_heads"] % settings["num_key_value_heads"]
        ),
        "The attention of {folder} ({num_attention_heads} heads of {head_width}, {num_key_value_heads} for keys) isn't one that "
        "ONNX Runtime's fused attention computes: heads must be a multiple of 16 wide, and those for keys divide the others.",
    ),
)


def check_language(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a shape that ONNX Runtime's fused attention doesn't take, naming it."""
    architecture, folder = checkpoint.architecture, checkpoint.folder
    refuse(REFUSALS, checkpoint.text | {"head_width": architecture.head_width}, folder)


def write_decoder(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the float32 decoder: one graph for prompts and for single tokens.

    Inputs inputs_embeds [B, T, W], attention_mask [B, past + T], num_logits_to_keep [] (0: all) and
    past_key_values.N.{key, value} [B, heads, past, head]; outputs logits [B, kept, V] and present.N.{key, value}.

    Raises:
        SkdError: the builder failed, with its last line.
    """
    import onnx_ir as ir

    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        source, built = Path(work, "language"), Path(work, "built")
        _write_alone(checkpoint, source)
        _build(source, built, Path(work, "cache"))
        model = ir.load(built / "model.onnx")
        _name_cache_width(model.graph, checkpoint.architecture.head_width)
        _spell_out_norms(model.graph)
        _keep_last_logits(model.graph)
        save_graph(model, path)


def write_embedding(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Writes the token embedding: input_ids [B, T] → inputs_embeds [B, T, W] float32.

    Args:
        precision: fp32, fp16, q8: 8-bit rows with one float32 scale each, or q4: blocks of 4 bits.
    """
    from onnx import TensorProto, helper, numpy_helper

    rows = checkpoint.read("language_model.embed_tokens.weight")  # [V, W]
    weights: dict[str, np.ndarray[Any, Any]]
    if precision == "fp32":
        weights = {"embed_tokens.weight": rows}
        nodes = [helper.make_node("Gather", ["embed_tokens.weight", "input_ids"], ["inputs_embeds"])]
    elif precision == "fp16":
        weights = {"embed_tokens.weight": rows.astype(np.float16)}
        nodes = [
            helper.make_node("Gather", ["embed_tokens.weight", "input_ids"], ["rows"]),
            helper.make_node("Cast", ["rows"], ["inputs_embeds"], to=TensorProto.FLOAT),
        ]
    elif precision == "q4":
        blocks = Blocks.of(rows.T, np.ones(rows.shape[1], np.float32), bits=4)
        half, unit = halved(blocks.grid.scale.T)
        weights = {
            "embed_tokens.weight_Q4": blocks.packed().reshape(len(rows), -1),  # [V, W / 2]
            "embed_tokens.weight_half": half,  # [V, W / block]
            "embed_tokens.weight_unit": np.array(unit),
            "embed_tokens.weight_offset": blocks.packed_offsets(),
        }
        settings: dict[str, Any] = {"bits": 4, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        operands = ["embed_tokens.weight_Q4", "input_ids", "scale", "embed_tokens.weight_offset"]
        nodes = [
            helper.make_node("Cast", ["embed_tokens.weight_half"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "embed_tokens.weight_unit"], ["scale"]),
            helper.make_node("GatherBlockQuantized", operands, ["inputs_embeds"], domain=CONTRIB, **settings),
        ]
    else:
        scale = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / 127  # [V, 1]
        weights = {
            "embed_tokens.weight_quantized": np.rint(rows / scale).astype(np.int8),
            "embed_tokens.weight_scale": scale.astype(np.float32),
        }
        nodes = [
            helper.make_node("Gather", ["embed_tokens.weight_quantized", "input_ids"], ["bytes"]),
            helper.make_node("Gather", ["embed_tokens.weight_scale", "input_ids"], ["scale"]),
            helper.make_node("Cast", ["bytes"], ["rows"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["rows", "scale"], ["inputs_embeds"]),
        ]
    axes: list[str | int] = ["batch_size", "sequence_length"]
    model = small_graph(
        nodes,
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, axes)],
        [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, [*axes, rows.shape[1]])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
        "embed_tokens",
    )
    save_graph(model, path)


def _write_alone(checkpoint: Checkpoint, folder: Path) -> None:
    """The language model's folder in float32, which is what the builder reads."""
    from safetensors.numpy import save_file

    folder.mkdir()
    weights = {
        f"model.{name.removeprefix('language_model.')}": checkpoint.read(name)
        for name in checkpoint.tensors
        if name.startswith("language_model.")
    }
    if not checkpoint.tied:
        weights["lm_head.weight"] = checkpoint.read("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        **checkpoint.text,
        "architectures": [checkpoint.architecture.language.model_class],
        "tie_word_embeddings": checkpoint.tied,
        "dtype": "float32",
        # The builder takes these from the LLaVA configuration's part for granted.
        "bos_token_id": checkpoint.text.get("bos_token_id"),
        "eos_token_id": checkpoint.text.get("eos_token_id"),
    }
    for name in ("torch_dtype", "rope_type"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)


def _build(source: Path, built: Path, cache: Path) -> None:
    """Runs the builder in a process of its own: it prints, extends sys.path, and its memory is free again afterwards."""
    module = "onnxruntime_genai.models.builder"
    options: Sequence[str] = ("-i", str(source), "-o", str(built), "-c", str(cache), "-p", "fp32", "-e", "cpu")
    result = subprocess.run(
        [sys.executable, "-m", module, *options, "--extra_options", "exclude_embeds=true"],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["it said nothing"]
        raise SkdError(f"onnxruntime-genai's builder couldn't write the decoder: {lines[-1]}")


def _name_cache_width(graph: Any, width: int) -> None:
    """Says how wide keys and values are, where the builder leaves it open for caches of other types."""
    import onnx_ir as ir

    for value in (*graph.inputs, *graph.outputs):
        if value.name.startswith(("past_key_values.", "present.")):
            value.shape = ir.Shape([*value.shape.dims[:-1], width])


def _spell_out_norms(graph: Any) -> None:
    """Replaces ONNX Runtime's own RMS norm, which it keeps in ONNX's domain and onnx.checker doesn't know, by the
    operators that it makes the same kernel of when it loads them."""
    import onnx_ir as ir

    for norm in [node for node in graph if node.op_type == "SimplifiedLayerNormalization"]:
        hidden, weight = norm.inputs
        two, last, epsilon = (
            constant(graph, f"{norm.name}/{name}", values)
            for name, values in (
                ("two", np.array(2, np.float32)),
                ("last", np.array([-1], np.int64)),
                ("epsilon", np.array(norm.attributes["epsilon"].as_float(), np.float32)),
            )
        )
        nodes: list[Any] = []
        for kind, operands in (
            ("Pow", (hidden, two)),
            ("ReduceMean", (None, last)),
            ("Add", (None, epsilon)),
            ("Sqrt", (None,)),
            ("Div", (hidden, None)),
            ("Mul", (None, weight)),
        ):
            # None stands for the result before.
            inputs = [nodes[-1].outputs[0] if operand is None else operand for operand in operands]
            nodes.append(ir.node(kind, inputs, name=f"{norm.name}/{kind}"))
            nodes[-1].outputs[0].name = f"{norm.name}/{kind}/output_0"
        result, new = norm.outputs[0], nodes[-1].outputs[0]
        new.type, new.shape = result.type, result.shape
        graph.insert_before(norm, nodes)
        result.replace_all_uses_with(new)
        graph.remove(norm, safe=True)


def _keep_last_logits(graph: Any) -> None:
    """Lets the head see only the last positions: hidden[:, -num_logits_to_keep:], where 0 means all, as in Python.

    Otherwise a prompt with a picture takes, at 0.5B, a quarter of its arithmetic and 460 MB for logits that nobody reads.
    """
    import onnx_ir as ir

    (logits,) = [value for value in graph.outputs if value.name == "logits"]
    head = logits.producer()
    count = ir.Value(name=KEEP, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    graph.inputs.append(count)
    axis, first, end = (
        constant(graph, f"{KEEP}.{name}", np.array([number], np.int64))
        for name, number in (("axis", 1), ("first", 0), ("end", np.iinfo(np.int64).max))
    )
    negated = ir.node("Neg", [count], name=f"/lm_head/{KEEP}/Neg")
    start = ir.node("Unsqueeze", [negated.outputs[0], first], name=f"/lm_head/{KEEP}/Unsqueeze")
    kept = ir.node(
        "Slice",
        [head.inputs[0], start.outputs[0], end, axis],
        name=f"/lm_head/{KEEP}/Slice",
    )
    graph.insert_before(head, [negated, start, kept])
    for node, name in ((negated, "negated"), (start, "start"), (kept, "hidden_states")):
        node.outputs[0].name = f"{KEEP}.{name}"
    head.replace_input_with(0, kept.outputs[0])
    logits.shape = ir.Shape([logits.shape[0], "kept_length", logits.shape[2]])
