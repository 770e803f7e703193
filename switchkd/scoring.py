"""Scoring answers: normalisation, accuracy by question kind, intervals. Standard library only."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_ARTICLES = {"a", "an", "the"}
_NUMBERS = "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905 - reads better than a list
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_PUNCTUATION = re.compile(r"(?<!\d)[.,](?!\d)|[;/\[\]\"{}()=+\\_><@`?!]|(?<=\d),(?=\d{3})")


def normalise(answer: str) -> str:
    """An answer as VQA's official evaluation compares it: lower case, no articles, no punctuation, digits for words."""
    words = _PUNCTUATION.sub("", answer.lower().replace("\n", " ").replace("\t", " ")).split()
    return " ".join(_NUMBER_WORDS.get(word, word) for word in words if word not in _ARTICLES)


@dataclass(frozen=True)
class Score:
    """How many of a group of questions were answered right."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN for an empty group."""
        return self.right / self.total if self.total else math.nan

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Wilson's score interval of the accuracy, 95 % by default (Wilson 1927)."""
        if not self.total:
            return math.nan, math.nan
        n, p = self.total, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


def score_by_kind(kinds: Iterable[str], right: Iterable[bool]) -> dict[str, Score]:
    """Scores of each question kind, in order of name, and of all together under "all"."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for kind, is_right in zip(kinds, right, strict=True):
        groups[kind].append(bool(is_right))
    scores = {kind: Score(sum(group), len(group)) for kind, group in sorted(groups.items())}
    everything = [is_right for group in groups.values() for is_right in group]
    return scores | {"all": Score(sum(everything), len(everything))}
