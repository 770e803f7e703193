"""How fast engines are beside one another: in one process, taking turns, so that what else the machine does hits all alike.

What other programs here share. `skd bench` asks a data set's questions of one process a variant; this is the quick look at one
request of a fixed size.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from switchkd.errors import DataError
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.idling import wait_until_idle

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
            wait_until_idle()
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
