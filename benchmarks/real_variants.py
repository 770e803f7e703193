"""`make test-real`: every variant of the real language models, exported, measured on real text and held to its limits.

    python benchmarks/real_variants.py FOLDER [--models qwen] [--variants gguf-q4 onnx-q8 …] [--rounds 3]

The checkpoints are those off their grid that `benchmarks/real_models.py` makes in FOLDER; an export that is there already is
not made again. Ends with an error where a default precision loses more than `LIMITS` allow. The table is what
docs/results/real-models.md shows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from real_models import MODELS, make
from real_text import Found, Text, accuracy_line, compare, name_of, note_times, opened, reference, sizes, speed_line

from switchkd.computer import usable_processors
from switchkd.models.environment import quiet

VARIANTS = (
    *(("gguf", quant) for quant in ("q4", "q4_0", "q4_k_m", "q5_k_m", "q8", "f16")),
    *(("onnx", quant) for quant in ("q4", "q8", "fp16", "fp32")),
)
# Largest mean KL in nats from the checkpoint in float32, on real text, by what is asked for; others are told alone.
LIMITS = {"q4": 0.03, "q8": 0.01, "f16": 1e-3, "fp16": 1e-3, "fp32": 1e-4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    names = ["-".join(variant) for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_processors())
    given = parser.parse_args()
    quiet()
    wrong = []
    for model in given.models:
        *_, checkpoint = make(model, given.folder)
        exports = {name: given.folder / "exports" / f"{model}-{name}" for name in given.variants}
        wrong += [f"{model}: {line}" for line in run(checkpoint, exports, given.rounds, given.threads)]
    if wrong:
        sys.exit("\n".join(wrong))


def run(checkpoint: Path, exports: dict[str, Path], rounds: int, threads: int) -> list[str]:
    """Exports and measures one model's variants, prints their tables; what is wrong, a line each."""
    wrong = [f"{name} {told}" for name, path in exports.items() if (told := export(checkpoint, name, path, threads))]
    text = Text(checkpoint)
    rows = reference(checkpoint, text, threads)
    print("| export | KL mean | p99 | same first, % | perplexity | MB |\n|---|---:|---:|---:|---:|---:|")
    measured: dict[str, Found] = {}
    for name, path in exports.items():
        if not path.exists():
            continue
        with opened(path, text.image_token_id, threads) as language:
            found = measured[name] = compare(name_of(path), language, text, rows)
        found.size, found.decoder = sizes(path)
        print(accuracy_line(found), flush=True)
        if not found.kl <= LIMITS.get(name.partition("-")[2], float("inf")):
            wrong.append(f"{name} loses {found.kl:.4f} nats on real text, more than is allowed")
    for _ in range(rounds):
        for name, found in measured.items():
            with opened(exports[name], text.image_token_id, threads) as language:
                note_times(language, text, found)
    if rounds and measured:
        first = next(iter(measured.values()))
        print("\n| export | prefill, ms a token | decode, ms a token |\n|---|---:|---:|")
        print("\n".join(speed_line(found, first) for found in measured.values()))
    return wrong


def export(checkpoint: Path, name: str, path: Path, threads: int) -> str:
    """Makes one export in a process of its own, where there is none; what it was refused for, or nothing."""
    if path.exists():
        return ""
    format, quant = name.split("-")
    skd: list[str | Path] = [Path(sys.executable).with_name("skd"), "export", checkpoint, "--out", path]
    skd += ["--format", format, "--quant", quant, "--threads", str(threads)]
    ended = subprocess.run(skd, capture_output=True, text=True)
    return "" if ended.returncode == 0 else f"couldn't be exported: {ended.stderr.strip().splitlines()[-1]}"


if __name__ == "__main__":
    main()
