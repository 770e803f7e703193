"""Answers to test questions: asked batch by batch, scored, kept as JSON. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from switchkd.data.questions import Question
from switchkd.errors import DataError
from switchkd.files import write_text
from switchkd.scoring import Score, is_right, score_by_kind


class Answers(Protocol):
    """Whatever answers questions: a checkpoint in PyTorch, an engine with an export."""

    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers, without special tokens, in the questions' order. Raises DataError where one can't be asked."""
        ...


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


def _is_right(answer: str | None, expected: str) -> bool:
    return answer is not None and is_right(answer, expected)


def score_answers(questions: Sequence[Question], answers: Given) -> dict[str, Score]:
    """Exact-match accuracy by kind after VQA's normalisation."""
    return score_by_kind([question.kind for question in questions], right_answers(questions, answers))


def plain_scores(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as JSON has them: kind → "right", "total", "accuracy", "interval"."""
    return {
        kind: {"right": score.right, "total": score.total, "accuracy": score.accuracy, "interval": score.interval()}
        for kind, score in scores.items()
    }


def plain_answers(questions: Sequence[Question], answers: Given) -> dict[str, Any]:
    """ "scores" by kind, under "unanswered" how many couldn't be asked, and under "answers" each question's id, kind,
    expected and given answer."""
    rows = [
        {"id": question.id, "kind": question.kind, "expected": question.answer, "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    ]
    unanswered = sum(answer is None for answer in answers)
    return {"scores": plain_scores(score_answers(questions, answers)), "unanswered": unanswered, "answers": rows}


def write_answers(path: Path, questions: Sequence[Question], answers: Given) -> None:
    """Scores and every answer as JSON."""
    write_text(path, json.dumps(plain_answers(questions, answers), indent=1) + "\n")


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
