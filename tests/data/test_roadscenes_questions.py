"""The questions of the built-in task: true, short and in balance."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from random import Random

import pytest

from switchkd.data.roadscenes import (
    QUESTION_KINDS,
    Examiner,
    Pedestrian,
    Question,
    Scene,
    Vehicle,
    ask,
    blind_accuracy,
    scenes,
)
from switchkd.data.roadscenes.scene import LIGHTS


def number_of(scene: Scene, noun: str) -> int:
    singular = {"buses": "bus"}.get(noun, noun.removesuffix("s") if noun != "bus" else noun)
    if singular == "pedestrian":
        return len(scene.pedestrians)
    return len([vehicle for vehicle in scene.vehicles if vehicle.kind == singular])


def the_only(scene: Scene, words: str) -> Vehicle:
    """The one vehicle that is meant by "truck" or "red truck"."""
    (vehicle,) = [vehicle for vehicle in scene.vehicles if words in (vehicle.kind, f"{vehicle.color} {vehicle.kind}")]
    return vehicle


def truth(scene: Scene, text: str) -> str:
    """The answer, found anew from the scene's fields by reading the question."""

    def yes(fact: bool) -> str:
        return "yes" if fact else "no"

    if found := re.fullmatch(r"is there a pedestrian on the (\w+) \?", text):
        return yes(any(pedestrian.ground == found[1] for pedestrian in scene.pedestrians))
    if found := re.fullmatch(r"is there a (\w+) \?", text):
        return yes(any(vehicle.kind == found[1] for vehicle in scene.vehicles))
    if found := re.fullmatch(r"is there a (\w+) (\w+) \?", text):
        return yes(any((vehicle.color, vehicle.kind) == (found[1], found[2]) for vehicle in scene.vehicles))
    if found := re.fullmatch(r"how many (\w+) (?:are there|do you see) \?", text):
        return str(number_of(scene, found[1]))
    if found := re.fullmatch(r"what color is the vehicle (\w+ \w+) \?", text):
        return next(vehicle.color for vehicle in scene.vehicles if vehicle.place == found[1])
    if found := re.fullmatch(r"what is ((?:far|near) \w+) \?", text):
        return next((vehicle.kind for vehicle in scene.vehicles if vehicle.place == found[1]), "nothing")
    if found := re.fullmatch(r"are there more (\w+) than (\w+) \?", text):
        return yes(number_of(scene, found[1]) > number_of(scene, found[2]))
    if found := re.fullmatch(r"is the (\w+) nearer than the (\w+) \?", text):
        rows = [the_only(scene, found[group]).place.split()[0] for group in (1, 2)]
        assert set(rows) == {"far", "near"}
        return yes(rows[0] == "near")
    if found := re.fullmatch(r"where is the (.+) \?", text):
        return the_only(scene, found[1]).place
    if text in ("what color is the traffic light ?", "what does the traffic light say ?"):
        return "no light" if scene.light == "none" else scene.light
    if found := re.fullmatch(r"what color is the (\w+) \?", text):
        return the_only(scene, found[1]).color
    if text in ("may i go ?", "may i drive on ?"):
        stopped = scene.light == "red" or scene.light == "yellow"
        crossed = any(pedestrian.ground == "crossing" for pedestrian in scene.pedestrians)
        blocked = any(vehicle.place == "near " + scene.lane for vehicle in scene.vehicles)
        return "no" if stopped or crossed or blocked else "yes"
    plain = {
        "what does the sign say ?": "no sign" if scene.sign == "none" else scene.sign,
        "what is the speed limit ?": "no sign" if scene.sign == "none" else scene.sign,
        "what is the weather ?": scene.weather,
        "how is the weather ?": scene.weather,
        "is it day or night ?": scene.time,
        "what time is it ?": scene.time,
        "which lane am i in ?": scene.lane,
        "what is my lane ?": scene.lane,
    }
    return plain[text]


def exam(split: str, seed: int, count: int, each: int) -> list[Question]:
    examiner = Examiner(Random(seed))
    return [question for scene in scenes(split, seed, count) for question in examiner.ask(scene, each)]


def test_every_question_that_can_be_asked_is_true_and_short() -> None:
    texts = set()
    for scene in scenes("train", 4, 400):
        for name, kind in QUESTION_KINDS.items():
            for text, answer in kind.ask(scene):
                assert answer == truth(scene, text), (scene, text)
                assert answer in kind.answers and 1 <= len(answer.split()) <= 3
                assert text.endswith(" ?") and len(text.split()) <= 14
                texts.add((name, text))
    assert len(texts) == len({text for _, text in texts}) > 100


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("ahead", ["near left", "near middle", "far left"])
def test_may_i_go(light: str, crossed: bool, ahead: str) -> None:
    pedestrians = (Pedestrian("crossing" if crossed else "pavement", 0),)
    scene = Scene("clear", "day", "left", light, "30", (Vehicle("car", "red", ahead),), pedestrians, look=0)
    assert scene.may_go() == (light in ("none", "green") and not crossed and ahead != "near left")


def test_an_examiner_asks_as_many_as_wanted_of_different_kinds() -> None:
    examiner = Examiner(Random(0))
    for scene in scenes("val", 0, 300):
        questions = examiner.ask(scene, 10)
        assert len({question.kind for question in questions}) == len(questions) == 10
        assert all(truth(scene, question.text) == question.answer for question in questions)
    assert examiner.ask(scene, 0) == []


def test_answers_are_in_balance_for_each_text() -> None:
    by_text: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for question in exam("train", 0, 3000, 5):
        by_text[question.kind, question.text][question.answer] += 1
    for (kind, text), answers in by_text.items():
        numbers = [answers[answer] for answer in QUESTION_KINDS[kind].answers]
        assert max(numbers) - min(numbers) <= 2, (text, answers)


def test_kinds_and_their_answers_are_in_balance() -> None:
    questions = exam("test", 0, 250, 8)
    assert len(questions) == 2000
    by_kind = Counter(question.kind for question in questions)
    assert by_kind.keys() == QUESTION_KINDS.keys()
    assert max(by_kind.values()) < 1.3 * min(by_kind.values())
    for name, kind in QUESTION_KINDS.items():
        answers = Counter(question.answer for question in questions if question.kind == name)
        even = by_kind[name] / len(kind.answers)
        assert all(0.7 * even < answers[answer] < 1.3 * even for answer in kind.answers), (name, answers)


@pytest.mark.parametrize("seed", [0, 1])
def test_guessing_blindly_fails(seed: int) -> None:
    score = blind_accuracy(exam("train", seed, 2500, 5), exam("test", seed, 250, 8))
    assert score.overall < 0.38
    for name, kind in QUESTION_KINDS.items():
        assert score.by_kind[name] < 1 / len(kind.answers) + 0.13, name


def test_the_first_words_of_a_question_do_not_help_either() -> None:
    """Grouped by their first four words, texts have no habitual answer."""

    def opening(questions: list[Question]) -> list[Question]:
        return [Question(one.kind, " ".join(one.text.split()[:4]), one.answer) for one in questions]

    assert blind_accuracy(opening(exam("train", 3, 2500, 5)), opening(exam("test", 3, 250, 8))).overall < 0.4


def test_blind_accuracy_by_hand() -> None:
    train = [Question("a", "x ?", answer) for answer in ("1", "1", "2")] + [Question("a", "y ?", "3")] * 4
    test = [
        Question("a", "x ?", "1"),  # the habit of the text
        Question("a", "x ?", "3"),
        Question("a", "new ?", "3"),  # the habit of the kind
        Question("b", "x ?", "2"),
    ]
    score = blind_accuracy(train, test)
    assert score.overall == 0.5
    assert score.by_kind == {"a": pytest.approx(2 / 3), "b": 0.0}
    assert blind_accuracy([], [Question("a", "x ?", "1")]).overall == 0.0
    assert blind_accuracy(train, []) == (0.0, {})


def test_ask_depends_on_scene_and_rng_alone() -> None:
    (scene,) = scenes("val", 9, 1)
    assert ask(scene, Random(1), 6) == ask(scene, Random(1), 6)
    assert len({tuple(ask(scene, Random(seed), 6)) for seed in range(20)}) > 10
