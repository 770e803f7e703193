"""What choosing a token costs, beside the model's own time: milliseconds with Qwen2.5's 151,936 logits, one thread.

    python benchmarks/sampling.py [EXPORT]

Peaked logits have a few tokens with nearly all of the probability, as a trained model's have. Flat ones (spread of 0.5) are what
is worst for `top_p`: most of the vocabulary is needed to reach it. Medians of the calls. With an export's folder (or a
checkpoint's): what JSON by a schema costs with its tokenizer, token by token along an answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from switchkd.prompt import ChatPrompt
from switchkd.runtime.bench.machine import machine_facts
from switchkd.runtime.engines.grammar import Grammars
from switchkd.runtime.engines.logprobs import score
from switchkd.runtime.engines.sampler import Floats, best, chooser
from switchkd.runtime.engines.sampling import Sampling

VOCABULARY = 151_936
READ = range(1000)  # tokens of a prompt
CALLS = 100
SPREADS = {"peaked": 3.0, "flat": 0.5}
ANSWER = {"light": "red", "text": "a big car on the left, and a sign", "cars": 12}
SCHEMA = {
    "type": "object",
    "properties": {"light": {"enum": ["red", "green"]}, "text": {"type": "string"}, "cars": {"type": "integer"}},
    "required": list(ANSWER),
    "additionalProperties": False,
}
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
    for folder in sys.argv[1:]:
        print(f"\n{folder}: {form_figures(ChatPrompt.load(folder))}")
    print(f"\n{machine_facts()['cpu']}; load {os.getloadavg()[0]:.1f}; medians of {CALLS} calls.")


def form_figures(prompt: ChatPrompt) -> str:
    """Of a schema's grammar: its making, the first one's and another one's, and its masks along an answer."""
    end = prompt.token_id("eos_token")
    grammars = Grammars(prompt, frozenset({end} if end is not None else ()))
    making = []
    for _ in range(2):
        start = time.perf_counter()
        grammar = grammars.json_schema(SCHEMA)
        making.append(time.perf_counter() - start)
    choose, times = grammar.constrain(best), []
    for token in prompt.encode_text(json.dumps(ANSWER)):
        row = np.zeros(prompt.length, np.float32)
        row[token] = 1
        start = time.perf_counter()
        if choose(row) != token:
            raise SystemExit("The answer doesn't fit its schema.")
        times.append(1e3 * (time.perf_counter() - start))
    first, later = making
    middle, most = np.median(times), max(times)
    return f"first form {first:.2f} s, another {1e3 * later:.1f} ms; a token {middle:.2f} ms, at most {most:.2f} ms."


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
