"""Pictures of a bench's report, with the questions about them and the variants' answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from switchkd.data.examples import choose
from switchkd.data.questions import question_text
from switchkd.errors import DataError
from switchkd.pictures import open_image, side_by_side
from switchkd.runtime.bench.measurement import Bench
from switchkd.runtime.bench.quality import right_answers

_SAMPLES = 18
_MISSED = 12
_SIDE = 240  # pixels


def samples(bench: Bench) -> list[dict[str, Any]]:
    """Pictures with every variant's answer: one for each way of being right or wrong, so that none is flattered."""
    asked = [each for each in bench.answered() if each.requests]
    if not asked:
        return []
    answers = {each.name: each.answers() for each in asked}
    shared = sorted(set.intersection(*(set(each) for each in answers.values())))
    right = {name: right_answers(bench.questions, each) for name, each in answers.items()}
    questions = [bench.questions[index] for index in shared]
    patterns = [tuple(right[name][index] for name in answers) for index in shared]
    shown = []
    for place in choose(questions, patterns, _SAMPLES):
        index, question = shared[place], questions[place]
        try:
            picture = _thumbnail(question.images)
        except DataError:  # gone since it was asked about
            continue
        shown.append(
            {
                "picture": picture,
                "question": question_text(question.messages),
                "expected": question.answer,
                "answers": [(name, answers[name][index], right[name][index]) for name in answers],
            }
        )
    return shown


def missed(bench: Bench) -> list[dict[str, Any]]:
    """What the reference answers right and another variant doesn't, the variants in turns, each frame once."""
    answers = {each.name: each.answers() for each in bench.answered() if each.requests}
    if bench.reference not in answers:
        return []
    right = {name: right_answers(bench.questions, each) for name, each in answers.items()}
    known = right.pop(bench.reference)
    lost = {
        name: [index for index, is_right in sorted(each.items()) if not is_right and known.get(index)]
        for name, each in right.items()
    }
    turns = (
        (name, index)
        for row in zip_longest(*lost.values())
        for name, index in zip(lost, row, strict=True)
        if index is not None
    )
    shown: list[dict[str, Any]] = []
    seen: set[tuple[Path, ...]] = {()}
    for name, index in turns:
        question = bench.questions[index]
        if question.images in seen or len(shown) == _MISSED:
            continue
        seen.add(question.images)
        try:
            picture = _thumbnail(question.images)
        except DataError:
            continue
        pair = [(bench.reference, answers[bench.reference][index], True), (name, answers[name][index], False)]
        shown.append(
            {
                "picture": picture,
                "question": question_text(question.messages),
                "expected": question.answer,
                "answers": pair,
            }
        )
    return shown


def _thumbnail(paths: Sequence[Path]) -> Markup:
    picture = side_by_side([*map(open_image, paths)])
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return data_uri(stream.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> Markup:
    """What a page shows without fetching anything."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
