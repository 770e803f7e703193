"""One small ONNX graph, written without the `onnx` package, which a device doesn't need otherwise.

Field numbers: onnx.proto (github.com/onnx/onnx/blob/main/onnx/onnx.proto); encoding: protobuf's wire format.
"""

from __future__ import annotations

import struct

# Where a processor has AVX2 but no VNNI, ONNX Runtime adds two products of an unsigned and a signed byte in 16 bits, and what is
# more than 32,767 is cut. 2 · 255 · 64 isn't.
LARGEST_WEIGHT = 64
_OPSET, _IR = 17, 8
_FLOAT, _INT8 = 1, 3  # TensorProto.DataType


def int8_product(weights: bytes, depth: int, width: int) -> bytes:
    """A model x [rows, depth] → y [rows, width] that does what quantize_dynamic makes of a matrix product.

    Args:
        weights: int8 [depth, width], row by row, none beyond ±LARGEST_WEIGHT.
    """
    nodes = (
        _node("DynamicQuantizeLinear", ["x"], ["bytes", "scale", "zero"]),
        _node("MatMulInteger", ["bytes", "weights", "zero", "weight_zero"], ["sums"]),
        _node("Cast", ["sums"], ["floats"], attribute=("to", _FLOAT)),
        _node("Mul", ["scale", "weight_scale"], ["factor"]),
        _node("Mul", ["floats", "factor"], ["y"]),
    )
    tensors = (
        _tensor("weights", _INT8, (depth, width), weights),
        _tensor("weight_zero", _INT8, (), b"\0"),
        _tensor("weight_scale", _FLOAT, (), struct.pack("<f", 0.01)),
    )
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _text(2, "product"),
            *(_bytes(5, tensor) for tensor in tensors),
            _bytes(11, _value("x", depth)),
            _bytes(12, _value("y", width)),
        ]
    )
    return _number(1, _IR) + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


def _node(kind: str, inputs: list[str], outputs: list[str], attribute: tuple[str, int] | None = None) -> bytes:
    """A NodeProto; the attribute is a whole number."""
    parts = [_text(1, name) for name in inputs] + [_text(2, name) for name in outputs] + [_text(4, kind)]
    if attribute:
        name, value = attribute
        parts.append(_bytes(5, _text(1, name) + _number(3, value) + _number(20, 2)))
    return b"".join(parts)


def _tensor(name: str, kind: int, shape: tuple[int, ...], raw: bytes) -> bytes:
    """A TensorProto."""
    return b"".join(_number(1, size) for size in shape) + _number(2, kind) + _text(8, name) + _bytes(9, raw)


def _value(name: str, width: int) -> bytes:
    """A ValueInfoProto: float32 [rows, width], rows free."""
    shape = _bytes(1, _text(2, "rows")) + _bytes(1, _number(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
