"""Which of a decoder's products keep more bits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from switchkd.errors import SkdError
from switchkd.export.onnx_quantize import quantize_four_bits

OPSETS = [("", 20), ("com.microsoft", 1)]


def decoder(folder, *, head: str = "any_name", last: str = "MatMul"):
    """x [1, 64] → a product → the logits [1, 64]."""
    weights = [
        numpy_helper.from_array(np.random.default_rng(n).normal(size=(64, 64)).astype(np.float32), f"w{n}")
        for n in range(2)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="body"),
        helper.make_node(last, ["h", "w1"], ["logits"], name=head),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x", "logits")]
    graph = helper.make_graph(nodes, "decoder", values[:1], values[1:], weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid(*each) for each in OPSETS])
    onnx.save(model, folder / "in.onnx")
    return folder / "in.onnx"


def test_the_head_is_the_product_that_makes_the_logits(tmp_path):
    quantize_four_bits(decoder(tmp_path), tmp_path / "out.onnx")
    bits = {
        node.output[0]: attribute.i
        for node in onnx.load(tmp_path / "out.onnx").graph.node
        for attribute in node.attribute
        if attribute.name == "bits"
    }
    assert bits == {"h": 4, "logits": 8}


@pytest.mark.parametrize("shape", [{"head": "body"}, {"last": "Add"}], ids=str)
def test_a_head_that_cant_be_told(shape, tmp_path):
    with pytest.raises(SkdError, match="one matrix product"):
        quantize_four_bits(decoder(tmp_path, **shape), tmp_path / "out.onnx")
