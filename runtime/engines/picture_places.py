"""Where pictures' embeddings stand in a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from switchkd.runtime.engines.sampler import Floats


def join_features(features: Sequence[Floats]) -> Floats | None:
    """Several pictures' embeddings [P, W] as [I·P, W], in their order; None for no picture."""
    if len(features) > 1:
        return np.concatenate(features)
    return features[0] if features else None


def picture_places(ids: Sequence[int], image_token_id: int, features: Floats | None) -> NDArray[np.bool_]:
    """Which of a prompt's tokens are a picture's: [T].

    Args:
        ids: the prompt [T].
        features: the pictures' embeddings [I·P, W], or None for text alone.

    Raises:
        ValueError: there aren't as many image tokens as features.
    """
    places: NDArray[np.bool_] = np.asarray(ids) == image_token_id
    count = 0 if features is None else len(features)
    if int(places.sum()) != count:
        raise ValueError(f"{count} features need as many image tokens, not {int(places.sum())}")
    return places


def cut(ids: Sequence[int], image_token_id: int, features: Floats | None) -> Iterator[list[int] | Floats]:
    """A prompt in pieces: token ids where it is text, embeddings [n, W] where pictures stand. Arguments and errors as above."""
    places = picture_places(ids, image_token_id, features)
    bounds = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(ids)]
    used = 0
    for start, end in pairwise(bounds):
        if features is not None and places[start]:
            yield features[used : used + end - start]
            used += end - start
        elif end > start:
            yield list(ids[start:end])
