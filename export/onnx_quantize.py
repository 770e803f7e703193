"""Smaller ONNX graphs, by onnxruntime's own quantizers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.export.onnx_graph import save_graph

BLOCK = 32  # weights that share a scale in four bits
# Products in int8 with int32 sums; the other levels compute in float32 and take twice the time.
_INT8_PRODUCTS = 4


def quantize_int8(source: Path, target: Path) -> None:
    """Matrix products in int8: weights by column, activations while it runs by tensor."""
    import onnx_ir as ir

    with tempfile.TemporaryDirectory(dir=target.parent) as work, _quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantized = Path(work, "quantized.onnx")
        quantize_dynamic(
            source,
            quantized,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},  # attention's own products stay in float
        )
        save_graph(ir.load(quantized), target)


def quantize_four_bits(source: Path, target: Path) -> None:
    """Weights in four bits by blocks of `BLOCK` with a scale and an offset each, those of the head in eight bits."""
    import onnx
    import onnx_ir as ir

    model = onnx.load(source)
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer, RTNWeightOnlyQuantConfig

        quantizer = MatMulNBitsQuantizer(
            model,
            block_size=BLOCK,
            is_symmetric=False,
            accuracy_level=_INT8_PRODUCTS,
            algo_config=RTNWeightOnlyQuantConfig(customized_weight_config=_exceptions(model)),
        )
        quantizer.process()
    save_graph(ir.from_proto(quantizer.model.model), target)


def _exceptions(model: Any) -> dict[str, dict[str, int]]:
    """Matrix product → its own settings: more bits for the head, and half the block where the quantizer fails: it packs
    the offsets of two blocks into a byte, and knows no half-filled byte."""
    head = _head(model)
    rows = {weight.name: weight.dims[0] for weight in model.graph.initializer if weight.dims}
    odd = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.name != head and rows.get(node.input[1], 0) // BLOCK % 2
    ]
    return {head: {"bits": 8}, **{name: {"group_size": BLOCK // 2} for name in odd}}


def _head(model: Any) -> str:
    """The name of the product that makes the logits. Raises SkdError unless there is one, and no other of its name."""
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    heads = [node.name for node in products if "logits" in node.output]
    if len(heads) != 1 or [node.name for node in products].count(heads[0]) != 1:
        raise SkdError("The decoder's head isn't one matrix product with a name of its own; it can't get its 8 bits.")
    return heads[0]


def convert_half(source: Path, target: Path) -> None:
    """Everything in float16 apart from what goes in and comes out; keys and values stay in float16."""
    import onnx_ir as ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    plain = ir.load(source).graph
    values = [value.name or "" for value in (*plain.inputs, *plain.outputs)]
    kept = [name for name in values if not name.startswith(("past_key_values.", "present."))]
    with _quiet():
        half = convert_float_to_float16(str(source), keep_io_types=kept)
    graph = ir.from_proto(half)
    graph.graph.sort()  # the converter appends its casts
    save_graph(graph, target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizers' log lines and progress bars, and without the log handler that importing them installs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        root.handlers[:] = handlers
        root.setLevel(level)
