"""Tables of rotary positions made out of frequencies: the same rows, in a smaller file."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from switchkd.export.onnx.rotary import fold_positions


def tables(rows, width=32, *, base=1e6, factor=1.0):
    """Cosines and sines [P, D] of positions by inverse frequencies, as models make them."""
    frequencies = 1 / base ** (torch.arange(width).float() / width)
    angles = torch.outer(torch.arange(rows).float(), frequencies)
    return [(factor * turned).numpy() for turned in (angles.cos(), angles.sin())]


def folded(folder, cos, sin):
    """A graph that gives both tables' rows at positions, after folding."""
    tensors = [numpy_helper.from_array(each, name) for each, name in ((cos, "cos_cache"), (sin, "sin_cache"))]
    nodes = [helper.make_node("Gather", [f"{name}_cache", "at"], [name]) for name in ("cos", "sin")]
    taken = helper.make_tensor_value_info("at", TensorProto.INT64, ["n"])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", cos.shape[1]]) for name in ("cos", "sin")]
    graph = helper.make_graph(nodes, "rows", [taken], given, tensors)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), folder / "in.onnx")
    model = ir.load(folder / "in.onnx")
    fold_positions(model.graph)
    ir.save(model, folder / "out.onnx")
    onnx.checker.check_model(str(folder / "out.onnx"))
    return folder / "out.onnx"


@pytest.mark.parametrize(
    "rows, base, factor", [(32768, 1e6, 1.0), (4096, 1e4, 1.0), (8192, 5e5, 1.25), (131072, 5e5, 1.0)]
)
def test_the_rows_are_the_same(tmp_path, rows, base, factor):
    cos, sin = tables(rows, base=base, factor=factor)
    path = folded(tmp_path, cos, sin)
    assert path.stat().st_size < (tmp_path / "in.onnx").stat().st_size / 20
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for wanted, found in zip((cos, sin), session.run(None, {"at": np.arange(rows)}), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6 * factor)


def test_they_are_made_when_the_graph_is_loaded(tmp_path):
    """Not at every run: ONNX Runtime's own optimized graph has only the rows to take."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    path = folded(tmp_path, *tables(4096))
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node} == {"Gather"}


def test_small_tables_stay(tmp_path):
    assert "cos_cache" in ir.load(folded(tmp_path, *tables(512))).graph.initializers


def test_angles_that_dont_grow_evenly_stay(tmp_path):
    """As where frequencies change behind the trained length."""
    cos, sin = tables(4096)
    cos[2048:], sin[2048:] = (each[2048:] for each in tables(4096, base=1e4))
    assert "cos_cache" in ir.load(folded(tmp_path, cos, sin)).graph.initializers
