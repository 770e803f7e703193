"""A question with its answer as it was where a package was made: what a device's answer is held to before it switches.

question.json in a package, signed like the rest: a small picture as plain pixels, so that no decoder's version matters, a
question, and the answer's first tokens.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from switchkd.errors import SkdError
from switchkd.runtime.packages.format import QUESTION, PackageError
from switchkd.runtime.packages.reader import read_small

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from switchkd.runtime.engines.engine import Engine

_SCHEMA = 1
_MAX = 1 << 16  # bytes
_SIDE = 32  # pixels
_PROMPT = "What is in the picture?"
_TOKENS = 8  # of the answer, its end included
# Of the logits' standard deviation: less than this ahead, and rounding on another processor may decide (docs/processors.md).
_NEAR_TIE = 0.05


@dataclass(frozen=True)
class KnownQuestion:
    """A picture, a question, and what was answered."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    prompt: str
    tokens: list[int]  # greedy, as they began
    near_tie: float  # how far another token may be ahead, in standard deviations of the logits

    @classmethod
    def asked(cls, engine: Engine) -> KnownQuestion:
        """The question with this engine's answer. Raises SkdError where that isn't made of numbers."""
        question = cls(_street(), _PROMPT, [], _NEAR_TIE)
        ids, features = question._encoded(engine)
        row = engine.prefill(ids, features)
        while True:
            if not np.isfinite(row).all():
                raise SkdError(f"{engine.name} computes values that aren't finite; nothing is packed.")
            question.tokens.append(int(row.argmax()))
            if len(question.tokens) == _TOKENS or question.tokens[-1] in engine.end_tokens:
                return question
            row = engine.next_token(question.tokens[-1])

    def hold(self, engine: Engine) -> None:
        """Asks an engine. Raises SkdError where it answers otherwise, near ties left out."""
        ids, features = self._encoded(engine)
        for place, (token, row) in enumerate(zip(self.tokens, engine.follow(ids, self.tokens, features), strict=True)):
            lead = float(row.max() - row[token]) if token < len(row) else np.inf
            if not lead <= self.near_tie * float(row.std()):
                said, wanted = (engine.prompt.decode([each]) for each in (int(row.argmax()), token))
                raise SkdError(
                    f"It answers otherwise than where it was packed: token {place + 1} is {said!r}, not {wanted!r}."
                )

    def to_bytes(self) -> bytes:
        """question.json."""
        height, width, _ = self.pixels.shape
        picture = {"width": width, "height": height, "rgb": b64encode(self.pixels.tobytes()).decode("ascii")}
        value = {"schema": _SCHEMA, "prompt": self.prompt, "tokens": self.tokens, "near_tie": self.near_tie}
        return (json.dumps({**value, "picture": picture}, indent=1) + "\n").encode("ascii")

    @classmethod
    def load(cls, release: Path) -> KnownQuestion:
        """That of an installed release. Raises PackageError where it can't be read."""
        try:
            value = json.loads(read_small(release / QUESTION, _MAX))
            if value["schema"] > _SCHEMA:
                raise PackageError(
                    f"{QUESTION} has schema {value['schema']}, newer than {_SCHEMA}, which this skd reads: update it."
                )
            shape = (value["picture"]["height"], value["picture"]["width"], 3)
            pixels = np.frombuffer(b64decode(value["picture"]["rgb"]), np.uint8).reshape(shape)
            tokens = [int(each) for each in value["tokens"]]
            if min(tokens) < 0:
                raise ValueError
            return cls(pixels, str(value["prompt"]), tokens, float(value["near_tie"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PackageError(f"{release / QUESTION} is torn: {type(error).__name__}.") from error

    def _encoded(self, engine: Engine) -> tuple[list[int], NDArray[np.float32]]:
        """The prompt's ids and the picture's features [P, W]."""
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]}]
        return engine.encode_prompt(messages), engine.encode_image(Image.fromarray(self.pixels))


def _street() -> NDArray[np.uint8]:
    """A sky that grows lighter downwards, a grey road, a red car on it: [H, W, 3]."""
    pixels = np.empty((_SIDE, _SIDE, 3), np.uint8)
    sky = np.arange(_SIDE, dtype=np.uint8)[:, None] * 3
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 90 + sky, 140 + sky, 255
    pixels[_SIDE * 5 // 8 :] = 95
    pixels[_SIDE // 2 : _SIDE * 3 // 4, _SIDE // 4 : _SIDE * 5 // 8] = (200, 30, 30)
    return pixels
