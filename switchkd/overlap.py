"""How much an answer has of a reference that is too long to be matched: words in common (F1), and in the same order (ROUGE-L).
Standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan

from switchkd.scoring import Paired, is_right, mean_interval, plain
from switchkd.vqa import normalise

EXACT, F1, ROUGE_L = "exact", "f1", "rouge-l"
# Words of the reference at the ninth decile up to which a measure is the usual one: an answer to a question, a phrase.
_SHORT, _PHRASE = 4, 20
# A word, or a sign of a script that leaves no spaces between words.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall of the words, each as often as it stands there (Rajpurkar et al. 2016, SQuAD), after
    VQA's normalisation; as exact match where that leaves no word of one of them."""
    said, meant = (words(text) for text in (answer, expected))
    return _harmonic((Counter(said) & Counter(meant)).total(), said, meant, answer, expected)


def rouge_l(answer: str, expected: str) -> float:
    """The same of the words of the longest common subsequence, articles kept (Lin 2004, ROUGE-L with β = 1)."""
    said, meant = (words(text, articles=True) for text in (answer, expected))
    return _harmonic(longest_common(said, meant), said, meant, answer, expected)


def words(text: str, *, articles: bool = False) -> list[str]:
    """Of a text after normalisation; ideographs and kana are a word each."""
    return _WORD.findall(normalise(plain(text), articles=articles))


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for one in first:
        before = row
        row = [0]
        for place, two in enumerate(second):
            row.append(before[place] + 1 if one == two else max(before[place + 1], row[place]))
    return row[-1]


def _harmonic(common: int, said: Sequence[str], meant: Sequence[str], answer: str, expected: str) -> float:
    if not said or not meant:
        return float(is_right(answer, expected))
    return 2 * common / (len(said) + len(meant))


MEASURES: dict[str, Callable[[str, str], float]] = {
    EXACT: lambda answer, expected: float(is_right(answer, expected)),
    F1: f1,
    ROUGE_L: rouge_l,
}


def usual_measure(references: Iterable[str]) -> str:
    """By how long nine tenths of the references are: "exact" up to 4 words, "f1" up to 20, else "rouge-l". Shorter ones among them
    lose nothing: of a single word the three say the same."""
    lengths = sorted(len(words(text, articles=True)) for text in references)
    length = lengths[9 * (len(lengths) - 1) // 10]
    return EXACT if length <= _SHORT else F1 if length <= _PHRASE else ROUGE_L


@dataclass(frozen=True)
class MeanScore:
    """A group of questions by a measure between 0 and 1; stands where `Score` does for right and wrong."""

    values: tuple[float, ...]

    @property
    def total(self) -> int:
        """Questions."""
        return len(self.values)

    @property
    def accuracy(self) -> float:
        """The mean; NaN for an empty group."""
        return mean_interval(self.values)[0] if self.values else float("nan")

    def interval(self) -> tuple[float, float]:
        """95 % by Student's t, within 0 and 1; all of that where there are fewer than two."""
        mean, half = mean_interval(self.values) if self.values else (0.0, float("nan"))
        return (0.0, 1.0) if isnan(half) else (max(0.0, mean - half), min(1.0, mean + half))


@dataclass(frozen=True)
class PairedMeans(Paired):
    """Two models by such a measure on the same questions. Lost and won are those where one scores higher, and the p-value is
    that of the sign test on them."""

    changes: tuple[float, ...] = ()  # second's minus first's score

    @property
    def difference(self) -> float:
        """Second's mean minus first's."""
        return mean_interval(self.changes)[0]

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Of the difference, 95 % by Student's t (`z` aside)."""
        mean, half = mean_interval(self.changes)
        return (-1.0, 1.0) if isnan(half) else (max(-1.0, mean - half), min(1.0, mean + half))


def pair_means(first: Sequence[float], second: Sequence[float]) -> PairedMeans:
    """Compares two models' scores of the same questions, in the same order."""
    changes = tuple(two - one for one, two in zip(first, second, strict=True))
    return PairedMeans(sum(each < 0 for each in changes), sum(each > 0 for each in changes), len(changes), changes)
