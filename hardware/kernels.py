"""What ONNX Runtime and llama.cpp make of a processor's speed, by precision: shares of its rates, measured on one computer.

`python benchmarks/hardware.py` measures how good they are; docs/results/hardware.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from switchkd.hardware.workload import GGUF, ONNX


@dataclass(frozen=True)
class Kernel:
    """How one runtime computes with weights of one precision."""

    int8: bool  # products in int8; otherwise in float
    vision: float  # share of the processor's rate for large products that a tower reaches
    prefill: float  # and a prompt
    single: float  # for one token: int8 multiply-adds out of cache, as a share of that rate; 0: reading memory is all


@dataclass(frozen=True)
class Runtime:
    """What a runtime takes whatever the precision."""

    title: str  # for people
    attention: float  # share of the float rate that attention reaches
    block_seconds: float  # fixed cost of a block in one pass
    bytes: int  # memory of interpreter and engine without a model
    tokenizer_factor: float = 12.0  # memory of the tokenizer for each byte of tokenizer.json


# Evidence: a 0.5B student on two quiet Xeon cores (docs/hardware.md), a smaller one there by processor time, and four blocks
# of a 1.5B student on two EPYC cores (docs/results/hardware.md). llama.cpp's shares are 1.3 to 1.8 times as large on the
# EPYC: what both ran stands in the middle; K-quants ran there alone.
# Memory without a model: peak of a process that answered with a student of a few kilobytes.
RUNTIMES: dict[str, Runtime] = {
    ONNX: Runtime("ONNX Runtime", 0.65, 20e-6, 100_000_000),
    GGUF: Runtime("llama.cpp", 0.2, 80e-6, 60_000_000),
}

KERNELS: dict[tuple[str, str], Kernel] = {
    (ONNX, "fp32"): Kernel(False, 0.85, 0.9, 0.0),
    (ONNX, "fp16"): Kernel(False, 0.6, 0.6, 0.25),  # not measured: cores without float16 products convert first
    (ONNX, "q8"): Kernel(True, 0.68, 0.6, 0.7),
    (ONNX, "q4"): Kernel(True, 0.68, 0.175, 0.65),
    (GGUF, "f32"): Kernel(False, 0.55, 0.55, 0.0),  # not measured: taken from f16
    (GGUF, "f16"): Kernel(False, 0.7, 0.55, 1.2),
    (GGUF, "q8_0"): Kernel(True, 0.2, 0.19, 0.9),
    (GGUF, "q5_0"): Kernel(
        True, 0.1, 0.1, 0.6
    ),  # most of q4_mixed, and what K-quants are where a row isn't a multiple of 256
    (GGUF, "q5_1"): Kernel(True, 0.1, 0.1, 0.6),  # not measured: taken from q5_0
    (GGUF, "q5_k"): Kernel(True, 0.45, 0.45, 1.3),
    (GGUF, "q4_k"): Kernel(True, 0.33, 0.33, 1.3),
    (GGUF, "q4_0"): Kernel(True, 0.3, 0.3, 1.1),
}
