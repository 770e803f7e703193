"""Smoothing: the factors of a few large channels moved out of what products read, into the matrices they multiply by.

The function stays the same: a channel that a norm's gain (or an earlier product's columns) makes large is divided by a
factor there, and its row of the matrices multiplied by it (SmoothQuant, arXiv 2211.10438). Rounding what products read then
has a smaller range to cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.export.onnx.products import Product, products

Floats = NDArray[np.float32]
# Where a norm keeps its gain, and its bias if it has one: operator → inputs.
_NORMS = {"LayerNormalization": (1, 2), "SkipSimplifiedLayerNormalization": (2,)}


def smooth(graph: Any, largest: Mapping[str, Floats], strength: float) -> dict[str, Floats]:
    """Smooths every value that only products read and whose channels can be scaled where they are made.

    Args:
        graph: an `onnx_ir.Graph` in float32; changed in place.
        largest: largest magnitude of each channel [K] of the values that products read, by the value's name.
        strength: 0 leaves the values as they are, 1 makes their channels equally large.

    Returns:
        What each smoothed value's channels [K] were divided by.
    """
    factors = {}
    readers: dict[str, list[Product]] = {}
    for product in products(graph):
        readers.setdefault(product.input.name, []).append(product)
    for name, those in readers.items():
        scalable = _scalable(those[0].input)
        alone = all(len(product.weight.uses()) == 1 for product in those)
        if not scalable or not alone or len(those[0].input.uses()) != len(those):
            continue
        rows = np.max([np.abs(product.values()).max(1) for product in those], axis=0)  # [K]
        factor = np.maximum(largest[name], 1e-5) ** strength / np.maximum(rows, 1e-5) ** (1 - strength)
        factor = (factor / np.exp(np.mean(np.log(factor)))).astype(np.float32)
        for value in scalable:
            _replace(value, value.const_value.numpy() / factor)  # [K] or [.., K]
        for product in those:
            _replace(product.weight, product.values() * factor[:, None])
        factors[name] = factor
    return factors


def _scalable(value: Any) -> list[Any]:
    """The constants whose last axis scales a value's channels; empty where there are none of its own."""
    node = value.producer()
    if node is None:
        return []
    if node.op_type in _NORMS:
        found = [
            node.inputs[at] for at in _NORMS[node.op_type] if at < len(node.inputs) and node.inputs[at] is not None
        ]
    elif node.op_type == "Mul":
        found = [each for each in node.inputs if each.const_value is not None] or _gated(node)
    else:
        found = []
    own = all(each.const_value is not None and len(each.uses()) == 1 for each in found)
    return found if own else []


def _gated(node: Any) -> list[Any]:
    """The matrix of a product that nothing but this multiplication reads: an MLP's `up`."""
    for each in node.inputs:
        maker = each.producer()
        if maker is not None and maker.op_type == "MatMul" and len(each.uses()) == 1:
            return [maker.inputs[1]]
    return []


def _replace(value: Any, array: NDArray[Any]) -> None:
    import onnx_ir as ir

    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
