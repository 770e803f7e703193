"""Scores that need no look at a picture, against counting by hand."""

import json
import random
from collections import Counter

from switchkd.data.habits import answer_by_habit, baselines, file_exchanges
from switchkd.data.questions import read_questions
from switchkd.scoring import is_right


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def test_habits_fall_back_from_words_to_kind_to_anything():
    train = [("a", "x?", "1"), ("a", "x?", "2"), ("a", "x?", "2"), ("b", "y?", "3"), ("b", "z?", "3"), ("b", "z?", "4")]
    asked = [("a", "x?"), ("b", "x?"), ("b", "new?"), ("c", "new?"), ("b", "z?")]
    assert answer_by_habit(train, asked) == ["2", "2", "3", "2", "3"]
    assert answer_by_habit([], asked[:1]) == [None]


def test_baselines_equal_counting_by_hand(tmp_path):
    draw = random.Random(5)
    words, answers = [f"Question {n}?" for n in range(6)], ["Yes.", "no", "Two", "2", "a car"]
    train = [
        {"conversations": talk(*(part for _ in range(2) for part in (draw.choice(words), draw.choice(answers))))}
        for _ in range(60)
    ]
    train.insert(3, {"conversations": "torn"})
    test = [
        {"kind": draw.choice("ab"), "conversations": talk(draw.choice(words), draw.choice(answers))} for _ in range(40)
    ]
    for name, records in (("train", train), ("test", test)):
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    questions = read_questions(tmp_path / "test.json", None)
    found = baselines(tmp_path / "train.json", questions)

    pairs = [(text, answer) for _, text, answer in file_exchanges(tmp_path / "train.json")]
    assert len(pairs) == 120
    right = {"a": 0, "b": 0}
    for record in test:
        text, expected = (turn["value"] for turn in record["conversations"])
        counts = Counter(answer for asked, answer in pairs if asked == text)
        habit = sorted(counts, key=lambda answer: (-counts[answer], answer))[0]
        right[record["kind"]] += is_right(habit, expected)
    assert {kind: score.right for kind, score in found.blind.items()} == right | {"all": sum(right.values())}
    expected = [record["conversations"][1]["value"] for record in test]
    assert found.majority["all"].right == max(sum(is_right(one, other) for other in expected) for one in expected)
    assert found.frequent in ("2", "yes", "no", "car") and found.best == max(
        found.blind["all"].right, found.majority["all"].right
    )
