"""What models with random weights say, where rounding must not decide."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from support.llava_models import picture, question
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.engines.engine import Engine

# What rounding may cost these models, in nats of the next word. Their logits spread by 0.6; some twenty products in a row,
# each wrong by a hundredth (8 bits) or a tenth (4 bits), make them wrong by a thirtieth or a third of that, and half its
# square is 2e-4 or 0.02 nats. Between five and ten times that is allowed; a scale or an offset that is wrong costs more.
# In 16 bits a product is wrong by a thousandth at most, in float32 by a millionth.
LIMITS = {"fp32": 1e-8, "fp16": 1e-5, "q8": 2e-3, "q4": 0.1}
# A lead in logits: what 16 bits move them by is a tenth of it.
SURE = 0.02
TEXT = "how many cars ?"


def first_tokens(engine: Engine, image: Image.Image, count: int = 8, text: str = TEXT) -> list[int]:
    """Whatever it says first, its end token included."""
    engine.end_tokens = frozenset()
    return list(engine.tokens(engine.encode_prompt(question(text)), engine.encode_image(image), max_new_tokens=count))


def assert_says_the_same(
    engine: Engine, reference: Engine, image: Image.Image, *, error: float, count: int = 8
) -> None:
    """Greedily both say the same, up to where the reference itself wavers between words that rounding can swap.

    Args:
        error: largest relative error of the logits after a token, ‖x − reference‖ / ‖reference‖.
    """
    said, expected = first_tokens(engine, image, count), first_tokens(reference, image, count)
    assert len(said) == len(expected) == count
    ours, theirs = (logits_along(each, image, expected) for each in (engine, reference))  # [count, V] each
    errors = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert errors.max() <= error, errors
    if said != expected:
        first = next(place for place in range(count) if said[place] != expected[place])
        lead = theirs[first].max() - theirs[first, said[first]]
        assert lead <= 2 * np.abs(ours[first] - theirs[first]).max(), (first, said, expected)


def mean_divergence(engine: Engine, reference: Engine, image: Image.Image, count: int = 8) -> float:
    """KL(reference ‖ engine) in nats of the next word, the mean along the reference's own words."""
    answer = first_tokens(reference, image, count)
    ours, theirs = (logits_along(each, image, answer) for each in (engine, reference))
    return float(divergence(theirs, ours).mean())


def logits_along(engine: Engine, image: Image.Image, answer: list[int], text: str = TEXT) -> Any:
    """What it would say after the question and after each word of an answer but the last [A, V]."""
    rows = [engine.prefill(engine.encode_prompt(question(text)), engine.encode_image(image))]
    return np.stack(rows + [engine.next_token(token) for token in answer[:-1]])


def sure_picture(engine: Engine, tokens: int, text: str = TEXT, number: int = 0) -> Image.Image:
    """Another picture for each number, in whose answer no two words come close: whoever computes in another order (more
    threads, another cut of the prompt, an unquantized export) says the same."""
    ends = engine.end_tokens
    for seed in range(number, number + 5000, 100):
        answer = first_tokens(engine, picture(seed), tokens, text)
        best = np.sort(logits_along(engine, picture(seed), answer, text), axis=1)[:, -2:]  # [tokens, 2]
        engine.end_tokens = ends
        if (best[:, 1] - best[:, 0]).min() > SURE:
            return picture(seed)
    raise AssertionError("this model is never sure")
