"""How a matrix product is computed with fewer bits: the nodes that take its place in a graph.

Products in int8 multiply unsigned activations by signed weights of at most 64: processors with AVX2 but no VNNI add pairs of such
products in 16 bits, which 2 · 255 · 64 fits into and 2 · 255 · 127 doesn't (ONNX Runtime's U8S8 kernels, which are also the only
ones that use VNNI or AMX). So no processor clips, and all take their fastest kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.export.onnx.graph import CONTRIB
from switchkd.export.onnx.grids import Grid, halved, offset_grid
from switchkd.export.onnx.products import Product

Floats = NDArray[np.float32]
LIMIT = 64  # the largest weight in int8
BLOCK = 32  # weights that share a scale in MatMulNBits
_INT8_PRODUCTS = 4  # MatMulNBits' accuracy_level: int32 sums; the others compute in float32 and take twice the time
_FLOAT = 1  # ONNX's number for float32


@dataclass(frozen=True)
class Blocks:
    """Columns of a matrix [K, N] in blocks of few bits, as MatMulNBits and GatherBlockQuantized read them."""

    codes: NDArray[np.integer[Any]]  # [K, N] of 0 … 2^bits − 1
    grid: Grid  # with offsets
    bits: int  # 4 or 8

    @classmethod
    def of(cls, weights: Floats, energy: Floats, bits: int) -> Blocks:
        """The nearest codes for weights [K, N] whose inputs have mean squares `energy` [K]."""
        grid = offset_grid(weights, energy, bits=bits, block=BLOCK)
        return cls(grid.round(weights), grid, bits)

    def packed(self) -> NDArray[np.uint8]:
        """The codes' bytes [N, K / block, block · bits / 8]; K is filled up to whole blocks."""
        depth, width = self.codes.shape
        padded = np.pad(self.codes.astype(np.uint8), ((0, -depth % self.grid.block), (0, 0)))
        return self._bytes(padded.T.reshape(width, -1, self.grid.block))

    def packed_offsets(self) -> NDArray[np.uint8]:
        """The offsets' bytes [N, K / block · bits / 8], rounded up."""
        return self._bytes(self.grid.offset.T.astype(np.uint8))

    def _bytes(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Codes [.., n] in bytes: two of four bits in one, the first in its lower half."""
        if self.bits == 8:
            return codes
        even = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
        return (even[..., ::2] | even[..., 1::2] << 4).astype(np.uint8)


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

    def blocks(self, product: Product, parts: Sequence[Blocks]) -> None:
        """Weights in blocks of `BLOCK` inputs with a scale and an offset each, activations by block while it runs.

        Args:
            parts: which together have all N columns.
        """
        nodes = [self._in_blocks(product, part, f"{product.name}_Q{part.bits}") for part in parts]
        if len(nodes) > 1:
            results = [node.outputs[0] for node in nodes]
            nodes.append(self._node("Concat", results, f"{product.name}_together", {"axis": -1}))
        self._replace(product, nodes)

    def _in_blocks(self, product: Product, part: Blocks, name: str) -> Any:
        half, unit = halved(part.grid.scale.T)  # [N, K / block]
        inputs = [
            product.input,
            self._constant(f"{name}/weight", part.packed()),
            self._widened(f"{name}/scales", half.reshape(-1), unit),
            self._constant(f"{name}/zero_points", part.packed_offsets().reshape(-1)),
        ]
        settings = {
            "K": product.shape[0],
            "N": part.codes.shape[1],
            "bits": part.bits,
            "block_size": part.grid.block,
            "accuracy_level": _INT8_PRODUCTS,
        }
        return self._node("MatMulNBits", inputs, name, settings, CONTRIB)

    def _widened(self, name: str, half: NDArray[np.float16], unit: np.float32) -> Any:
        """Scales in float32, which the kernel wants; ONNX Runtime computes them once, when it loads the graph."""
        cast = self._node("Cast", [self._constant(f"{name}/half", half)], f"{name}/float", {"to": _FLOAT})
        scales = self._node("Mul", [cast.outputs[0], self._constant(f"{name}/unit", np.array(unit))], name)
        self._graph.insert_before(self._graph[0], [cast, scales])
        return scales.outputs[0]

    def _multiply(self, product: Product, codes: NDArray[Any], grid: Grid, x: Any, scale: Any, zero: Any) -> Any:
        """The product in integers of a rounded x."""
        name = f"{product.name}_int8"
        weight = self._constant(f"{name}/weight", codes.astype(np.int8))
        scales = self._constant(f"{name}/scale", grid.scale[0].astype(np.float32))
        nothing = self._constant(f"{name}/zero_point", np.zeros((), np.int8))
        inputs = [x, weight, scale, scales, zero, nothing]
        return self._node("MatMulIntegerToFloat", inputs, name, domain=CONTRIB)

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
