"""What `skd eval` prints and writes of models' answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from switchkd.data.questions import Question
    from switchkd.scoring import Paired


@dataclass(frozen=True)
class Asked:
    """A model's answers."""

    texts: list[str | None]  # None: a question that couldn't be asked
    limit: int  # tokens of an answer
    cut: int  # answers that it ended


def report(
    names: list[str],
    questions: list[Question],
    asked: dict[str, Asked],
    measure: str,
    console: Console,
    json_file: Path | None,
) -> None:
    """Writes and prints what the models answered; the first of `names` is what the others are compared with."""
    from rich.markup import escape

    from switchkd.cli.tables import accuracy_table, paired_table
    from switchkd.data.answers import mean_scores, score_answers
    from switchkd.overlap import EXACT

    first = names[0]
    pairs = _pairs(questions, asked, measure, first)
    try:
        if json_file is not None:
            _write(json_file, questions, asked, measure, pairs, reference=first, several=len(names) > 1)
    finally:  # also where the file can't be written: the answers may have taken hours
        scores: dict[str, Any] = {
            name: score_answers(questions, each.texts)
            if measure == EXACT
            else mean_scores(questions, each.texts, measure)
            for name, each in asked.items()
        }
        console.print(accuracy_table(scores, title=_TITLES[measure]))
        if pairs:
            console.print(paired_table(first, pairs))
        for name, each in asked.items():
            for line in _remarks(questions, each):
                console.print(f"[yellow]{escape(name)}[/]: {escape(line)}", highlight=False)
    if first not in asked:
        console.print(
            f"Nothing is compared: {escape(first)} is what the others are compared with, and it couldn't be run."
        )


_TITLES = {
    "exact": "Accuracy on held-out questions, % (95 % interval)",
    "f1": "Words in common with the expected answers, F1, % (95 % interval)",
    "rouge-l": "Words in the expected answers' order, ROUGE-L, % (95 % interval)",
}


def _pairs(questions: list[Question], asked: dict[str, Asked], measure: str, first: str) -> dict[str, Paired]:
    """The others against the first; none where it couldn't be run."""
    from switchkd.data.answers import measure_answers, right_answers
    from switchkd.overlap import EXACT, pair_means
    from switchkd.scoring import pair

    if first not in asked:
        return {}
    others = [name for name in asked if name != first]
    if measure == EXACT:
        right = {name: right_answers(questions, each.texts) for name, each in asked.items()}
        return {name: pair(right[first], right[name]) for name in others}
    scores = {name: measure_answers(questions, each.texts, measure) for name, each in asked.items()}
    return {name: pair_means(scores[first], scores[name]) for name in others}


def _remarks(questions: list[Question], asked: Asked) -> list[str]:
    """What a score alone would hide: answers that were cut, and one answer to most questions."""
    from switchkd.data.answers import dominant_answer

    lines = []
    if asked.cut:
        lines.append(
            f"{asked.cut} of {len(questions)} answers were cut at {asked.limit} tokens or where the model's context ends; "
            "--max-tokens allows more."
        )
    if found := dominant_answer(questions, asked.texts):
        answer, count, expected = found
        lines.append(f"answers: {answer or '(nothing)'} × {count} of {len(questions)}, where {expected} expect it.")
    return lines


def _write(
    path: Path,
    questions: list[Question],
    asked: dict[str, Asked],
    measure: str,
    pairs: dict[str, Paired],
    *,
    reference: str,
    several: bool,
) -> None:
    """One model's scores and answers; or, where several were asked for, theirs by name and their comparison with the first."""
    import json

    from switchkd.data.answers import plain_answers, write_answers
    from switchkd.files import write_text

    if not several:
        write_answers(path, questions, asked[reference].texts, measure, asked[reference].cut)
        return
    compared = {
        name: {
            "difference": paired.difference,
            "interval": paired.interval(),
            "lost": paired.only_first,
            "won": paired.only_second,
            "p_value": paired.p_value,
        }
        for name, paired in pairs.items()
    }
    models = {name: plain_answers(questions, each.texts, measure, each.cut) for name, each in asked.items()}
    known = reference if reference in asked else None
    write_text(path, json.dumps({"models": models, "reference": known, "compared": compared}, indent=1) + "\n")
