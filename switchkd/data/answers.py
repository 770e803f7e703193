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
from switchkd.files import write_text
from switchkd.scoring import Score, is_right, score_by_kind


class Answers(Protocol):
    """Whatever answers questions: a checkpoint in PyTorch, an engine with an export."""

    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers, without special tokens, in the questions' order."""
        ...


def answer_all(
    model: Answers,
    questions: list[Question],
    console: Console,
    *,
    title: str,
    batch_size: int = 64,
    max_new_tokens: int = 16,
) -> list[str]:
    """Answers to all questions with a progress bar, batches of similar length together."""
    order = sorted(range(len(questions)), key=lambda index: len(str(questions[index].messages)))
    answers = [""] * len(questions)
    batches = list(_chunks(order, batch_size))
    hidden = not console.is_terminal
    for chunk in track(batches, description=escape(title), console=console, disable=hidden, transient=True):
        texts = model.answer([questions[index] for index in chunk], max_new_tokens=max_new_tokens)
        for index, text in zip(chunk, texts, strict=True):
            answers[index] = text
    return answers


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def right_answers(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    """Which answers match exactly after VQA's normalisation."""
    return [is_right(answer, question.answer) for question, answer in zip(questions, answers, strict=True)]


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Score]:
    """Exact-match accuracy by kind after VQA's normalisation."""
    return score_by_kind([question.kind for question in questions], right_answers(questions, answers))


def plain_scores(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as JSON has them: kind → "right", "total", "accuracy", "interval"."""
    return {
        kind: {"right": score.right, "total": score.total, "accuracy": score.accuracy, "interval": score.interval()}
        for kind, score in scores.items()
    }


def plain_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """ "scores" by kind, and under "answers" each question's id, kind, expected and given answer."""
    rows = [
        {"id": question.id, "kind": question.kind, "expected": question.answer, "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    ]
    return {"scores": plain_scores(score_answers(questions, answers)), "answers": rows}


def write_answers(path: Path, questions: Sequence[Question], answers: Sequence[str]) -> None:
    """Scores and every answer as JSON."""
    write_text(path, json.dumps(plain_answers(questions, answers), indent=1) + "\n")


def read_scores(path: Path) -> dict[str, Score]:
    """The scores that `write_answers` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))["scores"]
    return {kind: Score(entry["right"], entry["total"]) for kind, entry in plain.items()}


def read_answers(path: Path) -> list[dict[str, str]]:
    """The rows that `write_answers` wrote: id, kind, expected and answer, in the questions' order."""
    return json.loads(path.read_text(encoding="utf-8"))["answers"]


def read_right(path: Path) -> list[bool]:
    """Which questions were answered right, in the file's order."""
    return [is_right(row["answer"], row["expected"]) for row in read_answers(path)]
