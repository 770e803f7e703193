"""Where an ONNX export's time goes: milliseconds by operator of picture, prompt and one token, by ONNX Runtime's profiler.

    python benchmarks/operators.py bench/onnx-q8 --threads 2

Of the rounds, each phase's fastest is shown. Profiling itself costs a few percent.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from turns import time_request

from switchkd.runtime.engines.opening import open_engine, usable_processors

Profile = Counter[str]  # operator → microseconds
_DECODED = 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of an ONNX (or hybrid) export by operator.")
    parser.add_argument("variant", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_processors())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        sessions = profiled(Path(work))
        with open_engine(options.variant, threads=options.threads, verify=False) as engine:
            random = np.random.default_rng(0)
            for _ in range(options.rounds):
                pixels = random.integers(0, 256, (300, 400, 3), dtype=np.uint8)
                time_request(engine, Image.fromarray(pixels), _DECODED)
            runs = [runs_of(json.loads(Path(session.end_profiling()).read_text())) for session in sessions]
    for each in runs:
        for phase, profile in phases(each, options.rounds):
            show(phase, profile)


def profiled(folder: Path) -> list[Any]:
    """Has every session that is made from now on write a profile; the list fills with them, the embedding's left out."""
    sessions: list[Any] = []

    class Profiled(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: Any, **more: Any) -> None:
            options.enable_profiling = "embed_tokens" not in path
            options.profile_file_prefix = str(folder / Path(path).stem)
            super().__init__(path, options, **more)
            if options.enable_profiling:
                sessions.append(self)

    onnxruntime.InferenceSession = Profiled
    return sessions


def runs_of(events: list[dict[str, Any]]) -> list[Profile]:
    """A profile for each run of a session, in order."""
    starts = [event for event in events if event["name"] == "model_run"]
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    profiles = []
    for run in starts:
        profile: Profile = Counter()
        for node in nodes:
            if 0 <= node["ts"] - run["ts"] <= run["dur"]:
                profile[node["args"]["op_name"]] += node["dur"]
        profiles.append(profile)
    return profiles


def phases(runs: list[Profile], rounds: int) -> Iterator[tuple[str, Profile]]:
    """Each phase's fastest round: a picture is one run; a prompt is several, and then come the tokens."""
    size = len(runs) // rounds
    groups = [runs[start : start + size] for start in range(0, len(runs), size)]
    parts = {"picture": slice(None)} if size == 1 else {"prompt": slice(-_DECODED), "token": slice(-_DECODED, None)}
    for phase, part in parts.items():
        fastest = min((sum(group[part], Counter()) for group in groups), key=lambda profile: profile.total())
        each = _DECODED if phase == "token" else 1
        yield phase, Counter({kind: time / each for kind, time in fastest.items()})


def show(phase: str, profile: Profile) -> None:
    """A Markdown table."""
    total = profile.total()
    print(f"\n| {phase} | ms | share |\n|---|---:|---:|")
    for kind, time in profile.most_common():
        if time > 0.005 * total:
            print(f"| {kind} | {time / 1000:,.2f} | {100 * time / total:.0f} % |")
    print(f"| **all** | **{total / 1000:,.2f}** | |")


if __name__ == "__main__":
    main()
