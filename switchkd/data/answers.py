"""Answers to test questions: asked batch by batch, scored, kept as JSON. No torch."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from switchkd.data.questions import Question
from switchkd.errors import DataError
from switchkd.files import write_text
from switchkd.overlap import EXACT, MEASURES, MeanScore
from switchkd.prompt import ChatPrompt
from switchkd.scoring import Score, is_right, normalise, score_by_kind

_LEAST_TOKENS = 16


class Answers(Protocol):
    """Whatever answers questions: a checkpoint in PyTorch, an engine with an export."""

    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers, without special tokens, in the questions' order. Raises DataError where one can't be asked."""
        ...


class Counted:
    """Answers that come one at a time, of which those that a limit ended are counted.

    Args:
        ended: whether the last one ended by itself.
    """

    def __init__(self, model: Answers, ended: Callable[[], bool]) -> None:
        self._model, self._ended = model, ended
        self.cut = 0

    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """As the model's."""
        texts = []
        for question in questions:
            texts += self._model.answer([question], max_new_tokens=max_new_tokens)
            self.cut += not self._ended()
        return texts


def usual_limit(prompt: ChatPrompt, questions: Sequence[Question]) -> int:
    """Tokens for an answer: half as many again as the longest expected one has, and at least 16."""
    longest = max(len(prompt.encode_text(answer)) for answer in {question.answer for question in questions})
    return max(_LEAST_TOKENS, -(-3 * longest // 2))


Given = Sequence[str | None]  # answers in the questions' order; None where one couldn't be asked


def answer_all(
    model: Answers,
    questions: list[Question],
    console: Console,
    *,
    title: str,
    batch_size: int = 64,
    max_new_tokens: int = 16,
) -> list[str | None]:
    """Answers to all questions with a progress bar, batches of similar length together.

    A question that can't be asked (its picture is torn, it is too long) gets None and counts as wrong; a warning tells.

    Raises:
        DataError: none can be asked.
    """
    order = sorted(range(len(questions)), key=lambda index: len(str(questions[index].messages)))
    answers: list[str | None] = [None] * len(questions)
    failures: list[str] = []
    batches = list(_chunks(order, batch_size))
    hidden = not console.is_terminal
    for chunk in track(batches, description=escape(title), console=console, disable=hidden, transient=True):
        texts = _answer([questions[index] for index in chunk], model, max_new_tokens, failures)
        for index, text in zip(chunk, texts, strict=True):
            answers[index] = text
    if failures and len(failures) == len(questions):
        raise DataError(f"None of the {len(questions)} questions can be asked: {failures[0]}")
    if failures:
        console.print(
            f"[yellow]warning[/]: {len(failures)} of {len(questions)} questions couldn't be asked and count as wrong; "
            f"the first: {escape(failures[0])}"
        )
    return answers


def _answer(questions: list[Question], model: Answers, limit: int, failures: list[str]) -> list[str | None]:
    """A batch's answers; one that fails is halved until the questions that can't be asked stand alone."""
    try:
        return [*model.answer(questions, max_new_tokens=limit)]
    except DataError as error:
        if len(questions) == 1:
            failures.append(f"{questions[0].id}: {error}")
            return [None]
    half = len(questions) // 2
    return [
        *_answer(questions[:half], model, limit, failures),
        *_answer(questions[half:], model, limit, failures),
    ]


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def right_answers(questions: Sequence[Question], answers: Given) -> list[bool]:
    """Which answers match exactly after VQA's normalisation."""
    return [_is_right(answer, question.answer) for question, answer in zip(questions, answers, strict=True)]


def measure_answers(questions: Sequence[Question], answers: Given, measure: str) -> list[float]:
    """Each answer by one of `MEASURES`, 0 to 1; what couldn't be asked has 0."""
    compute = MEASURES[measure]
    return [
        0.0 if answer is None else compute(answer, question.answer)
        for question, answer in zip(questions, answers, strict=True)
    ]


def _is_right(answer: str | None, expected: str) -> bool:
    return answer is not None and is_right(answer, expected)


def score_answers(questions: Sequence[Question], answers: Given) -> dict[str, Score]:
    """Exact-match accuracy by kind after VQA's normalisation."""
    return score_by_kind([question.kind for question in questions], right_answers(questions, answers))


def mean_scores(questions: Sequence[Question], answers: Given, measure: str) -> dict[str, MeanScore]:
    """The mean of another measure by kind, and under "all"."""
    values = measure_answers(questions, answers, measure)
    groups: dict[str, list[float]] = defaultdict(list)
    for question, value in zip(questions, values, strict=True):
        groups[question.kind].append(value)
    return {kind: MeanScore(tuple(group)) for kind, group in sorted(groups.items())} | {"all": MeanScore(tuple(values))}


def dominant_answer(questions: Sequence[Question], answers: Given) -> tuple[str, int, int] | None:
    """An answer that at least half of the questions get, ten at least, and more than a quarter more than expect it:
    (the answer, how many get it, how many expect it)."""
    said = Counter(normalise(answer) for answer in answers if answer is not None)
    if not said:
        return None
    ((answer, count),) = said.most_common(1)
    expected = sum(normalise(question.answer) == answer for question in questions)
    if count < max(10, len(questions) / 2) or count <= 1.25 * expected:
        return None
    return answer, count, expected


def plain_scores(scores: Mapping[str, Score | MeanScore]) -> dict[str, Any]:
    """Scores as JSON has them: kind → "right", "total", "accuracy", "interval"; of another measure "mean" instead of "right"
    and "accuracy"."""
    return {
        kind: (
            {"right": score.right, "total": score.total, "accuracy": score.accuracy, "interval": score.interval()}
            if isinstance(score, Score)
            else {"total": score.total, "mean": score.accuracy, "interval": score.interval()}
        )
        for kind, score in scores.items()
    }


def plain_answers(
    questions: Sequence[Question], answers: Given, measure: str = EXACT, cut: int | None = None
) -> dict[str, Any]:
    """ "scores" by kind, under "unanswered" how many couldn't be asked, under "cut" how many ended at a limit (where counted), and
    under "answers" each question's id, kind, expected and given answer, with its score by another measure than exact match."""
    rows: list[dict[str, Any]] = [
        {"id": question.id, "kind": question.kind, "expected": question.answer, "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    ]
    scores: Mapping[str, Score | MeanScore] = score_answers(questions, answers)
    if measure != EXACT:
        scores = mean_scores(questions, answers, measure)
        values = measure_answers(questions, answers, measure)
        rows = [row | {"score": value} for row, value in zip(rows, values, strict=True)]
    counted = {} if cut is None else {"cut": cut}
    unanswered = sum(answer is None for answer in answers)
    plain = {"measure": measure, "scores": plain_scores(scores), "unanswered": unanswered}
    return plain | counted | {"answers": rows}


def write_answers(
    path: Path, questions: Sequence[Question], answers: Given, measure: str = EXACT, cut: int | None = None
) -> None:
    """Scores and every answer as JSON."""
    write_text(path, json.dumps(plain_answers(questions, answers, measure, cut), indent=1) + "\n")


def read_scores(path: Path) -> dict[str, Score]:
    """The scores that `write_answers` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))["scores"]
    return {kind: Score(entry["right"], entry["total"]) for kind, entry in plain.items()}


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_answers` wrote: id, kind, expected and answer (None: not asked), in the questions' order."""
    return json.loads(path.read_text(encoding="utf-8"))["answers"]


def read_right(path: Path) -> list[bool]:
    """Which questions were answered right, in the file's order."""
    return [_is_right(row["answer"], row["expected"]) for row in read_answers(path)]
