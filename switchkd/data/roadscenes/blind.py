"""How far one gets without looking: the score of answering by habit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from .questions import Question


class BlindScore(NamedTuple):
    """Shares of right answers, 0 to 1."""

    overall: float
    by_kind: dict[str, float]


def blind_accuracy(train: Iterable[Question], test: Iterable[Question]) -> BlindScore:
    """Answers each test question with the most frequent training answer to the same text, or to the same kind where
    the text is new. Nothing to test gives 0 and no kinds."""
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        by_text[question.text][question.answer] += 1
        by_kind[question.kind][question.answer] += 1
    habit_of_text = {text: _most_frequent(answers) for text, answers in by_text.items()}
    habit_of_kind = {kind: _most_frequent(answers) for kind, answers in by_kind.items()}

    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for question in test:
        guess = habit_of_text.get(question.text, habit_of_kind.get(question.kind))
        asked[question.kind] += 1
        right[question.kind] += guess == question.answer
    overall = right.total() / asked.total() if asked else 0.0
    return BlindScore(overall, {kind: right[kind] / asked[kind] for kind in sorted(asked)})


def _most_frequent(answers: Counter[str]) -> str:
    return min(answers, key=lambda answer: (-answers[answer], answer))
