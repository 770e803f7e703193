"""How long a student takes in every engine: picture, prompt, tokens; each variant against the PyTorch checkpoint.

    skd init bench/student --random --vision siglip-so400m-patch14-384 --language qwen2.5-0.5b --feature-layer -2
    for quant in fp32 q8 q4; do skd export bench/student --format onnx --quant $quant --out bench/onnx-$quant; done
    for quant in f16 q8 q4; do skd export bench/student --quant $quant --out bench/gguf-$quant; done
    python benchmarks/runtime.py bench/student bench/onnx-* bench/gguf-* --threads 2 --out docs/results/runtime.md

All engines are open in one process and take turns, round by round, so that what else the machine does hits all alike; the
order changes every round. The first round warms up and isn't counted. Figures are medians, ratios those of the medians.
"""

import argparse
import os
import platform
import random
import shlex
import statistics
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from switchkd.runtime.engine import Engine
from switchkd.runtime.variants import open_engine, usable_processors

TEXT_TOKENS = 32  # of the prompt, beside the picture
PHASES = ("encode", "prefill", "first token", "decode")
PACKAGES = ("torch", "onnxruntime", "llama-cpp-python", "numpy")

Seconds = dict[str, list[float]]  # phase → a figure for each round


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of a student in every engine, as a Markdown table.")
    parser.add_argument("checkpoint", type=Path, help="the PyTorch student, the reference")
    parser.add_argument("variants", nargs="*", type=Path, help="its export folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="decoded in each round")
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--out", type=Path, help="Markdown file; default: the terminal")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    engines = {
        str(folder): open_engine(folder, threads=options.threads) for folder in (options.checkpoint, *options.variants)
    }
    times = measure(engines, options.rounds, options.tokens)
    report = "\n".join([*table(engines, times), "", *conditions(options, load)]) + "\n"
    if options.out:
        options.out.write_text(report)
    print(report)


def measure(engines: dict[str, Engine], rounds: int, tokens: int) -> dict[str, Seconds]:
    """Variant → its seconds, in turns."""
    times: dict[str, Seconds] = {name: defaultdict(list) for name in engines}
    order = random.Random(0)
    for round_number in range(rounds + 1):
        pixels = np.random.default_rng(round_number).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        for name in order.sample(list(engines), len(engines)):
            figures = request(engines[name], Image.fromarray(pixels), tokens)
            if round_number:
                for phase, seconds in figures.items():
                    times[name][phase].append(seconds)
    return times


def request(engine: Engine, picture: Image.Image, tokens: int) -> dict[str, float]:
    """One picture, one prompt, a fixed number of tokens."""
    features = engine.encode_image(picture)
    text = (engine.prompt.image_token_id + 1) % engine.prompt.length  # any other token
    ids = [text] * 4 + [engine.prompt.image_token_id] * len(features) + [text] * (TEXT_TOKENS - 4)
    token = int(engine.prefill(ids, features).argmax())
    start = time.perf_counter()
    for _ in range(tokens):
        token = int(engine.next_token(token).argmax())
    decode = (time.perf_counter() - start) / tokens
    timings = engine.timings
    return {
        "encode": timings.encode,
        "prefill": timings.prefill,
        "first token": timings.first_token,
        "decode": decode,
    }


def table(engines: dict[str, Engine], times: dict[str, Seconds]) -> list[str]:
    """Markdown lines; the first engine is the reference."""
    reference = {phase: statistics.median(times[next(iter(times))][phase]) for phase in PHASES}
    lines = [
        "| variant | MB | encode, s | × torch | prefill, s | × torch | first token, s | × torch | decode, ms/token | × torch |",
        "|---|---:|" + "---:|" * 8,
    ]
    for name, seconds in times.items():
        cells = [Path(name).name, f"{size_of(Path(name)) / 1e6:,.0f}"]
        for phase in PHASES:
            median = statistics.median(seconds[phase])
            shown = f"{median * 1e3:,.1f}" if phase == "decode" else f"{median:,.3f}"
            cells += [shown, f"{median / reference[phase]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def size_of(folder: Path) -> int:
    """Bytes of the weights."""
    kinds = (".safetensors", ".onnx", ".onnx_data", ".gguf")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in kinds)


def conditions(options: argparse.Namespace, load: float) -> list[str]:
    """What was measured how, on what."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return [
        f"- Processor: {processor()}, {options.threads} threads; load {load:.1f} before, {os.getloadavg()[0]:.1f} after",
        f"- Versions: Python {platform.python_version()}, {versions}",
        f"- Method: {options.rounds} rounds in turns after one to warm up, medians; a prompt of the picture and "
        f"{TEXT_TOKENS} tokens; {options.tokens} tokens decoded",
        f"- Command: `python {shlex.join(sys.argv)}`",
    ]


def processor() -> str:
    """Model and instruction sets that matter here."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    facts = dict(line.split("\t: ", 1) for line in path.read_text().splitlines() if "\t: " in line)
    flags = {name: words.split() for name, words in facts.items() if name in ("flags\t", "flags", "Features")}
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    found = [flag for flag in known if any(flag in words for words in flags.values())]
    return f"{facts.get('model name', platform.machine())} ({', '.join(found)})"


if __name__ == "__main__":
    main()
