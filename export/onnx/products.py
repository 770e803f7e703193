"""The matrix products of an ONNX graph, and what they read while it runs on examples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.export.onnx.graph import forget_graphs
from switchkd.runtime.engines.onnx.session import CPU, open_session, run

Floats = NDArray[np.float32]
Feeds = Mapping[str, NDArray[Any]]  # a graph's inputs by name


@dataclass(frozen=True)
class Product:
    """x [.., K] times a constant matrix [K, N]."""

    node: Any  # the MatMul, an `onnx_ir.Node`

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def input(self) -> Any:
        """The value x."""
        return self.node.inputs[0]

    @property
    def output(self) -> Any:
        """The value of the product."""
        return self.node.outputs[0]

    @property
    def weight(self) -> Any:
        """The initializer."""
        return self.node.inputs[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return tuple(self.weight.const_value.shape)

    def values(self) -> Floats:
        """A copy of the matrix [K, N]."""
        return np.array(self.weight.const_value.numpy(), np.float32)


def products(graph: Any) -> list[Product]:
    """All products by a matrix of floats, in the graph's order; those of two activations are none."""
    return [
        Product(node)
        for node in graph
        if node.op_type == "MatMul"
        and node.inputs[1].const_value is not None
        and len(node.inputs[1].const_value.shape) == 2
    ]


def observe(
    path: Path,
    names: Sequence[str],
    examples: Iterable[Feeds],
    see: Callable[[str, Floats], None],
    *,
    threads: int,
) -> None:
    """Runs a float32 graph on examples and shows values inside it.

    Args:
        path: the graph.
        names: of values.
        examples: what to feed.
        see: is told a value's name and its rows [.., K] as [T, K], once an example.
        threads: processor threads.
    """
    import onnx_ir as ir

    if not names:
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        model = ir.load(path)
        inside = {value.name: value for node in model.graph for value in node.outputs}
        outputs = {value.name for value in model.graph.outputs}
        for name in names:
            if name not in outputs:
                inside[name].type = ir.TensorType(ir.DataType.FLOAT)  # the decoder's builder doesn't say
                model.graph.outputs.append(inside[name])
        ir.save(model, shown := Path(work, "shown.onnx"), external_data=f"{shown.name}_data")  # not through one message
        del model, inside
        forget_graphs()
        session = open_session(shown, threads, CPU)
        for example in examples:
            for name, rows in zip(names, run(session, list(names), dict(example)), strict=True):
                see(name, rows.reshape(-1, rows.shape[-1]))
        del session
    forget_graphs()
