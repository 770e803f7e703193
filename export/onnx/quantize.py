"""Smaller ONNX graphs: which of a graph's matrix products gets which kernel, and what else is done to lose little by it."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import SkdError
from switchkd.export.onnx.calibration import Seen
from switchkd.export.onnx.graph import CONTRIB, save_graph
from switchkd.export.onnx.grids import symmetric_grid
from switchkd.export.onnx.kernels import LIMIT, Blocks, Kernels
from switchkd.export.onnx.products import Product, products
from switchkd.export.onnx.rotary import fold_positions
from switchkd.export.onnx.smoothing import smooth

Observed = Mapping[str, Seen]  # by the name of a value that products read
_SMOOTHING = 0.5  # SmoothQuant's strength; 0.4 and 0.65 lose a third more on a real Qwen2.5-0.5B
_APART = 32  # one of so many channels may stay in float
_WORTH = 2.0  # where that makes the others' mean square error at least so much smaller
_FREQUENT = 16384  # tokens that come first: vocabularies are in the order of merges, the most frequent before
# The first layers lose most, through all that follow, and of their products the `up`: which of so many layers get eight bits.
_FINE_LAYERS = ((re.compile(r"/up_proj"), 3 / 8), (re.compile(r"/mlp/"), 1 / 8))
# A language model's products of attention are an eighth of its weights and half of what four bits lose …
_ATTENTION = re.compile(r"/attn/")
# … and the gate is what loses least by them.
_ALL_BUT_GATE = re.compile(r"/attn/|/up_proj|/down_proj")


def product_inputs(source: Path) -> list[str]:
    """Names of the values that a graph's products by a matrix read."""
    import onnx_ir as ir

    return list(dict.fromkeys(product.input.name for product in products(ir.load(source).graph)))


def quantize_int8(source: Path, target: Path, seen: Observed) -> None:
    """Matrix products in int8, the head's weights in blocks of 8 bits.

    Outliers of a few channels are smoothed away or stay in float, those of a few tokens are kept to their own rows.
    """

    def quantize(graph: Any, kernels: Kernels) -> None:
        factors = smooth(graph, {name: each.largest for name, each in seen.items()}, _SMOOTHING)
        for product in products(graph):
            if _is_head(product):
                kernels.blocks(product, [_blocks(product, seen, 8)])
                continue
            name = product.input.name
            factor = factors.get(name, np.ones(product.shape[0], np.float32))
            apart = outlying_channels(seen[name].rows / factor, product.shape)
            weights = product.values()
            weights[apart] = 0  # they neither stretch the others' range nor count twice
            grid = symmetric_grid(weights, seen[name].energy / factor**2, limit=LIMIT)
            kernels.int8(product, grid.round(weights), grid, apart)

    _rewrite(source, target, quantize)


def quantize_four_bits(
    source: Path, target: Path, seen: Observed, in_eight: re.Pattern[str] = _ATTENTION, frequent: int | None = _FREQUENT
) -> None:
    """Weights in blocks of four bits; in blocks of eight those that lose most by it: products of these names, the first
    layers, and the head's rows of so many frequent tokens (None: of all)."""

    def quantize(graph: Any, kernels: Kernels) -> None:
        found = products(graph)
        if not any(map(_is_head, found)):
            raise SkdError("The decoder's head isn't one matrix product; it can't get its 8 bits.")
        early = _early_products(found)
        for product in found:
            if _is_head(product):
                width = product.shape[1]
                ends = [each for each in (0, frequent or width) if each < width] + [width]
                columns = [slice(*pair) for pair in itertools.pairwise(ends)]
                parts = [_blocks(product, seen, bits, part) for bits, part in zip((8, 4), columns, strict=False)]
            else:
                fine = in_eight.search(product.name) or product.name in early
                parts = [_blocks(product, seen, 8 if fine else 4)]
            kernels.blocks(product, parts)

    _rewrite(source, target, quantize)


def quantize_gate(source: Path, target: Path, seen: Observed) -> None:
    """Four bits for the gates alone, a fifth to a fourth of a model's weights."""
    quantize_four_bits(source, target, seen, _ALL_BUT_GATE, None)


def quantize_eight_bits(source: Path, target: Path, seen: Observed) -> None:
    """All weights in blocks of eight bits, activations by block too: slower to read a prompt than `quantize_int8`, and finer."""

    def quantize(graph: Any, kernels: Kernels) -> None:
        for product in products(graph):
            kernels.blocks(product, [_blocks(product, seen, 8)])

    _rewrite(source, target, quantize)


def outlying_channels(rows: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Channels that had better stay in float, when the others share a range in each row.

    Args:
        rows: what a product reads [R, K].
        shape: of its matrix (K, N).

    Returns:
        The largest `1 / _APART` of the channels where that pays, else none.
    """
    depth, width = shape
    nothing = np.empty(0, np.int64)
    if depth < _APART or width > 2 * depth:  # adding them to a wide result costs more than it brings
        return nothing
    size = np.abs(rows) / np.maximum(np.sqrt(np.square(rows).mean(1, keepdims=True)), 1e-12)
    order = np.argsort(size.max(0), kind="stable")
    rest, most = order[: -(depth // _APART)], np.sort(order[-(depth // _APART) :])
    error, error_apart = (np.square(each.max(1)).mean() for each in (size, size[:, rest]))
    return most.astype(np.int64) if error > _WORTH * error_apart else nothing


def _blocks(product: Product, seen: Observed, bits: int, columns: slice = slice(None)) -> Blocks:
    return Blocks.of(product.values()[:, columns], seen[product.input.name].energy, bits)


def _layer(product: Product) -> int | None:
    found = re.search(r"/layers\.(\d+)/", product.name)
    return int(found[1]) if found else None


def _early_products(found: Sequence[Product]) -> set[str]:
    """Names of the products of `_FINE_LAYERS`."""
    layers = {product.name: number for product in found if (number := _layer(product)) is not None}
    count = max(layers.values(), default=-1) + 1
    return {
        name
        for name, layer in layers.items()
        for kind, share in _FINE_LAYERS
        if kind.search(name) and layer < int(count * share)
    }


def _is_head(product: Product) -> bool:
    return product.output.name == "logits"


def _rewrite(source: Path, target: Path, quantize: Callable[[Any, Kernels], None]) -> None:
    import onnx_ir as ir

    model = ir.load(source)
    quantize(model.graph, Kernels(model.graph))
    fold_positions(model.graph)
    model.opset_imports.setdefault(CONTRIB, 1)
    save_graph(model, target)


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
