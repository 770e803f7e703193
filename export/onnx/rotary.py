"""Rotary positions in a decoder's file: a row of frequencies instead of tables of thousands of rows, which ONNX Runtime makes of it
when it loads the graph.

The tables are cosine and sine of position times frequency, rounded to float32 in between. At 0.5B that is 8 MB less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.export.onnx.graph import constant

_PREFIX = "rotary/"  # of the nodes' names
_EXACT = 5e-7  # largest error of numbers up to 1 by how cosines are computed
_SMALLEST = 1024  # rows from which on it is worth it
_NEIGHBOURS = range(
    -8, 9
)  # how far in units of the last place a frequency may lie from what the row of position 1 says
Floats = NDArray[np.float32]


def fold_positions(graph: Any) -> None:
    """Replaces the initializers `cos_cache` and `sin_cache` [P, D] of an `onnx_ir.Graph` by nodes that compute them.

    They stay as they are where they are small, or aren't such tables (frequencies that change with the position).
    """
    found = [graph.initializers.get(f"{name}_cache") for name in ("cos", "sin")]
    if any(value is None for value in found):
        return
    cos, sin = (np.asarray(value.const_value.numpy(), np.float32) for value in found)
    if len(cos) < _SMALLEST:
        return
    factor = np.float32(cos[0].mean())  # attention's, in the tables of YaRN
    frequencies = _frequencies(cos / factor, sin / factor)
    if frequencies is not None:
        _compute(graph, found, frequencies, factor, len(cos))


def _frequencies(cos: Floats, sin: Floats) -> Floats | None:
    """Those [D] by which the tables [P, D] were made, to the last place; None where none do."""
    positions = np.arange(len(cos), dtype=np.float32)[:, None]
    near = np.arctan2(sin[1].astype(np.float64), cos[1]).astype(np.float32)
    best, least = near, np.full(near.shape, np.inf)
    for steps in _NEIGHBOURS:
        tried = near + steps * np.spacing(near)
        angles = positions * tried  # [P, D], rounded as the model rounds them
        error = np.maximum(np.abs(np.cos(angles) - cos).max(0), np.abs(np.sin(angles) - sin).max(0))
        best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return best if least.max() <= _EXACT else None


def _compute(graph: Any, tables: list[Any], frequencies: Floats, factor: np.float32, rows: int) -> None:
    """The nodes in the tables' place."""
    import onnx_ir as ir

    numbers = [constant(graph, f"{_PREFIX}{name}", np.array(number, np.int64)) for name, number in (("0", 0), ("1", 1))]
    count, column = (
        constant(graph, f"{_PREFIX}rows", np.array(rows, np.int64)),
        constant(graph, f"{_PREFIX}axis", np.array([1], np.int64)),
    )
    each = constant(graph, f"{_PREFIX}frequencies", frequencies[None])  # [1, D]
    scale = constant(graph, f"{_PREFIX}factor", np.array(factor))
    nodes: list[Any] = []

    def add(kind: str, inputs: list[Any], name: str, settings: dict[str, Any] | None = None) -> Any:
        nodes.append(ir.node(kind, inputs, settings or {}, name=f"{_PREFIX}{name}"))
        nodes[-1].outputs[0].name = f"{_PREFIX}{name}/output_0"
        return nodes[-1].outputs[0]

    positions = add("Range", [numbers[0], count, numbers[1]], "positions")
    floats = add("Cast", [positions], "floats", {"to": int(ir.DataType.FLOAT)})
    angles = add("Mul", [add("Unsqueeze", [floats, column], "column"), each], "angles")  # [P, D]
    for table, kind in zip(tables, ("Cos", "Sin"), strict=True):
        turned = add("Mul", [add(kind, [angles], kind), scale], table.name)
        turned.type, turned.shape = table.type, table.shape
        table.replace_all_uses_with(turned)
        graph.initializers.pop(table.name)
    graph.insert_before(graph[0], nodes)
