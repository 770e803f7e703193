"""Scenes as LLaVA records: {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, …]} and a bit more.

Records about training say the kinds of their questions in "kinds", one a question; records to be scored hold one
question and its kind in "kind".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from .language import DESCRIBE, caption
from .questions import QUESTION_KINDS, Examiner, Question
from .scene import Scene, scenes

Record = dict[str, Any]

TURNS = (3, 6)  # fewest and most questions of a conversation
SINGLE_EVERY = 2  # each second scene also gives a record of one question: a third of all records of a training split
LOOKUPS = 5  # single questions a scene
# Kinds that need a lookup by content are learned slowly and have to be asked more often than those of the whole picture.
_WEIGHTS = {
    "existence": 3.0, "color": 3.0, "place": 3.0, "object": 5.0, "count": 5.0, "compare": 4.0, "pedestrians": 0.5,
    "go": 1.0, "sign": 0.2, "light": 0.2, "weather": 0.2, "lane": 0.2, "time": 0.1,
}  # fmt: skip


def image_path(split: str, number: int) -> str:
    """Relative to the folder of images."""
    return f"{split}/{number:06d}.png"


def caption_records(split: str, seed: int, split_scenes: Iterable[Scene]) -> list[Record]:
    """One dense caption a picture."""
    rng = Random(f"captions/{split}/{seed}")
    return [
        {
            "id": f"{split}-{number:06d}-caption",
            "image": image_path(split, number),
            "conversations": _turns([(f"<image>\n{rng.choice(DESCRIBE)}", caption(scene, rng))]),
        }
        for number, scene in enumerate(split_scenes)
    ]


def training_records(
    split: str, seed: int, split_scenes: Iterable[Scene], *, pictures: bool
) -> Iterator[tuple[Record, list[Question]]]:
    """Conversations of TURNS questions a scene, and for each SINGLE_EVERY-th scene a record of one further question,
    each with what it asks. Without pictures the scene's caption stands where "<image>" does."""
    rng = Random(f"conversations/{split}/{seed}")
    examiner = Examiner(rng)
    for number, scene in enumerate(split_scenes):
        single = number % SINGLE_EVERY == 1
        turns = rng.randint(*TURNS)
        asked = examiner.ask(scene, turns + single)
        shown = "<image>" if pictures else caption(scene, rng)
        for name, questions in (("talk", asked[:turns]), ("single", asked[turns:])):
            if questions:
                record: Record = {"id": f"{split}-{number:06d}-{name}"}
                if pictures:
                    record["image"] = image_path(split, number)
                record["conversations"] = _conversation(shown, questions)
                record["kinds"] = [question.kind for question in questions]
                yield record, questions


def lookup_records(split: str, seed: int, split_scenes: Iterable[Scene]) -> Iterator[Record]:
    """LOOKUPS records of one question a scene, hardly anything but lookups: no earlier question of the same conversation
    distracts. Of the answers that a scene allows, the one given least so far is asked for: a model that always says "0"
    or "nothing" learns nothing from the questions where it is right."""
    rng = Random(f"lookup/{split}/{seed}")
    given: Counter[tuple[str, str]] = Counter()  # by kind and answer
    for number, scene in enumerate(split_scenes):
        asked: dict[str, Question] = {}
        while len(asked) < LOOKUPS:
            kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            texts: dict[str, list[str]] = {}
            for text, answer in QUESTION_KINDS[kind].ask(scene):
                texts.setdefault(answer, []).append(text)
            if texts:
                rng.choice(sorted(texts))  # not needed, but without it the data are others than the shipped teacher's
                answer = min(sorted(texts), key=lambda one: given[kind, one])
                text = rng.choice(texts[answer])
                if text not in asked:
                    asked[text] = Question(kind, text, answer)
                    given[kind, answer] += 1
        for turn, question in enumerate(asked.values()):
            yield {
                "id": f"{split}-{number:06d}-lookup-{turn}",
                "image": image_path(split, number),
                "conversations": _conversation("<image>", [question]),
                "kinds": [question.kind],
            }


def scored_records(
    split: str, seed: int, split_scenes: Iterable[Scene], questions: int
) -> Iterator[tuple[Record, Question]]:
    """One record a question, `questions` a picture, each with the question itself."""
    examiner = Examiner(Random(f"conversations/{split}/{seed}"))
    for number, scene in enumerate(split_scenes):
        for turn, question in enumerate(examiner.ask(scene, questions)):
            record = {
                "id": f"{split}-{number:06d}-{turn}",
                "image": image_path(split, number),
                "conversations": _conversation("<image>", [question]),
                "kind": question.kind,
            }
            yield record, question


def corpus(seed: int, count: int) -> Iterator[str]:
    """All there is to read about `count` scenes of the text split, for training a tokenizer: captions, prompts,
    questions and answers, one after another. Some hundreds of scenes hold every word."""
    text_scenes = list(scenes("text", seed, count))
    for record in caption_records("text", seed, text_scenes):
        prompt, said = (turn["value"] for turn in record["conversations"])
        yield prompt.removeprefix("<image>\n")
        yield said
    for _, questions in training_records("text", seed, text_scenes, pictures=False):
        for question in questions:
            yield question.text
            yield question.answer


def _conversation(shown: str, questions: list[Question]) -> list[dict[str, str]]:
    turns = [(question.text, question.answer) for question in questions]
    (text, answer), *further = turns
    return _turns([(f"{shown}\n{text}", answer), *further])


def _turns(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"from": speaker, "value": value}
        for turn in turns
        for speaker, value in zip(("human", "gpt"), turn, strict=True)
    ]
