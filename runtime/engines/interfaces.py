"""What an engine's two parts do, whatever they run on: a vision encoder and a language model. Formats mix by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from switchkd.runtime.engines.sampler import Floats

DEFAULT_CONTEXT = 4096  # tokens of a prompt and its answer together
CPU = "cpu"  # the device that every engine runs on


class VisionEncoder(Protocol):
    """Pictures to the embeddings that stand for them in a prompt."""

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """Bytes [H, W, 3] of exactly the tower's size → projected tokens [P, W]."""
        ...

    def trace(self, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
        """The same, with every stage the format shows: some of "pixels" [3, H, W], "features" [P, W_v], always
        "projected" [P, W]. For checking, not for speed."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


class LanguageModel(Protocol):
    """A language model with its memory of one conversation."""

    context: int  # the most tokens it can hold

    def prefill(self, ids: Sequence[int], features: Floats | None = None, *, every: bool = False) -> Floats:
        """Forgets the last request, reads a prompt, returns next-token logits.

        Args:
            ids: token ids [T]; the image token stands P times where a picture is.
            features: the pictures' embeddings [I·P, W], in their order, or None for text alone.
            every: logits after each position instead of after the last.

        Returns:
            [V], or [T, V] with `every`.
        """
        ...

    def step(self, token: int) -> Floats:
        """Appends one token; next-token logits [V], which the next use of this part may overwrite."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first tokens of prompt and answer, as many as are given here; at most those in memory."""
        ...

    @property
    def reused(self) -> int:
        """How many of the last prompt's tokens were still in memory and not read again."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...
