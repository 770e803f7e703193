"""How an answer's tokens are drawn from the model's logits: the settings, with their ranges. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any


def _setting(default: float, low: float, high: float, help: str, *, open_low: bool = False) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "open_low": open_low, "help": help})


@dataclass(frozen=True)
class Sampling:
    """Settings of one answer, named as OpenAI's API and transformers have them. Without a temperature the most probable
    token is taken each time. They take effect in the fields' order, as in transformers.

    Raises:
        ValueError: a setting outside its range; the text says which.
    """

    repetition_penalty: float = _setting(
        1.0, 0, 1e3, "Divides the score of what was read or said already; 1: off.", open_low=True
    )
    frequency_penalty: float = _setting(
        0.0, -2, 2, "Taken from a token's score for each time that it was said; 0: off."
    )
    presence_penalty: float = _setting(0.0, -2, 2, "Taken from a token's score once it was said; 0: off.")
    temperature: float = _setting(0.0, 0, 100, "Draw tokens by chance, the more evenly the higher; 0: the best one.")
    top_k: int = _setting(0, 0, 1e9, "Draw from this many best tokens; 0: from all.")
    top_p: float = _setting(1.0, 0, 1, "Draw from the best tokens that together are this probable.", open_low=True)
    min_p: float = _setting(0.0, 0, 1, "Draw from tokens at least this probable, measured on the best one.")
    seed: int | None = None  # the same seed draws the same answer; None: another one each time

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            value, metadata = getattr(self, setting.name), setting.metadata
            low, high = metadata["low"], metadata["high"]
            if not (low < value or (value == low and not metadata["open_low"])) or value > high:
                above = "above" if metadata["open_low"] else "from"
                raise ValueError(f"'{setting.name}' is a number {above} {low:g} to {high:g}.")

    @property
    def greedy(self) -> bool:
        """Whether it is the logits' largest that is taken each time."""
        return self.temperature == 0 and not self.penalizes

    @property
    def penalizes(self) -> bool:
        """Whether tokens that were there already are scored otherwise."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)

    def numbered(self, index: int) -> Sampling:
        """The settings of another answer to the same prompt: 0 is this one, others draw with seeds of their own."""
        return self if self.seed is None or index == 0 else replace(self, seed=self.seed + (index << 64))


SETTINGS = tuple(setting for setting in fields(Sampling) if setting.metadata)  # all but the seed
GREEDY = Sampling()
