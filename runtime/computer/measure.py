"""How fast this computer's cores read and multiply, all together: a process of its own, so that the libraries' threads are set.

    python -m switchkd.runtime.computer.measure --threads N [--seconds S]

prints JSON: field of a profile → {"value", "source"}, and under "unknown" what couldn't be measured and why. Each figure is
the fastest of many short runs: what else the computer does can only slow it down.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

_WIDTH, _DEPTH = 4096, 1024  # of the int8 matrix: 4 MB, which stays in a cache
_ROWS = 128  # activations at once, as the engine reads prompts
_SIDE = 512  # of the float matrices
_READ_BYTES = 256 << 20  # gone through in turns, so that nothing of it is left in a cache
_TURN_BYTES = 16 << 20  # short enough to run undisturbed now and then


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures memory bandwidth and matrix rates.")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    options = parser.parse_args()
    # OpenBLAS and its relatives read these when numpy loads.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    print(json.dumps(measure(options.threads, options.seconds)))


def measure(threads: int, seconds: float) -> dict[str, Any]:
    """Every figure, with what measured it."""
    figures = {
        "memory_read_gbps": (
            read_rate(threads, seconds),
            f"numpy {version('numpy')}, {threads} threads reading 256 MB in turns of 16 MB",
        ),
        "matrix_f32_gmacs": (
            float_rate(seconds),
            f"numpy {version('numpy')}, product of {_SIDE}×{_SIDE}, {threads} threads",
        ),
    }
    unknown = {}
    try:
        vector, matrix = int8_rates(threads, seconds)
    except ModuleNotFoundError as error:
        why = f"needs the package '{error.name}': pip install 'switchkd[onnx]'"
        unknown = {"matrix_int8_gmacs": why, "vector_int8_gmacs": why}
    else:
        how = f"ONNX Runtime {version('onnxruntime')}, {_DEPTH}×{_WIDTH}, {threads} threads"
        figures["matrix_int8_gmacs"] = (matrix, f"{how}, by {_ROWS} rows")
        figures["vector_int8_gmacs"] = (vector, f"{how}, by one row")
    return {
        **{name: {"value": float(f"{value:.4g}"), "source": source} for name, (value, source) in figures.items()},
        "unknown": unknown,
    }


def read_rate(threads: int, seconds: float) -> float:
    """GB/s that all threads read from memory together."""
    import numpy as np

    turns = [
        [np.ones(_TURN_BYTES // 8 // threads, np.int64) for _ in range(threads)]
        for _ in range(_READ_BYTES // _TURN_BYTES)
    ]
    rest = itertools.cycle(turns)

    def read_all() -> None:
        parts = next(rest)
        others = [threading.Thread(target=np.bitwise_or.reduce, args=(part,)) for part in parts[1:]]
        for other in others:
            other.start()
        np.bitwise_or.reduce(parts[0])
        for other in others:
            other.join()

    return sum(part.nbytes for part in turns[0]) / _fastest(read_all, seconds) / 1e9


def float_rate(seconds: float) -> float:
    """Gmac/s of numpy's float32 product, on the threads that its library was started with."""
    import numpy as np

    left = np.random.default_rng(0).random((_SIDE, _SIDE), np.float32)
    out = np.empty_like(left)
    return _SIDE**3 / _fastest(lambda: np.matmul(left, left, out=out), seconds) / 1e9


def int8_rates(threads: int, seconds: float) -> tuple[float, float]:
    """Gmac/s of ONNX Runtime's int8 product with activations that are quantized as they come: by one row, by many.

    Raises:
        ModuleNotFoundError: onnxruntime isn't installed.
    """
    import numpy as np
    import onnxruntime

    from switchkd.runtime.computer.onnx_bytes import LARGEST_WEIGHT, int8_product

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    random = np.random.default_rng(0)
    weights = random.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, (_DEPTH, _WIDTH), np.int8)
    session = onnxruntime.InferenceSession(
        int8_product(weights.tobytes(), _DEPTH, _WIDTH), options, ["CPUExecutionProvider"]
    )

    def rate(rows: int) -> float:
        inputs = {"x": random.random((rows, _DEPTH), np.float32)}
        return rows * _DEPTH * _WIDTH / _fastest(lambda: session.run(None, inputs), seconds) / 1e9

    return rate(1), rate(_ROWS)


def _fastest(work: Callable[[], Any], seconds: float) -> float:
    """The shortest of as many runs as fit into `seconds`, three at least; the first warms up."""
    work()
    best, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


if __name__ == "__main__":
    main()
