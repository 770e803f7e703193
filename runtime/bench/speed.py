"""How fast engines are beside one another: in one process, taking turns, so that what else the machine does hits all alike.

`skd bench` asks a data set's questions of one process a variant; this is the quick look at one request of a fixed size.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from switchkd.errors import DataError
from switchkd.manifest import FILE_NAME, Manifest, ManifestError
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.idling import rest

TEXT_TOKENS = 32  # of the prompt, beside the picture
PHASES = ("encode", "prefill", "first_token", "decode")

Seconds = dict[str, list[float]]  # phase → a figure for each round


def take_turns(engines: Mapping[str, Engine], *, tokens: int) -> Iterator[dict[str, Seconds]]:
    """Asks every engine once a round, in an order that changes; the first round warms up and isn't counted.

    Args:
        engines: name → engine.
        tokens: decoded in each request.

    Yields:
        After each counted round, for as long as the caller likes: name → all its seconds so far ("decode": a token's).
    """
    times: dict[str, Seconds] = {name: defaultdict(list) for name in engines}
    order, pixels = random.Random(0), np.random.default_rng(0)
    warm = False
    while True:
        picture = Image.fromarray(pixels.integers(0, 256, (300, 400, 3), dtype=np.uint8))
        for name in order.sample(list(engines), len(engines)):
            figures = time_request(engines[name], picture, tokens)
            rest()
            for phase in PHASES if warm else ():
                times[name][phase].append(figures[phase])
        if warm:
            yield times
        warm = True


def time_request(engine: Engine, picture: Image.Image, tokens: int) -> dict[str, float]:
    """Seconds by phase of one picture, a prompt of it and `TEXT_TOKENS`, and a fixed number of tokens.

    Raises:
        DataError: the model's context has no room for them.
    """
    features = engine.encode_image(picture)
    text = (engine.prompt.image_token_id + 1) % engine.prompt.length  # any other token
    ids = [text] * 4 + [engine.prompt.image_token_id] * len(features) + [text] * (TEXT_TOKENS - 4)
    if len(ids) + tokens > engine.language.context:
        raise DataError(f"A context of {engine.language.context} has no room for {len(ids)} + {tokens} tokens.")
    token = int(engine.prefill(ids, features).argmax())
    start = time.perf_counter()
    for _ in range(tokens):
        token = int(engine.next_token(token).argmax())
    decode = (time.perf_counter() - start) / tokens
    timings = engine.timings
    return {
        "encode": timings.encode,
        "prefill": timings.prefill,
        "first_token": timings.first_token,
        "decode": decode,
    }


def medians(times: Mapping[str, Seconds]) -> dict[str, dict[str, float]]:
    """Name → phase → median seconds."""
    return {name: {phase: statistics.median(each) for phase, each in phases.items()} for name, phases in times.items()}


def siblings(folder: Path) -> dict[str, Manifest]:
    """An export and those beside it that it can be compared with: of the same checkpoint, their speed measured on the
    same processor with as many threads.

    Returns:
        Folder name → manifest, by name; damaged ones are left out, and all where `folder` itself wasn't measured.

    Raises:
        ManifestError: `folder` is no export, or damaged.
    """
    own = Manifest.load(folder, verify=False)
    found: dict[str, Manifest] = {}
    for path in sorted(folder.resolve().parent.glob(f"*/{FILE_NAME}")):
        with suppress(ManifestError):
            found[path.parent.name] = Manifest.load(path.parent, verify=False)
    return {name: other for name, other in found.items() if own.measured and _place(other) == _place(own)}


def strengths(variants: Mapping[str, Manifest]) -> dict[str, list[str]]:
    """What each of several comparable exports is best at, by what was measured when it was made.

    Times are compared as ratios to the checkpoint's in the same run, which evens out how busy the machine was.

    Args:
        variants: as from `siblings`.

    Returns:
        Name → those of "first token", "tokens after it", "size" and "closeness" (mean KL divergence from the checkpoint)
        in which nothing beats it by more than 5 %, about what such times differ by anyway; empty for a single export.
    """
    found: dict[str, list[str]] = {name: [] for name in variants}
    for what, figure in _FIGURES.items() if len(variants) > 1 else ():
        figures = {name: figure(manifest) for name, manifest in variants.items()}
        for name, value in figures.items():
            if value <= _TIE * min(figures.values()):
                found[name].append(what)
    return found


_TIE = 1.05
_FIGURES: dict[str, Callable[[Manifest], float]] = {
    "first token": lambda manifest: manifest.measured["to_checkpoint"]["first_token"],
    "tokens after it": lambda manifest: manifest.measured["to_checkpoint"]["decode"],
    "size": lambda manifest: manifest.size,
    "closeness": lambda manifest: _closeness(manifest.parity),
}


def _closeness(parity: Mapping[str, Any]) -> float:
    """The largest mean KL of what an export was judged by; older ones by their answers alone."""
    judged = parity.get("judged", {}).values()
    return max((verdict["kl_mean"] for verdict in judged), default=parity["loss"]["kl_mean"])


def _place(manifest: Manifest) -> tuple[Any, ...]:
    return manifest.source.sha256, manifest.measured.get("machine")
