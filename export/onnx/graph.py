"""ONNX graphs as files: written whole, checked, counted; weights beside the graph where one file can't hold them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from switchkd.computer import return_freed_memory
from switchkd.errors import MissingDependencyError, SkdError
from switchkd.hardware.runtimes import ONNX, RUNTIMES
from switchkd.manifest import TensorCount

# protobuf can't read a message of 2 GiB, and browsers no buffer of that size.
ONE_FILE_LIMIT = 2_000_000_000
VERSION = 10  # of ONNX's own file format, which every ONNX Runtime since 1.18 reads
OPSET = 20
CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators
_PACKED = {"MatMulNBits": 1, "GatherBlockQuantized": 0}  # operator → which input holds codes packed in bytes


def require_packages() -> None:
    """Looks whether everything that exporting needs is there.

    Raises:
        MissingDependencyError: a package of the extra isn't installed.
    """
    for name in (module for extra in RUNTIMES[ONNX].extras for module in extra.packages.values()):
        try:
            import_module(name)
        except ImportError as error:
            raise MissingDependencyError(
                f"Exporting to ONNX needs {name}: pip install 'switchkd[onnx-export]'."
            ) from error


def data_path(path: Path) -> Path:
    """Where a graph's weights lie if they aren't in its own file: `NAME.onnx_data`, as users of the hub know it."""
    return path.with_name(f"{path.name}_data")


def save_graph(model: Any, path: Path) -> None:
    """Writes an `onnx_ir.Model`, its weights in `data_path` from `ONE_FILE_LIMIT` on, and checks the file.

    The same graph is the same file wherever it is written: notes of the program that made it (PyTorch's lines of source with this
    computer's paths, the builder's commit of the working folder) are left out.

    Raises:
        SkdError: `onnx.checker` finds the graph invalid.
    """
    import onnx
    import onnx_ir as ir

    _forget_origin(model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size > ONE_FILE_LIMIT:
        ir.save(model, path, external_data=data_path(path).name)
    else:
        ir.external_data.load_to_model(model)
        ir.save(model, path)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise SkdError(f"{path.name} isn't valid ONNX: {str(error).splitlines()[0]}") from error


def forget_graphs() -> None:
    """Gives back the memory of graphs that nobody holds any more. They refer to themselves, and the C library keeps their pieces:
    one after the other they would take several times a model's size."""
    gc.collect()
    return_freed_memory()


def _forget_origin(model: Any) -> None:
    model.producer_version = None
    values = (value for node in model.graph.all_nodes() for value in node.outputs)
    graph = (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())
    for each in (model, model.graph, *model.graph.all_nodes(), *values, *graph):
        each.metadata_props.clear()


def small_graph(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: Sequence[Any],
    name: str,
) -> Any:
    """An `onnx_ir.Model` of nodes and values made with `onnx.helper`."""
    import onnx
    import onnx_ir as ir

    graph = onnx.helper.make_graph(list(nodes), name, list(inputs), list(outputs), list(weights))
    versions = {"": OPSET, CONTRIB: 1}
    opsets = [onnx.helper.make_opsetid(each, versions[each]) for each in sorted({"", *(node.domain for node in nodes)})]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=VERSION, producer_name="skd"))


def constant(graph: Any, name: str, values: Any) -> Any:
    """A new initializer of an `onnx_ir.Graph`."""
    import onnx_ir as ir

    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def tensor_types(path: Path) -> dict[str, TensorCount]:
    """What a graph's weights really are: type → how many, and how many bytes; the largest first.

    Weights that lie packed in bytes count as the INT4 or INT8 that they are.
    """
    import onnx_ir as ir

    graph = ir.load(path).graph
    packed = {
        codes.name: f"INT{node.attributes['bits'].as_int()}"
        for node in graph
        if node.op_type in _PACKED and (codes := node.inputs[_PACKED[node.op_type]]) is not None
    }
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, tensor in _weights(graph):
        kind = packed.get(name, tensor.dtype.name)
        counts[kind] += 1
        sizes[kind] += int(tensor.nbytes)
    return {kind: TensorCount(counts[kind], size) for kind, size in sizes.most_common()}


def _weights(graph: Any) -> Iterator[tuple[str, Any]]:
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value
