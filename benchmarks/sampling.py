"""What choosing a token costs, beside the model's own time: milliseconds with Qwen2.5's 151,936 logits, one thread.

    python benchmarks/sampling.py

Peaked logits have a few tokens with nearly all of the probability, as a trained model's have. Flat ones (spread of 0.5) are what
is worst for `top_p`: most of the vocabulary is needed to reach it. Medians of the calls.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from switchkd.runtime.bench.machine import machine_facts
from switchkd.runtime.engines.logprobs import score
from switchkd.runtime.engines.sampler import Floats, best, chooser
from switchkd.runtime.engines.sampling import Sampling

VOCABULARY = 151_936
READ = range(1000)  # tokens of a prompt
CALLS = 100
SPREADS = {"peaked": 3.0, "flat": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 1": {"temperature": 1.0},
    "top_k 40": {"temperature": 1.0, "top_k": 40},
    "top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "min_p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "repetition_penalty 1.1, greedy": {"repetition_penalty": 1.1},
    "all of these": {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1},
}


def main() -> None:
    random = np.random.default_rng(0)
    logits = {
        name: (random.standard_normal(VOCABULARY) * spread).astype(np.float32) for name, spread in SPREADS.items()
    }
    logits["peaked"][:20] += 15
    print(f"| how | {', ms | '.join(logits)}, ms |\n|---|{'---:|' * len(logits)}")
    calls: dict[str, Callable[[Floats], Any]] = {"greedy": best}
    calls |= {name: chooser(Sampling(seed=1, **each), READ) for name, each in SETTINGS.items()}
    calls["top_logprobs 20"] = lambda row: score(row, 7, 20)
    for name, call in calls.items():
        print(f"| {name} | {' | '.join(f'{milliseconds(call, row):.2f}' for row in logits.values())} |", flush=True)
    print(f"\n{machine_facts()['cpu']}; load {os.getloadavg()[0]:.1f}; medians of {CALLS} calls.")


def milliseconds(call: Callable[[Floats], Any], row: Floats) -> float:
    """Of a call, the median."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call(row)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


if __name__ == "__main__":
    main()
