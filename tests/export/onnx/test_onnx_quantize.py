"""Matrix products in fewer bits: which kernel each gets, and what that does to a graph's results."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from switchkd.errors import SkdError
from switchkd.export.onnx import quantize
from switchkd.export.onnx.calibration import calibrate
from switchkd.export.onnx.grids import halved, offset_grid, symmetric_grid
from switchkd.export.onnx.kernels import LIMIT
from switchkd.export.onnx.products import Product, products
from switchkd.export.onnx.quantize import outlying_channels, product_inputs, quantize_four_bits, quantize_int8
from switchkd.export.onnx.smoothing import smooth

OPSETS = [("", 20), ("com.microsoft", 1)]
WIDTH, INNER, ROWS = 64, 96, 40


def mlp(folder, *, head: str = "any_name", last: str = "MatMul", outliers: bool = False, seed: int = 0):
    """x [B, T, 64] → LayerNorm → up · gate → down → the logits. With outliers, channels of the norm and of up are hundreds of
    times larger than the rest, and the rows that read them as much smaller: the function is the same."""
    random = np.random.default_rng(seed)
    gain, bias = (random.normal(size=WIDTH).astype(np.float32) for _ in range(2))
    up, gate = (random.normal(size=(WIDTH, INNER)).astype(np.float32) / 8 for _ in range(2))
    down = random.normal(size=(INNER, WIDTH)).astype(np.float32) / 8
    logits = random.normal(size=(WIDTH, WIDTH) if last == "MatMul" else WIDTH).astype(np.float32) / 8
    if outliers:
        for channel, factor in ((3, 64.0), (40, 256.0)):
            gain[channel], bias[channel] = gain[channel] * factor, bias[channel] * factor
            up[channel], gate[channel] = up[channel] / factor, gate[channel] / factor
        up[:, 7], down[7] = up[:, 7] * 512, down[7] / 512
    weights = {"gain": gain, "bias": bias, "up": up, "gate": gate, "down": down, "head": logits}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["normed"], axis=-1),
        helper.make_node("MatMul", ["normed", "up"], ["u"], name="/attn/up"),
        helper.make_node("MatMul", ["normed", "gate"], ["g"], name="gate"),
        helper.make_node("Sigmoid", ["g"], ["s"]),
        helper.make_node("Mul", ["s", "u"], ["inner"]),
        helper.make_node("MatMul", ["inner", "down"], ["h"], name="down"),
        helper.make_node(last, ["h", "head"], ["logits"], name=head),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", "t", WIDTH]) for n in ("x", "logits")]
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "decoder", values[:1], values[1:], tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid(*each) for each in OPSETS])
    onnx.save(model, folder / "in.onnx")
    return folder / "in.onnx"


def examples(count: int = 6):
    random = np.random.default_rng(5)
    return [{"x": random.normal(size=(1, ROWS, WIDTH)).astype(np.float32)} for _ in range(count)]


def results(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, each)[0] for each in examples()])


def error(path, reference):
    return np.linalg.norm(results(path) - reference) / np.linalg.norm(reference)


def seen(path):
    return calibrate(path, product_inputs(path), examples(), threads=1)


def test_what_products_read_is_seen(tmp_path):
    path = mlp(tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = seen(path)
    assert list(found) == ["normed", "inner", "h"]
    rows = np.concatenate([session.run(None, each)[0][0] for each in examples()])
    assert rows.shape == (6 * ROWS, WIDTH)
    model = ir.load(path)
    model.graph.outputs[:] = [node.outputs[0] for node in model.graph if node.outputs[0].name == "h"]
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    ir.save(model, tmp_path / "h.onnx")
    h = results(tmp_path / "h.onnx").reshape(-1, WIDTH)
    np.testing.assert_allclose(found["h"].largest, np.abs(h).reshape(6, ROWS, -1).max(1).mean(0), rtol=1e-5)
    unit = h / np.sqrt(np.square(h).mean(1, keepdims=True))
    np.testing.assert_allclose(found["h"].energy, np.square(unit).mean(0), rtol=1e-4)


@pytest.mark.parametrize("outliers", [False, True])
def test_smoothing_keeps_the_function_and_evens_channels(tmp_path, outliers):
    path = mlp(tmp_path, outliers=outliers)
    model, before = ir.load(path), seen(path)
    factors = smooth(model.graph, {name: each.largest for name, each in before.items()}, 0.5)
    assert set(factors) == {"normed", "inner"}  # nothing scales the third one's channels
    ir.save(model, tmp_path / "smooth.onnx")
    assert error(tmp_path / "smooth.onnx", results(path)) < 1e-5
    after = seen(tmp_path / "smooth.onnx")
    for name, factor in factors.items():
        np.testing.assert_allclose(after[name].largest, before[name].largest / factor, rtol=1e-3)
    if outliers:
        spread = [each["inner"].largest.max() / np.median(each["inner"].largest) for each in (before, after)]
        assert spread[1] < spread[0] / 8


@pytest.mark.parametrize("outliers", [False, True])
def test_int8_is_close_with_outliers_as_without(tmp_path, outliers):
    """Three products in a row. Activations by tensor and weights of eight bits, which AVX2 alone clips, lose 0.13 and 1.05."""
    path = mlp(tmp_path, outliers=outliers)
    quantize_int8(path, tmp_path / "out.onnx", seen(path))
    assert error(tmp_path / "out.onnx", results(path)) < 0.1


def test_no_weight_in_int8_is_large_enough_to_clip(tmp_path):
    path = mlp(tmp_path, outliers=True)
    quantize_int8(path, tmp_path / "out.onnx", seen(path))
    graph = onnx.load(tmp_path / "out.onnx").graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    used = [stored[node.input[1]] for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(used) == 3
    for weight in used:
        assert weight.dtype == np.int8 and 2 * 255 * np.abs(weight.astype(int)).max() <= np.iinfo(np.int16).max
        assert np.abs(weight.astype(int)).max() == LIMIT  # the range is used


def test_values_that_several_products_read_are_rounded_once(tmp_path):
    path = mlp(tmp_path)
    quantize_int8(path, tmp_path / "out.onnx", seen(path))
    kinds = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 2  # for three products; the head rounds by itself


def test_bits_by_product(tmp_path):
    path = mlp(tmp_path)
    quantize_four_bits(path, tmp_path / "out.onnx", seen(path))
    graph = onnx.load(tmp_path / "out.onnx").graph
    bits = {
        node.output[0]: attribute.i for node in graph.node for attribute in node.attribute if attribute.name == "bits"
    }
    assert list(bits.values()) == [8, 4, 4, 8] and list(bits)[-1] == "logits"
    assert 0.001 < error(tmp_path / "out.onnx", results(path)) < 0.2


def test_blocks_that_fill_no_byte(tmp_path):
    """Three blocks of an output have three offsets of four bits: a byte and a half."""
    path = mlp(tmp_path)
    observed = seen(path)
    assert INNER // 32 % 2
    quantize_four_bits(path, tmp_path / "out.onnx", observed)
    model = ir.load(path)
    for product in products(model.graph):
        grid = offset_grid(
            weights := product.values(),
            observed[product.input.name].energy,
            bits=4 if product.name in ("gate", "down") else 8,
            block=32,
        )
        product.weight.const_value = ir.tensor(grid.values(grid.round(weights)).astype(np.float32))
    ir.save(model, tmp_path / "literal.onnx")
    # What is left between them is how MatMulNBits rounds activations.
    assert error(tmp_path / "out.onnx", results(tmp_path / "literal.onnx")) < 0.02


def test_a_large_vocabulary_s_first_rows_get_eight_bits(tmp_path):
    """The head's columns in two products; their logits are those of each product alone, in order."""
    path = mlp(tmp_path)
    quantize_four_bits(path, tmp_path / "eight.onnx", seen(path))
    quantize_four_bits(path, tmp_path / "mixed.onnx", seen(path), frequent=24)
    quantize_four_bits(path, tmp_path / "four.onnx", seen(path), frequent=1)
    eight, mixed, four = (results(tmp_path / f"{name}.onnx") for name in ("eight", "mixed", "four"))
    np.testing.assert_allclose(mixed[..., :24], eight[..., :24], atol=1e-5)
    np.testing.assert_allclose(mixed[..., 24:], four[..., 24:], atol=1e-5)
    assert np.abs(eight - four).max() > 0.01


@pytest.mark.parametrize("layers, all_products, up", [(24, 3, 9), (4, 0, 1), (2, 0, 0)])
def test_the_first_layers_of_many_get_eight_bits(layers, all_products, up):
    kinds = ("up_proj", "gate_proj", "down_proj")
    names = [f"/model/layers.{layer}/mlp/{kind}/MatMul" for layer in range(layers) for kind in kinds] + [
        "/lm_head/MatMul"
    ]
    found = quantize._early_products([Product(SimpleNamespace(name=name)) for name in names])
    for kind in kinds:
        early = up if kind == "up_proj" else all_products
        assert {name for name in found if kind in name} == {
            f"/model/layers.{n}/mlp/{kind}/MatMul" for n in range(early)
        }


@pytest.mark.parametrize("spread", [0, 3, 6])
def test_scales_keep_eleven_bits(spread):
    """Whatever the matrix's size is, and where its channels are 10^spread apart."""
    random = np.random.default_rng(spread)
    for size in (1e-6, 1.0, 1e5):
        scale = (size * 10 ** -random.uniform(0, spread, (40, 30))).astype(np.float32)
        half, unit = halved(scale)
        assert np.log2(unit) % 1 == 0 and np.isfinite(half).all()
        np.testing.assert_allclose(half.astype(np.float32) * unit, scale, rtol=2**-11)
    half, unit = halved(np.array([[1.0, 1e-12]], np.float32))  # of a block of zeros, which codes are divided by
    assert (half.astype(np.float32) * unit > 0).all()


def test_a_head_that_cant_be_told(tmp_path):
    path = mlp(tmp_path, last="Add")
    with pytest.raises(SkdError, match="one matrix product"):
        quantize_four_bits(path, tmp_path / "out.onnx", seen(path))


def test_channels_stay_in_float_where_that_pays():
    random = np.random.default_rng(0)
    even = random.normal(size=(50, 128)).astype(np.float32)
    uneven = even.copy()
    uneven[:, [5, 77]] *= 30
    few_rows = even.copy()
    few_rows[3] *= 1000  # a row of its own range
    assert len(outlying_channels(even, (128, 128))) == 0
    assert len(outlying_channels(few_rows, (128, 128))) == 0
    assert {5, 77} <= set(outlying_channels(uneven, (128, 128))) and len(outlying_channels(uneven, (128, 128))) == 4
    assert len(outlying_channels(uneven, (128, 1024))) == 0  # a wide result


@pytest.mark.parametrize("depth, width, block", [(64, 5, 32), (96, 1, 32), (70, 3, 32), (33, 700, 16)])
def test_grids_round_to_the_nearest_level(depth, width, block):
    weights = np.random.default_rng(depth).normal(size=(depth, width)).astype(np.float32)
    energy = np.ones(depth, np.float32)
    for grid in (offset_grid(weights, energy, bits=4, block=block), symmetric_grid(weights, energy, limit=64)):
        codes = grid.round(weights)
        assert codes.min() >= grid.lowest and codes.max() <= grid.highest
        at = np.arange(depth) // grid.block
        levels = (np.arange(grid.lowest, grid.highest + 1)[:, None, None] - grid.offset[at]) * grid.scale[at]
        literal = np.abs(levels - weights).min(0)
        np.testing.assert_allclose(np.abs(grid.values(codes) - weights), literal, atol=1e-5)


def test_ranges_follow_the_inputs_that_matter():
    """A large weight of an input that is always zero doesn't cost the others their levels."""
    weights = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    weights[4] = 3.5
    energy = np.ones(32, np.float32)
    silent = energy.copy()
    silent[4] = 0
    others = np.arange(32) != 4
    errors = []
    for each in (energy, silent):
        grid = offset_grid(weights, each, bits=4, block=32)
        errors.append(np.square(grid.values(grid.round(weights)) - weights)[others].mean())
    assert errors[1] < errors[0]
