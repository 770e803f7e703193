"""Questions about a scene with answers of one to three words, kept in balance: guessing without the picture fails.

The balance is one rule: a question is asked only while its answer isn't ahead of the other answers to the very same
text. So no answer is the likely one, neither for a kind of question nor for its exact words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from random import Random

from .language import PLURALS
from .scene import COLORS, GROUNDS, KINDS, LANES, LIGHTS, MAX_PEDESTRIANS, PLACES, SIGNS, TIMES, WEATHERS, Scene

YES_NO = ("yes", "no")
ALWAYS_ANSWERABLE = 10  # every scene has questions of at least so many kinds


@dataclass(frozen=True)
class Question:
    """One question and its true answer."""

    kind: str  # a key of QUESTION_KINDS
    text: str  # ends with " ?"
    answer: str  # one of the kind's answers


@dataclass(frozen=True)
class QuestionKind:
    """A kind of question: what may be answered, and what can be asked of a scene."""

    answers: tuple[str, ...]
    ask: Callable[[Scene], Iterator[tuple[str, str]]]  # (text, true answer) of every question that fits the scene


def _yes_no(fact: bool) -> str:
    return "yes" if fact else "no"


def _existence(scene: Scene) -> Iterator[tuple[str, str]]:
    present = {(vehicle.color, vehicle.kind) for vehicle in scene.vehicles}
    for kind in KINDS:
        yield f"is there a {kind} ?", _yes_no(scene.count(kind) > 0)
        for color in COLORS:
            yield f"is there a {color} {kind} ?", _yes_no((color, kind) in present)
    for ground in GROUNDS:
        yield f"is there a pedestrian on the {ground} ?", _yes_no(scene.on(ground) > 0)


def _count(scene: Scene) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        if (count := str(scene.count(kind))) in _COUNTS:
            yield f"how many {PLURALS[kind]} are there ?", count


def _pedestrians(scene: Scene) -> Iterator[tuple[str, str]]:
    yield "how many pedestrians are there ?", str(len(scene.pedestrians))
    yield "how many pedestrians do you see ?", str(len(scene.pedestrians))


def _color(scene: Scene) -> Iterator[tuple[str, str]]:
    for vehicle in scene.vehicles:
        yield f"what color is the vehicle {vehicle.place} ?", vehicle.color
        if scene.count(vehicle.kind) == 1:
            yield f"what color is the {vehicle.kind} ?", vehicle.color


def _place(scene: Scene) -> Iterator[tuple[str, str]]:
    named = Counter((vehicle.color, vehicle.kind) for vehicle in scene.vehicles)
    for vehicle in scene.vehicles:
        if named[vehicle.color, vehicle.kind] == 1:
            yield f"where is the {vehicle.color} {vehicle.kind} ?", vehicle.place
        if scene.count(vehicle.kind) == 1:
            yield f"where is the {vehicle.kind} ?", vehicle.place


def _object(scene: Scene) -> Iterator[tuple[str, str]]:
    for place in PLACES:
        vehicle = scene.at(place)
        yield f"what is {place} ?", vehicle.kind if vehicle else "nothing"


def _compare(scene: Scene) -> Iterator[tuple[str, str]]:
    for more, less in permutations(PLURALS, 2):
        yield f"are there more {PLURALS[more]} than {PLURALS[less]} ?", _yes_no(scene.count(more) > scene.count(less))
    unique = [vehicle for vehicle in scene.vehicles if scene.count(vehicle.kind) == 1]
    for one, other in permutations(unique, 2):
        if one.row != other.row:
            yield f"is the {one.kind} nearer than the {other.kind} ?", _yes_no(one.row > other.row)


def _sign(scene: Scene) -> Iterator[tuple[str, str]]:
    answer = "no sign" if scene.sign == "none" else scene.sign
    yield "what does the sign say ?", answer
    yield "what is the speed limit ?", answer


def _light(scene: Scene) -> Iterator[tuple[str, str]]:
    answer = "no light" if scene.light == "none" else scene.light
    yield "what color is the traffic light ?", answer
    yield "what does the traffic light say ?", answer


def _weather(scene: Scene) -> Iterator[tuple[str, str]]:
    yield "what is the weather ?", scene.weather
    yield "how is the weather ?", scene.weather


def _time(scene: Scene) -> Iterator[tuple[str, str]]:
    yield "is it day or night ?", scene.time
    yield "what time is it ?", scene.time


def _lane(scene: Scene) -> Iterator[tuple[str, str]]:
    yield "which lane am i in ?", scene.lane
    yield "what is my lane ?", scene.lane


def _go(scene: Scene) -> Iterator[tuple[str, str]]:
    yield "may i go ?", _yes_no(scene.may_go())
    yield "may i drive on ?", _yes_no(scene.may_go())


_COUNTS = ("0", "1", "2", "3")
QUESTION_KINDS = {
    "existence": QuestionKind(YES_NO, _existence),
    "count": QuestionKind(_COUNTS, _count),
    "pedestrians": QuestionKind(_COUNTS[: MAX_PEDESTRIANS + 1], _pedestrians),
    "color": QuestionKind(COLORS, _color),
    "place": QuestionKind(PLACES, _place),
    "object": QuestionKind((*KINDS, "nothing"), _object),
    "compare": QuestionKind(YES_NO, _compare),
    "sign": QuestionKind((*SIGNS[1:], "no sign"), _sign),
    "light": QuestionKind((*LIGHTS[1:], "no light"), _light),
    "weather": QuestionKind(WEATHERS, _weather),
    "time": QuestionKind(TIMES, _time),
    "lane": QuestionKind(LANES, _lane),
    "go": QuestionKind(YES_NO, _go),
}


class Examiner:
    """Asks about one scene after another and keeps the answers to every text, and the kinds, in balance.

    One examiner serves one split: what it asks depends on the scenes it has seen before, and on `rng`, alone.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._asked: Counter[str] = Counter()  # by kind
        self._answered: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by text, then answer

    def ask(self, scene: Scene, count: int) -> list[Question]:
        """`count` questions of different kinds, in random order; fewer only if the scene has no more kinds to ask
        (never below ALWAYS_ANSWERABLE). The least asked kinds come first; an answer may run ahead of the others by two
        at most as long as that leaves enough to ask."""
        waiting = sorted(QUESTION_KINDS, key=lambda kind: (self._asked[kind], self._rng.random()))
        chosen: list[Question] = []
        for lead in (1, 2, 4, 8, float("inf")):
            for kind in tuple(waiting):
                if len(chosen) == count:
                    break
                if question := self._choose(kind, scene, lead):
                    chosen.append(question)
                    waiting.remove(kind)
                    self._asked[kind] += 1
                    self._answered[question.text][question.answer] += 1
        self._rng.shuffle(chosen)
        return chosen

    def _choose(self, kind: str, scene: Scene, lead: float) -> Question | None:
        """One question of a kind that would put its answer ahead of the rarest by at most `lead`."""
        texts: defaultdict[str, list[str]] = defaultdict(list)
        for text, answer in QUESTION_KINDS[kind].ask(scene):
            texts[answer].append(text)
        for answer in self._rng.sample(sorted(texts), len(texts)):
            for text in self._rng.sample(texts[answer], len(texts[answer])):
                answered = self._answered[text]
                if answered[answer] < min(answered[other] for other in QUESTION_KINDS[kind].answers) + lead:
                    return Question(kind, text, answer)
        return None


def ask(scene: Scene, rng: Random, count: int) -> list[Question]:
    """`count` questions of different kinds about one scene by itself; an `Examiner` balances over many scenes."""
    return Examiner(rng).ask(scene, count)
