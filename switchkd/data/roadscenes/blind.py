"""How far one gets without looking: the score of answering by habit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from switchkd.data.habits import answer_by_habit

from .questions import Question


class BlindScore(NamedTuple):
    """Shares of right answers, 0 to 1."""

    overall: float
    by_kind: dict[str, float]


def blind_accuracy(train: Iterable[Question], test: Iterable[Question]) -> BlindScore:
    """Answers each test question with the most frequent training answer to the same text, or to the same kind where
    the text is new. Nothing to test gives 0 and no kinds."""
    test = list(test)
    habits = ((question.kind, question.text, question.answer) for question in train)
    guesses = answer_by_habit(habits, ((question.kind, question.text) for question in test))
    asked: Counter[str] = Counter(question.kind for question in test)
    right: Counter[str] = Counter()
    for question, guess in zip(test, guesses, strict=True):
        right[question.kind] += guess == question.answer
    overall = right.total() / asked.total() if asked else 0.0
    return BlindScore(overall, {kind: right[kind] / asked[kind] for kind in sorted(asked)})
