"""How a matrix product is computed with fewer bits: the nodes that take its place in a graph.

Products in int8 multiply unsigned activations by signed weights of at most 64: processors with AVX2 but no VNNI add pairs of such
products in 16 bits, which 2 · 255 · 64 fits into and 2 · 255 · 127 doesn't (ONNX Runtime's U8S8 kernels, which are also the only
ones that use VNNI or AMX). So no processor clips, and all take their fastest kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.export.onnx.grids import Grid
from switchkd.export.onnx.products import Product

Floats = NDArray[np.float32]
LIMIT = 64  # the largest weight in int8
BLOCK = 32  # weights that share a scale in MatMulNBits
_INT8_PRODUCTS = 4  # MatMulNBits' accuracy_level: int32 sums; the others compute in float32 and take twice the time
_RUNTIME = "com.microsoft"


class Kernels:
    """Replaces products in a graph, which it changes in place.

    Args:
        graph: an `onnx_ir.Graph`.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._rounded: dict[tuple[str, tuple[int, ...]], list[Any]] = {}  # a value's rounded form

    def int8(self, product: Product, codes: NDArray[np.integer[Any]], grid: Grid, apart: NDArray[np.int64]) -> None:
        """Weights by column, activations by row while it runs, so that one token's outliers cost the others nothing.

        Args:
            codes: [K, N] of magnitude at most `LIMIT`; zero for the channels that stay apart.
            grid: their scales, one for each column.
            apart: channels of x that stay in float, as their outliers would leave the others no levels (LLM.int8(),
                arXiv 2208.07339). Rounded with the others' range they are clipped, and meet weights of zero.
        """
        name = product.name
        within = np.ones(product.shape[0], np.float32)
        within[apart] = 0
        quantized, scale, zero, rows = self._shared(product.input, apart, lambda x: self._by_row(x, name, within))
        nodes = [self._multiply(product, codes, grid, quantized, scale, zero)]
        nodes.append(self._node("Mul", [nodes[-1].outputs[0], rows], f"{name}_rows"))
        if len(apart):
            channels = self._constant(f"{name}_apart/channels", apart)
            few = self._constant(f"{name}_apart/weight", product.values()[apart])
            picked = self._node("Gather", [product.input, channels], f"{name}_apart_channels", {"axis": -1})
            exact = self._node("MatMul", [picked.outputs[0], few], f"{name}_apart")
            added = self._node("Add", [nodes[-1].outputs[0], exact.outputs[0]], f"{name}_together")
            nodes += [picked, exact, added]
        self._replace(product, nodes)

    def blocks(self, product: Product, codes: NDArray[np.integer[Any]], grid: Grid, *, bits: int) -> None:
        """Weights in blocks of `grid.block` inputs with a scale and an offset each, activations by block while it runs.

        Args:
            codes: [K, N] of 0 … 2^bits − 1.
        """
        depth, width = product.shape
        padded = np.pad(codes.astype(np.uint8), ((0, -depth % grid.block), (0, 0)))
        by_block = padded.T.reshape(width, -1, grid.block)  # [N, B, block]
        name = f"{product.name}_Q{bits}"
        inputs = [
            product.input,
            self._constant(f"{name}/weight", _packed(by_block, bits)),
            self._constant(f"{name}/scales", np.ascontiguousarray(grid.scale.T, np.float32).reshape(-1)),
            self._constant(f"{name}/zero_points", _packed(grid.offset.T.astype(np.uint8), bits).reshape(-1)),
        ]
        settings = {"K": depth, "N": width, "bits": bits, "block_size": grid.block, "accuracy_level": _INT8_PRODUCTS}
        self._replace(product, [self._node("MatMulNBits", inputs, name, settings, _RUNTIME)])

    def _multiply(self, product: Product, codes: NDArray[Any], grid: Grid, x: Any, scale: Any, zero: Any) -> Any:
        """The product in integers of a rounded x."""
        name = f"{product.name}_int8"
        weight = self._constant(f"{name}/weight", codes.astype(np.int8))
        scales = self._constant(f"{name}/scale", grid.scale[0].astype(np.float32))
        nothing = self._constant(f"{name}/zero_point", np.zeros((), np.int8))
        inputs = [x, weight, scale, scales, zero, nothing]
        return self._node("MatMulIntegerToFloat", inputs, name, domain=_RUNTIME)

    def _shared(
        self, x: Any, apart: NDArray[np.int64], make: Callable[[Any], tuple[list[Any], list[Any]]]
    ) -> list[Any]:
        """Values made of x before the first product that reads it, once for all."""
        key = (x.name, tuple(apart))
        if key not in self._rounded:
            nodes, self._rounded[key] = make(x)
            first = next(node for node in self._graph if x in node.inputs)
            self._graph.insert_before(first, nodes)
        return self._rounded[key]

    def _by_row(self, x: Any, name: str, within: Floats) -> tuple[list[Any], list[Any]]:
        """x in uint8 with scale, zero point, and the factors of its rows [.., 1]: the largest channel of those `within`."""
        last = self._constant(f"{name}_last_axis", np.array([-1], np.int64))
        least = self._constant(f"{name}_least", np.array(1e-20, np.float32))
        scale = self._constant(f"{name}_step", np.array(1 / 127, np.float32))
        zero = self._constant(f"{name}_middle", np.array(128, np.uint8))
        nodes = [self._node("Abs", [x], f"{name}_size")]
        if not within.all():
            mask = self._constant(f"{name}_within", within)
            nodes.append(self._node("Mul", [nodes[-1].outputs[0], mask], f"{name}_size_within"))
        nodes.append(self._node("ReduceMax", [nodes[-1].outputs[0], last], f"{name}_largest", {"keepdims": 1}))
        nodes.append(rows := self._node("Max", [nodes[-1].outputs[0], least], f"{name}_range"))
        nodes.append(self._node("Div", [x, rows.outputs[0]], f"{name}_unit"))
        nodes.append(self._node("QuantizeLinear", [nodes[-1].outputs[0], scale, zero], f"{name}_quantize"))
        return nodes, [nodes[-1].outputs[0], scale, zero, rows.outputs[0]]

    def _replace(self, product: Product, nodes: list[Any]) -> None:
        old, new, weight = product.output, nodes[-1].outputs[0], product.weight
        new.type, new.shape = old.type, old.shape
        self._graph.insert_before(product.node, nodes)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        name = old.name
        self._graph.remove(product.node, safe=True)
        old.name, new.name = None, name
        if not weight.uses():
            self._graph.initializers.pop(weight.name)

    def _node(
        self,
        kind: str,
        inputs: list[Any],
        name: str,
        settings: dict[str, Any] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> Any:
        import onnx_ir as ir

        node = ir.node(kind, inputs, settings or {}, domain=domain, name=name, num_outputs=outputs)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}/output_{index}"
        return node

    def _constant(self, name: str, values: NDArray[Any]) -> Any:
        import onnx_ir as ir

        if name in self._graph.initializers:
            return self._graph.initializers[name]
        tensor = ir.tensor(np.ascontiguousarray(values) if values.ndim else values, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [.., n] in bytes: two of four bits in one, the first in its lower half."""
    if bits == 8:
        return codes
    even = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return (even[..., ::2] | even[..., 1::2] << 4).astype(np.uint8)
