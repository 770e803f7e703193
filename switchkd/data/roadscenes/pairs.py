"""Questions that need two pictures: whether they show the same scene, which one is at night, which one has more vehicles.

Each record asks one question of one pair. The pair is chosen for the answer that was given least so far to the same words,
so that no answer is the likely one. The same scene is drawn anew with another look: other pixels, the same content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from .language import PLURALS
from .questions import YES_NO, Question
from .scene import Scene

_TRIES = 200  # pairs that are looked at for one with the wanted answer


@dataclass(frozen=True)
class PairKind:
    """A kind of question about two pictures."""

    answers: tuple[str, ...]
    texts: tuple[str, ...]
    answer: Callable[[Scene, Scene, str], str]  # (first, second, text) → the true answer


@dataclass(frozen=True)
class PairRecord:
    """A record about two scenes; those that no picture shows yet are drawn for it."""

    record: dict[str, Any]
    question: Question
    drawn: tuple[tuple[str, Scene], ...]  # (path inside the picture folder, what it shows)


def _same(first: Scene, second: Scene, _: str) -> str:
    return "yes" if first.content == second.content else "no"


def _night(first: Scene, second: Scene, _: str) -> str:
    dark = first.time == "night", second.time == "night"
    return {(True, True): "both", (True, False): "first", (False, True): "second", (False, False): "neither"}[dark]


def _more(first: Scene, second: Scene, text: str) -> str:
    kind = _COUNTED[text]
    more = first.count(kind) - second.count(kind)
    return "first" if more > 0 else "second" if more < 0 else "neither"


_COUNTED = {f"which picture has more {plural} ?": kind for kind, plural in PLURALS.items()}
PAIR_KINDS = {
    "same": PairKind(YES_NO, ("is it the same scene ?", "do both pictures show the same scene ?"), _same),
    "night": PairKind(("first", "second", "both", "neither"), ("which picture is at night ?",), _night),
    "more": PairKind(("first", "second", "neither"), tuple(_COUNTED), _more),
}


def pair_records(
    split: str, seed: int, split_scenes: Sequence[Scene], count: int, path: Callable[[str, int], str]
) -> Iterator[PairRecord]:
    """`count` records of one question each about two pictures of a split, the kinds in turn.

    Args:
        split_scenes: at least two, different in content.
        path: (split, number) → a picture's path inside the picture folder.
    """
    rng = Random(f"pairs/{split}/{seed}")
    given: Counter[tuple[str, str]] = Counter()  # by words and answer
    for number in range(count):
        name = list(PAIR_KINDS)[number % len(PAIR_KINDS)]
        kind = PAIR_KINDS[name]
        text = rng.choice(kind.texts)
        order = rng.sample(kind.answers, len(kind.answers))
        wanted = min(order, key=lambda answer, text=text: given[text, answer])  # type: ignore[misc]
        drawn: tuple[tuple[str, Scene], ...] = ()
        if kind is PAIR_KINDS["same"] and wanted == "yes":
            one = rng.randrange(len(split_scenes))
            again = path(f"{split}-again", number), replace(split_scenes[one], look=rng.getrandbits(32))
            paths, answer, drawn = [path(split, one), again[0]], wanted, (again,)
        else:
            one, other = _pair(rng, split_scenes, kind, text, wanted)
            answer = kind.answer(split_scenes[one], split_scenes[other], text)
            paths = [path(split, one), path(split, other)]
        given[text, answer] += 1
        record = {
            "id": f"{split}-pair-{number:06d}",
            "image": paths,
            "conversations": [
                {"from": "human", "value": f"<image>\n<image>\n{text}"},
                {"from": "gpt", "value": answer},
            ],
            "kind": name,
        }
        yield PairRecord(record, Question(name, text, answer), drawn)


def _pair(rng: Random, scenes: Sequence[Scene], kind: PairKind, text: str, wanted: str) -> tuple[int, int]:
    """Numbers of two scenes to whose question this is the answer; the last looked at where a small split has none."""
    for _ in range(_TRIES):
        one, other = rng.sample(range(len(scenes)), 2)
        if kind.answer(scenes[one], scenes[other], text) == wanted:
            break
    return one, other
