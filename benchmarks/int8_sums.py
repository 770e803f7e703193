"""Whether ONNX Runtime's int8 products are exact on this processor: unsigned bytes by signed weights, small and large ones.

    python benchmarks/int8_sums.py
    qemu-x86_64 -cpu Haswell python benchmarks/int8_sums.py

prints a Markdown row for each range of weights: the largest error of a product of 256 numbers, relative to its largest value.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from switchkd.runtime.computer.onnx_bytes import LARGEST_WEIGHT, int8_product

DEPTH, WIDTH = 256, 48


def main() -> None:
    random = np.random.default_rng(0)
    for limit in (127, LARGEST_WEIGHT):
        spread = random.integers(-limit, limit + 1, (DEPTH, WIDTH)).astype(np.int8)
        largest = np.full((DEPTH, WIDTH), limit, np.int8)
        errors = [error(weights, rows, random) for weights in (spread, largest) for rows in (1, 7)]
        print(f"| ±{limit} | {' | '.join(f'{each:.1e}' for each in errors)} |", flush=True)


def error(weights: np.ndarray, rows: int, random: np.random.Generator) -> float:
    """Of weights [DEPTH, WIDTH] by bytes of which half are the largest."""
    session = onnxruntime.InferenceSession(
        int8_product(weights.tobytes(), DEPTH, WIDTH), providers=["CPUExecutionProvider"]
    )
    activations = random.integers(0, 256, (rows, DEPTH))
    activations[:, ::2] = 255  # so that a byte stands for 1/255
    (found,) = session.run(None, {"x": (activations / 255).astype(np.float32)})
    exact = activations @ weights.astype(np.int64) * 0.01 / 255
    return float(np.abs(found - exact).max() / np.abs(exact).max())


if __name__ == "__main__":
    main()
