"""The runtimes of exports, one record each for everything that is known of it; and the formats, which are pairs of them.

A kernel's figures are shares of a processor's rates: evidence is a 0.5B student on two quiet Xeon cores (docs/hardware.md), a
smaller one there by processor time, and four blocks of a 1.5B student on two EPYC cores (docs/results/hardware.md, by
`python benchmarks/hardware.py`). llama.cpp's shares are 1.3 to 1.8 times as large on the EPYC: what both ran stands in the
middle; K-quants ran there alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GGUF, ONNX = "gguf", "onnx"


@dataclass(frozen=True)
class Kernel:
    """How a runtime computes with weights of one precision."""

    int8: bool  # products in int8; otherwise in float
    vision: float  # share of the processor's rate for large products that a tower reaches
    prefill: float  # and a prompt
    single: float  # for one token: int8 multiply-adds out of cache, as a share of that rate; 0: reading memory is all


@dataclass(frozen=True)
class Extra:
    """An extra of this package's."""

    name: str
    purpose: str  # for people
    packages: Mapping[str, str]  # distribution → the module that it brings


@dataclass(frozen=True)
class Runtime:
    """What runs an export's part, and the files that it runs."""

    name: str  # of it and of its files, in formats, tables and reports
    title: str  # for people
    files: str  # the same of its files
    suffix: str  # by which its files are known
    packages: Mapping[str, str]  # that run it: distribution → module
    extras: tuple[Extra, ...]  # the one that runs it first
    quants: Mapping[str, str]  # precisions of a language model → a remark; the first is the default
    vision_quants: Mapping[str, str]  # of tower and projector
    piece: int  # tokens of a prompt that are read at once; every piece reads all weights again
    cache_bytes: int  # of a key or value
    attention: float  # share of the float rate that attention reaches
    block_seconds: float  # fixed cost of a block in one pass
    bytes: (
        int  # memory of interpreter and engine: the peak of a process that answered with a student of a few kilobytes
    )
    kernels: Mapping[str, Kernel]  # by precision, or by the type that most of a mixture is
    # Bits of a weight with its share of the scales: of the blocks, of the head, of the embedding where it is kept beside it.
    bits: Mapping[str, tuple[float, float, float]]
    vision_bits: Mapping[str, float]  # of a tower; the default first, then the smaller ones
    aliases: Mapping[str, str] = field(default_factory=dict)  # another runtime's name of a precision → this one's
    other_cache_bytes: Mapping[str, int] = field(default_factory=dict)  # where a precision's aren't `cache_bytes`
    own_embedding: bool = False  # the embedding is a file of its own, also where the head is the same
    devices: bool = False  # runs elsewhere than on the processor, too
    tokenizer_factor: float = 12.0  # memory of the tokenizer for each byte of tokenizer.json

    def cache_bytes_at(self, quant: str) -> int:
        """Bytes of a key or value beside weights of this precision."""
        return self.other_cache_bytes.get(quant, self.cache_bytes)


@dataclass(frozen=True)
class Format:
    """What an export folder holds: two parts, each for its runtime."""

    name: str
    vision: str  # its runtime's name
    language: str
    # Precision of the language model → that of tower and projector, where it isn't the first of `vision_quants`.
    vision_of: Mapping[str, str] = field(default_factory=dict)


_LLAMA_CPP = Runtime(
    name=GGUF,
    title="llama.cpp",
    files="GGUF",
    suffix=".gguf",
    packages={"llama-cpp-python": "llama_cpp"},
    extras=(
        Extra(
            "gguf",
            "skd export --format gguf, and running it",
            {"gguf": "gguf", "llama-cpp-python": "llama_cpp"},
        ),
    ),
    quants={
        "q4": "by the shape, what loses least at its size",
        **dict.fromkeys(("q4_0", "q4_mixed", "q4_k_m", "q5_mixed", "q5_k_m", "q8", "f16", "f32"), ""),
    },
    vision_quants={"f16": "default", "q8_0": "", "q4_0": "", "f32": ""},
    piece=512,
    cache_bytes=2,
    other_cache_bytes={"f32": 4},
    attention=0.2,
    block_seconds=80e-6,
    bytes=60_000_000,
    kernels={
        "f32": Kernel(False, 0.55, 0.55, 0.0),  # not measured: taken from f16
        "f16": Kernel(False, 0.7, 0.55, 1.2),
        "q8_0": Kernel(True, 0.2, 0.19, 0.9),
        "q5_0": Kernel(True, 0.1, 0.1, 0.6),  # most of q4_mixed, and of K-quants where a row isn't a multiple of 256
        "q5_1": Kernel(True, 0.1, 0.1, 0.6),  # not measured: taken from q5_0
        "q5_k": Kernel(True, 0.45, 0.45, 1.3),
        "q4_k": Kernel(True, 0.33, 0.33, 1.3),
        "q4_0": Kernel(True, 0.3, 0.3, 1.1),
    },
    bits={"q4_0": (4.5, 8.5, 4.5), "q4_mixed": (5.5, 5.5, 4.5), "q4_k_m": (4.9, 6.6, 4.9), "q5_mixed": (6, 8.5, 8.5)},
    vision_bits={"f16": 16, "q8_0": 8.5, "q4_0": 4.5},
)

_ONNX_RUNTIME = Runtime(
    name=ONNX,
    title="ONNX Runtime",
    files="ONNX",
    suffix=".onnx",
    packages={"onnxruntime": "onnxruntime"},
    extras=(
        Extra("onnx", "running ONNX exports", {"onnxruntime": "onnxruntime"}),
        Extra(
            "onnx-export",
            "skd export --format onnx",
            {
                **{name: name for name in ("torch", "onnx")},
                **{"onnx-ir": "onnx_ir", "onnxscript": "onnxscript", "onnxruntime-genai": "onnxruntime_genai"},
            },
        ),
    ),
    quants=dict.fromkeys(("q4", "q8", "fp16", "fp32"), ""),
    vision_quants=dict.fromkeys(("q8", "fp16", "fp32"), ""),
    aliases={"f32": "fp32", "f16": "fp16", "q8_0": "q8", "q4_0": "q4"},
    piece=128,
    cache_bytes=4,
    other_cache_bytes={"fp16": 2},
    attention=0.65,
    block_seconds=20e-6,
    bytes=100_000_000,
    kernels={
        "fp32": Kernel(False, 0.85, 0.9, 0.0),
        "fp16": Kernel(False, 0.6, 0.6, 0.25),  # not measured: cores without float16 products convert first
        "q8": Kernel(True, 0.68, 0.6, 0.7),
        "q4": Kernel(True, 0.68, 0.175, 0.65),
    },
    bits={"q8": (8, 8, 8), "q4": (5.6, 5.1, 4.7)},
    vision_bits={"q8": 8},
    own_embedding=True,
    devices=True,
)

# Those from outside the package are added by `switchkd.runtime.engines.formats`, by which others than this folder look them up.
RUNTIMES: dict[str, Runtime] = {each.name: each for each in (_LLAMA_CPP, _ONNX_RUNTIME)}
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("gguf", vision=GGUF, language=GGUF, vision_of={"f32": "f32"}),
        Format("onnx", vision=ONNX, language=ONNX, vision_of={"fp16": "fp16", "fp32": "fp32"}),
        Format("hybrid", vision=ONNX, language=GGUF),
    )
}
