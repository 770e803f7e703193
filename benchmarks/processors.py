"""What variants say here, and whether other computers say the same; used by processors.sh, runs wherever the runtime runs.

python benchmarks/processors.py answer VARIANT… --out here [--data QUESTIONS --images FOLDER]
python benchmarks/processors.py compare here there…

`answer` writes one file a variant: greedy tokens, how far ahead each was, the pictures' features and the first logits. What skd
refuses with a line is written down instead. `compare` prints a Markdown table and ends with 1 where there is neither, where a token
differs that wasn't nearly tied, or where the first logits differ by more than rounding.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from switchkd.errors import SkdError
from switchkd.pictures import open_image
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.opening import open_engine

Asked = tuple[list[dict[str, Any]], list[Image.Image]]  # messages, pictures

TEXTS = ("what is this ?", "how many cars are there ?", "is it day or night ?", "what does the sign say ?")
MOST_DIVERGENCE = 1e-4  # nats, mean; clipped int8 sums made seven times as much (docs/results/processors.md)
NEAR_TIE = 0.05  # of the row's standard deviation: less than this ahead, and rounding may decide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    answer = commands.add_parser("answer")
    answer.add_argument("variants", nargs="+", type=Path)
    answer.add_argument("--out", type=Path, required=True)
    answer.add_argument("--data", type=Path, help="LLaVA JSON of questions; default: made-up pictures")
    answer.add_argument("--images", type=Path, help="its picture folder; default: images/ beside it")
    answer.add_argument("--count", type=int, default=8, help="questions")
    answer.add_argument("--tokens", type=int, default=16, help="tokens of an answer")
    compare = commands.add_parser("compare")
    compare.add_argument("here", type=Path)
    compare.add_argument("there", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "compare":
        sys.exit(not compare_all(options.here, options.there))
    options.out.mkdir(parents=True, exist_ok=True)
    asked = questions(options.data, options.images, options.count)
    for variant in options.variants:
        try:
            with open_engine(variant, threads=1) as engine:
                found: dict[str, Any] = answers(engine, asked, options.tokens)
                np.savez(options.out / f"{variant.name}.npz", **found)
        except SkdError as error:
            (options.out / f"{variant.name}.txt").write_text(str(error))


def questions(data: Path | None, images: Path | None, count: int) -> list[Asked]:
    """(messages, pictures): of the file, spread evenly, or made up."""
    if data is not None:
        from switchkd.data.questions import read_questions

        read = read_questions(data, images or data.parent / "images")
        spread = [read[index * len(read) // count] for index in range(min(count, len(read)))]
        return [(question.messages, [*map(open_image, question.images)]) for question in spread]
    made_up: list[Asked] = []
    for seed in range(count):
        cells = np.random.default_rng(seed).integers(0, 256, (3 + seed, 5 + seed, 3), dtype=np.uint8)
        image = Image.fromarray(cells).resize((320, 240), Image.Resampling.BICUBIC)
        parts = [{"type": "image"}, {"type": "text", "text": TEXTS[seed % len(TEXTS)]}]
        made_up.append(([{"role": "user", "content": parts}], [image]))
    return made_up


def answers(engine: Engine, asked: list[Asked], count: int) -> dict[str, NDArray]:
    """tokens [Q, A] (-1 after the end), lead [Q, A], features [Q, P, W], logits [Q, V] of the first tokens, seconds."""
    tokens = np.full((len(asked), count), -1, np.int64)
    lead = np.zeros((len(asked), count), np.float32)
    features, logits = [], []
    start = time.perf_counter()
    for number, (messages, images) in enumerate(asked):
        seen = engine.encode_images(images)
        if seen is not None:
            features.append(seen)
        row = engine.prefill(engine.encode_prompt(messages), seen)
        logits.append(row)
        for place in range(count):
            second, first = np.partition(row, -2)[-2:]
            tokens[number, place], lead[number, place] = row.argmax(), (first - second) / row.std()
            if tokens[number, place] in engine.end_tokens or place + 1 == count:
                break
            row = engine.next_token(int(tokens[number, place]))
    seconds = (time.perf_counter() - start) / len(asked)
    return {
        "tokens": tokens,
        "lead": lead,
        "features": np.array(features),
        "logits": np.array(logits),
        "seconds": np.array(seconds),
    }


def compare_all(here: Path, there: list[Path]) -> bool:
    """Prints the table; whether all tokens are equal but for near ties, and all logits but for rounding."""
    print(
        "| variant | processor | tokens equal | near ties | features, error | logits, error | KL, nats | s a question |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    fine = True
    for path in sorted(here.glob("*.npz")):
        one = np.load(path)
        print(f"| {path.stem} | {here.name} | {int((one['tokens'] >= 0).sum())} | | | | | {one['seconds']:.2f} |")
        for folder in there:
            row, same = compare_one(one, folder / path.name)
            print(f"| | {folder.name} | {row} |")
            fine &= same
    return fine


def compare_one(one: Mapping[str, NDArray], there: Path) -> tuple[str, bool]:
    """The rest of a row, and whether all is well: also where skd itself says in a line that it can't run there."""
    if not there.exists():
        refusal = there.with_suffix(".txt")
        return (
            (f"refused: {refusal.read_text()} | | | | | ", True) if refusal.exists() else ("crashed | | | | | ", False)
        )
    other = np.load(there)
    equal, ties, differ = compare(one, other)
    errors = (f"{error(one[name], other[name]):.1e}" if one[name].size else "" for name in ("features", "logits"))
    apart = divergence(one["logits"], other["logits"])
    shown = f"{equal}/{equal + ties + differ} | {ties} | {' | '.join(errors)} | {apart:.1e} | {other['seconds']:.2f}"
    return shown, not differ and apart < MOST_DIVERGENCE


def divergence(one: NDArray, other: NDArray) -> float:
    """Mean KL divergence of the first tokens' distributions, [Q, V] logits each, in nats."""
    mine, yours = (logits - logits.max(-1, keepdims=True) for logits in (one.astype(float), other.astype(float)))
    mine, yours = (logs - np.log(np.exp(logs).sum(-1, keepdims=True)) for logs in (mine, yours))
    return float((np.exp(mine) * (mine - yours)).sum(-1).mean())


def compare(one: Mapping[str, NDArray], other: Mapping[str, NDArray]) -> tuple[int, int, int]:
    """Tokens equal, near ties that fell the other way, real differences; nothing is compared behind either of them."""
    equal = ties = differ = 0
    for mine, yours, lead in zip(one["tokens"], other["tokens"], one["lead"], strict=True):
        for place in range(int((mine >= 0).sum())):
            if mine[place] != yours[place]:
                near = lead[place] < NEAR_TIE
                ties, differ = ties + near, differ + (not near)
                break
            equal += 1
    return equal, int(ties), int(differ)


def error(one: NDArray, other: NDArray) -> float:
    """‖other − one‖ / ‖one‖."""
    return float(np.linalg.norm(other - one) / np.linalg.norm(one))


if __name__ == "__main__":
    main()
