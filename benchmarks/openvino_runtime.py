"""Whether OpenVINO runs an export's ONNX files faster than ONNX Runtime: picture, prompt, tokens, in turns.

    python -m venv openvino && openvino/bin/pip install openvino==2026.4.1 -c constraints.txt -e '.[onnx]'
    openvino/bin/python benchmarks/openvino_runtime.py bench/onnx-fp32 bench/onnx-q8 bench/onnx-q4 --threads 2

ONNX Runtime works as it does in this project's engine, prompts in pieces and keys and values in place; OpenVINO reads the
same files and gets prompts whole. Both get the same pixels and embeddings, and the largest difference of their results is
shown. What OpenVINO can't load is reported with its reason. --cpu counts processor time, for a busy machine and one thread.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from turns import TEXT_TOKENS

from switchkd.manifest import Manifest
from switchkd.runtime.bench.machine import machine_facts
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.opening import open_engine, usable_processors

Floats = NDArray[np.float32]


class OpenVino:
    """A graph compiled for the processor."""

    def __init__(self, path: Path, threads: int) -> None:
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self._request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def __call__(self, inputs: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Name → result; the arrays are overwritten by the next call."""
        results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        return {output.any_name: value for output, value in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="ONNX Runtime and OpenVINO on the same files.")
    parser.add_argument("variants", nargs="+", type=Path, help="ONNX export folders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only", choices=("vision", "language"))
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    facts = machine_facts()
    print(
        f"{facts['cpu']}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, OpenVINO {openvino.__version__}\n"
    )
    print("| file | phase | ONNX Runtime, ms | OpenVINO, ms | ratio | difference |\n|---|---|---:|---:|---:|---:|")
    for variant in options.variants:
        manifest = Manifest.load(variant, verify=False)
        with open_engine(variant, threads=options.threads, verify=False) as engine:
            for role, compare in (("vision", compare_vision), ("language", compare_language)):
                if options.only in (None, role):
                    path = variant / manifest.file_of(role)
                    try:
                        compare(engine, path, options, clock)
                    except RuntimeError as error:
                        print(f"| {path.name} | | | refused: {' '.join(str(error).split())[:300]} | | |", flush=True)


def compare_vision(engine: Engine, path: Path, options: argparse.Namespace, clock: Callable[[], float]) -> None:
    """One picture."""
    graph = OpenVino(path, options.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (engine.preprocess.height, engine.preprocess.width, 3), np.uint8)
    values = engine.preprocess.normalize(pixels)[None]
    ours = {"picture": lambda: engine.vision.encode(pixels)}
    theirs = {"picture": lambda: graph({"pixel_values": values})["image_features"][0]}
    show(path.name, ours, theirs, options.rounds, clock)


def compare_language(engine: Engine, path: Path, options: argparse.Namespace, clock: Callable[[], float]) -> None:
    """A prompt, then tokens after it."""
    graph: Any = OpenVino(path, options.threads)
    language: Any = engine.language
    caches = [value for value in language._decoder.get_inputs() if value.name.startswith("past_key_values.")]
    ids = np.full((1, engine.image_tokens + TEXT_TOKENS), 5, np.int64)
    embeds, one = language._embed(ids), language._embed(ids[:, :1])
    past: dict[str, NDArray[Any]] = {}

    def read(embeds: Floats, fresh: bool) -> Floats:
        if fresh:
            past.update({value.name: np.empty((1, value.shape[1], 0, value.shape[3]), np.float32) for value in caches})
        length = embeds.shape[1] + next(iter(past.values())).shape[2]
        mask = np.ones((1, length), np.int64)
        results = graph({"inputs_embeds": embeds, "attention_mask": mask, "num_logits_to_keep": np.array(1), **past})
        past.update({name: results[name.replace("past_key_values", "present")].copy() for name in past})
        return results["logits"][0, -1].copy()

    def several(step: Callable[[], Floats]) -> Floats:
        return [step() for _ in range(options.tokens)][-1]

    ours = {
        "prompt": lambda: language.prefill(ids[0].tolist()),
        f"{options.tokens} tokens": lambda: several(lambda: language.step(5)),
    }
    theirs = {
        "prompt": lambda: read(embeds, fresh=True),
        f"{options.tokens} tokens": lambda: several(lambda: read(one, fresh=False)),
    }
    show(path.name, ours, theirs, options.rounds, clock)


def show(
    name: str,
    ours: dict[str, Callable[[], Floats]],
    theirs: dict[str, Callable[[], Floats]],
    rounds: int,
    clock: Callable[[], float],
) -> None:
    """Measures in turns, after a round that warms up, and prints a line for each phase."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    differences: dict[str, float] = {}
    for counted in range(rounds + 1):
        results: dict[tuple[str, str], Floats] = {}
        for whose, phases in (("ours", ours), ("theirs", theirs)):
            for phase, work in phases.items():
                start = clock()
                results[whose, phase] = work()
                if counted:
                    times[whose, phase].append(clock() - start)
        for phase in ours:
            expected = results["ours", phase]
            distance = np.linalg.norm(expected - results["theirs", phase])
            differences[phase] = float(distance / np.linalg.norm(expected))
    for phase, difference in differences.items():
        mine, other = (1000 * statistics.median(times[whose, phase]) for whose in ("ours", "theirs"))
        print(f"| {name} | {phase} | {mine:,.1f} | {other:,.1f} | {other / mine:.2f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
