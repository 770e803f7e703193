"""reports/answers.png: a few test pictures with each model's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from switchkd.analysis.figures import caption, save_figure
from switchkd.analysis.report import kept_answers
from switchkd.data.answers import read_answers, read_right
from switchkd.data.examples import Pattern, choose
from switchkd.data.questions import Question, question_text, read_questions
from switchkd.pictures import open_image, side_by_side
from switchkd.training.run import Run

_COLUMNS = 3
_RIGHT, _WRONG = "#16782c", "#c0241c"


def draw_gallery(run: Run, models: Mapping[str, Path], *, scenes: int = 6) -> Path | None:
    """Draws test questions about different pictures: the expected answer, and every model's in green or red.

    One for each way in which the models are right or wrong, most frequent first (`choose`), so that neither flatters.

    Returns:
        reports/answers.png, or None where the recipe has no test split with pictures.
    """
    file, images = run.questions("test")
    links = run.recipe.data.follow_links
    questions = read_questions(file, images, follow_links=links) if file.is_file() else []
    kept = {name: kept_answers(run, folder, "test", name) for name, folder in models.items()} if questions else {}
    rows = {name: read_answers(path) for name, path in kept.items()}
    # What couldn't be asked can't be shown: its picture may be torn.
    asked = [
        index for index in range(len(questions)) if all(each[index]["answer"] is not None for each in rows.values())
    ]
    questions = [questions[index] for index in asked]
    answers = {name: [each[index]["answer"] for index in asked] for name, each in rows.items()}
    every = list(zip(*(read_right(path) for path in kept.values()), strict=True))
    patterns = [every[index] for index in asked] if every else []
    chosen = choose(questions, patterns, scenes)
    if not chosen:
        return None
    path = run.folder / "reports" / "answers.png"
    _draw(questions, answers, patterns, chosen, path)
    return path


def _draw(
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[str]],
    patterns: Sequence[Pattern],
    chosen: Sequence[int],
    path: Path,
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    size = (3.3 * columns, (3.3 + 0.24 * len(answers)) * rows + 0.3)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.12))
    counts = Counter(patterns)
    for place, index in enumerate(chosen, 1):
        question, pattern = questions[index], patterns[index]
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(side_by_side([*map(open_image, question.images)]))  # `choose` takes none without
        axes.set(xticks=[], yticks=[])
        axes.set_title(caption(question_text(question.messages), 90), fontsize=10, wrap=True, parse_math=False)
        lines = [("expected", question.answer, "black")]
        for (name, each), is_right in zip(answers.items(), pattern, strict=True):
            lines.append((name, each[index], _RIGHT if is_right else _WRONG))
        for line, (name, text, colour) in enumerate(lines):
            mark = "" if colour == "black" else " ✓" if colour == _RIGHT else " ✗"
            _write(axes, line, f"{name}: {caption(text, 40) or '(nothing)'}{mark}", colour)
        share = f"{100 * counts[pattern] / len(patterns):.0f} % of the questions go this way"
        _write(axes, len(lines), share, "0.45", size=8)
    figure.suptitle("Answers to held-out questions: one for each way of being right or wrong", fontsize=11)
    save_figure(figure, path)


def _write(axes: Any, line: int, text: str, colour: str, size: int = 10) -> None:
    """A line of text below the picture."""
    axes.annotate(
        text,
        (0, 0),
        xytext=(0, -6 - 14 * line),
        xycoords="axes fraction",
        textcoords="offset points",
        va="top",
        fontsize=size,
        color=colour,
        parse_math=False,
    )
