"""Which questions to show of many, so that no model is flattered. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from switchkd.data.questions import Question

Pattern = tuple[bool, ...]  # which models answer a question right


def choose(questions: Sequence[Question], patterns: Sequence[Pattern], number: int) -> list[int]:
    """Questions to show: going round the patterns, most frequent first, each time the first question of that pattern
    about pictures that aren't shown yet, of the kind shown least.

    Args:
        patterns: one for each question.

    Returns:
        At most `number` indices, no picture twice.
    """
    counts = Counter(patterns)
    order = sorted(counts, key=lambda pattern: (-counts[pattern], pattern))
    chosen: list[int] = []
    for _ in range(number):
        for pattern in order:
            pictures = {path for index in chosen for path in questions[index].images}
            kinds = Counter(questions[index].kind for index in chosen)
            new = [bool(each.images) and pictures.isdisjoint(each.images) for each in questions]
            left = [i for i, p in enumerate(patterns) if p == pattern and new[i]]
            if left and len(chosen) < number:
                chosen.append(min(left, key=lambda index: (kinds[questions[index].kind], index)))
    return chosen
