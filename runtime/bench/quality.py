"""How good a variant's answers are: accuracy with its interval, the difference to the reference, and how far apart their
next-token distributions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from switchkd.data.questions import Question
from switchkd.runtime.bench.divergence import summarise_divergence
from switchkd.scoring import Score, is_right, pair, score_by_kind


@dataclass
class Divergences:
    """Next-token distributions against the reference's along the reference's answers, with the pictures."""

    # Question number → KL(reference ‖ variant) in nats, and whether the first choice is the same, of each position.
    by_question: dict[int, tuple[list[float], list[bool]]] = field(default_factory=dict)
    reason: str = ""  # why there is nothing to compare

    def add(self, question: int, comparison: Mapping[str, Any]) -> None:
        """What `Worker.compare` returned for a question."""
        if comparison["kl"] is None:
            self.reason = "another vocabulary"
            return
        self.by_question[question] = (comparison["kl"], comparison["same"])

    def leave_out(self, question: int) -> None:
        """What can't be asked of another variant doesn't count."""
        self.by_question.pop(question, None)

    def end(self, reason: str) -> None:
        """No comparison follows: tells why there is none, unless there is one or it is told already."""
        if not self.by_question:
            self.reason = self.reason or reason

    def summary(self) -> dict[str, Any] | None:
        """As `summarise_divergence`, with "questions"; None without any."""
        kl = [value for values, _ in self.by_question.values() for value in values]
        same = [value for _, values in self.by_question.values() for value in values]
        if not kl:
            return None
        return summarise_divergence(kl, same) | {"questions": len(self.by_question)}


def right_answers(questions: Sequence[Question], answers: Mapping[int, str]) -> dict[int, bool]:
    """Question number → whether it was answered right (exact match after VQA's normalisation)."""
    return {index: is_right(answer, questions[index].answer) for index, answer in answers.items()}


def accuracy(questions: Sequence[Question], right: Mapping[int, bool]) -> dict[str, Any]:
    """ "all" and each question kind: "right", "total", "accuracy", "interval" (Wilson's, 95 %)."""
    scores = score_by_kind([questions[index].kind for index in right], right.values())
    return {kind: _plain(score) for kind, score in scores.items() if score.total}


def difference(reference: Mapping[int, bool], right: Mapping[int, bool]) -> dict[str, Any] | None:
    """Against the reference on the questions that both answered: "accuracy" (variant's minus reference's), "lost" and
    "won" (questions that only one of them answered right), "total", "p_value" (McNemar's exact test); None without any."""
    both = sorted(reference.keys() & right.keys())
    if not both:
        return None
    paired = pair([reference[index] for index in both], [right[index] for index in both])
    return {
        "accuracy": paired.difference,
        "lost": paired.only_first,
        "won": paired.only_second,
        "total": paired.total,
        "p_value": paired.p_value,
    }


def compare_pairs(right: Mapping[str, Mapping[int, bool]]) -> list[dict[str, Any]]:
    """Every two variants on the questions that both answered; pairs without any are left out.

    Args:
        right: variant → question number → whether it answered right.

    Returns:
        "first", "second"; "both", "first_only", "second_only", "neither": questions; "total"; "difference" (second's accuracy
        minus first's), its "interval" (95 %), "p_value" (McNemar's exact test), "questions_to_tell": about how many would tell a
        difference as large as this one, None where it is 0.
    """
    found = []
    for first, second in combinations(right, 2):
        both = sorted(right[first].keys() & right[second].keys())
        if not both:
            continue
        one, two = ([right[name][index] for index in both] for name in (first, second))
        paired = pair(one, two)
        agreed = sum(map(min, one, two))
        found.append(
            {
                "first": first,
                "second": second,
                "both": agreed,
                "first_only": paired.only_first,
                "second_only": paired.only_second,
                "neither": paired.total - agreed - paired.only_first - paired.only_second,
                "total": paired.total,
                "difference": paired.difference,
                "interval": list(paired.interval()),
                "p_value": paired.p_value,
                "questions_to_tell": paired.questions_for(paired.difference) if paired.difference else None,
            }
        )
    return found


def agreement(reference: Mapping[int, str], answers: Mapping[int, str]) -> float | None:
    """Share of the questions that a variant answers with the reference's very words, after normalisation."""
    both = sorted(reference.keys() & answers.keys())
    return sum(is_right(answers[index], reference[index]) for index in both) / len(both) if both else None


def _plain(score: Score) -> dict[str, Any]:
    return {
        "right": score.right,
        "total": score.total,
        "accuracy": score.accuracy,
        "interval": list(score.interval()),
    }
