"""Scoring answers: exact match, accuracy by question kind, intervals. Standard library only."""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from switchkd.vqa import normalise

# Signs that keyboards and languages write in several ways: typographic quotes, full-width letters and digits, the ideographic
# full stop and comma. VQA's rules know the plain ones alone.
_PLAIN_SIGNS = {
    **dict.fromkeys(map(ord, "‘’‚‛ʼ′"), "'"),
    **dict.fromkeys(map(ord, "“”„‟″«»"), '"'),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **{0x3000: " ", ord("。"): ".", ord("｡"): ".", ord("、"): ",", ord("､"): ","},
}


def plain(answer: str) -> str:
    """An answer in NFC, with plain quotes, full stops and commas and no full-width letters; other signs stay as they are."""
    return unicodedata.normalize("NFC", answer).translate(_PLAIN_SIGNS)


def is_right(answer: str, expected: str) -> bool:
    """Exact match after VQA's normalisation of both in `plain` signs, see `switchkd.vqa.normalise`.

    Where it leaves nothing of one of them ("A", "the", "?"), articles are kept; where that leaves nothing either, only
    surrounding white space and capitals don't count. Otherwise an empty answer would be right wherever "A" is expected.
    """
    answer, expected = plain(answer), plain(expected)
    forms: tuple[Callable[[str], str], ...] = (normalise, partial(normalise, articles=True))
    for form in forms:
        said, meant = form(answer), form(expected)
        if said and meant:
            return said == meant
    return answer.strip().lower() == expected.strip().lower()


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


# Two-sided 95 % quantiles of Student's t by degrees of freedom, 1 to 30; beyond, the normal's is close enough.
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval by Student's t); the half width of fewer than two values is NaN."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    freedom = len(values) - 1
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / freedom)
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else 1.959964
    return mean, quantile * deviation / math.sqrt(len(values))


@dataclass(frozen=True)
class Paired:
    """Two models on the same questions."""

    only_first: int  # questions that only the first answered right
    only_second: int  # that only the second did
    total: int

    @property
    def difference(self) -> float:
        """Second's accuracy minus first's."""
        return (self.only_second - self.only_first) / self.total

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Interval of the difference, 95 % by default: Wald's with one more question in each discordant cell
        (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions")."""
        first, second = ((count + 1) / (self.total + 2) for count in (self.only_first, self.only_second))
        half = z * math.sqrt((first + second - (second - first) ** 2) / (self.total + 2))
        return max(-1.0, second - first - half), min(1.0, second - first + half)

    def questions_for(self, distance: float) -> int:
        """About how many questions would tell the difference from a value so far from it (share, not 0), with the usual 95 % and
        in 80 % of all such tests, if the two go on disagreeing as often (Connor 1987, with the counts that `interval` takes)."""
        first, second = ((count + 1) / (self.total + 2) for count in (self.only_first, self.only_second))
        return math.ceil((1.959964 + 0.841621) ** 2 * (first + second - (second - first) ** 2) / distance**2)

    @property
    def p_value(self) -> float:
        """McNemar's exact two-sided test: whether both err equally often (binomial over the discordant questions)."""
        discordant = self.only_first + self.only_second
        tail = sum(math.comb(discordant, k) for k in range(min(self.only_first, self.only_second) + 1))
        return min(1.0, 2 * tail / 2**discordant)


def pair(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compares two models' right answers to the same questions, in the same order."""
    both = list(zip(first, second, strict=True))
    return Paired(
        only_first=sum(one and not two for one, two in both),
        only_second=sum(two and not one for one, two in both),
        total=len(both),
    )
