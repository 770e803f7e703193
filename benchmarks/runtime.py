"""How long a student takes in every engine: picture, prompt, tokens; each variant against the PyTorch checkpoint.

    nice -n 15 python benchmarks/real_shape.py bench --threads 1
    python benchmarks/runtime.py bench/student bench/*-* --threads 2 --out table.md

All engines are open in one process and take turns, round by round, so that what else the machine does hits all alike; the
order changes every round. The first round warms up and isn't counted. Figures are medians, ratios those of the medians.
"""

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from turns import PHASES, TEXT_TOKENS, Seconds, medians, take_turns

from switchkd.runtime.bench.machine import machine_facts
from switchkd.runtime.bench.memory import resident
from switchkd.runtime.engines.opening import open_engine, usable_processors

PACKAGES = ("torch", "onnxruntime", "llama-cpp-python", "numpy")
HEADS = {"encode": "encode, s", "prefill": "prefill, s", "first_token": "first token, s", "decode": "decode, ms/token"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of a student in every engine, as a Markdown table.")
    parser.add_argument("checkpoint", type=Path, help="the PyTorch student, the reference")
    parser.add_argument("variants", nargs="*", type=Path, help="its export folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--minutes", type=float, default=60, help="no round begins later than this; default: %(default)s"
    )
    parser.add_argument("--tokens", type=int, default=32, help="decoded in each round")
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--out", type=Path, help="Markdown file; default: the terminal")
    options = parser.parse_args()
    load, end = os.getloadavg()[0], time.monotonic() + 60 * options.minutes
    with ExitStack() as stack:
        folders = [options.checkpoint, *options.variants]
        engines = {
            folder.name: stack.enter_context(open_engine(folder, threads=options.threads, verify=False))
            for folder in folders
        }
        for times in take_turns(engines, tokens=options.tokens):
            rounds = len(times[options.checkpoint.name]["decode"])
            report = "\n".join([*table(folders, times), "", *conditions(options, load, rounds)]) + "\n"
            if options.out:
                options.out.write_text(report)
            print(f"\n{report}", flush=True)
            if rounds == options.rounds or time.monotonic() > end:
                break


def table(folders: list[Path], times: Mapping[str, Seconds]) -> list[str]:
    """Markdown lines; the first folder is the reference."""
    middle = medians(times)
    reference = middle[folders[0].name]
    head = " | ".join(f"{HEADS[phase]} | × torch" for phase in PHASES)
    lines = [f"| variant | MB | {head} |", "|---|---:|" + "---:|" * 2 * len(PHASES)]
    for folder in folders:
        cells = [folder.name, f"{size_of(folder) / 1e6:,.0f}"]
        for phase, seconds in middle[folder.name].items():
            shown = f"{seconds * 1e3:,.1f}" if phase == "decode" else f"{seconds:,.3f}"
            cells += [shown, f"{seconds / reference[phase]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def size_of(folder: Path) -> int:
    """Bytes of the weights."""
    kinds = (".safetensors", ".onnx", ".onnx_data", ".gguf")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in kinds)


def conditions(options: argparse.Namespace, load: float, rounds: int) -> list[str]:
    """What was measured how, on what."""
    facts = machine_facts()
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    memory = (resident(os.getpid()) or 0) / 1e9
    return [
        f"- Processor: {facts['cpu']} ({', '.join(facts['isa'])}), {options.threads} threads; "
        f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after; {memory:.1f} GB in memory, all engines open",
        f"- Versions: Python {platform.python_version()}, {versions}",
        f"- Method: {rounds} rounds in turns after one to warm up, medians; a prompt of the picture and "
        f"{TEXT_TOKENS} tokens; {options.tokens} tokens decoded",
        f"- Command: `python {shlex.join(sys.argv)}`",
    ]


if __name__ == "__main__":
    main()
