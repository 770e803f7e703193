"""Test questions through the same record reader."""

from __future__ import annotations

import pytest
from support.llava_files import car, turns

from switchkd.data.questions import Question, read_questions
from switchkd.errors import DataError


def test_questions_are_read(make_source, images):
    records = [
        car(kind="count", conversations=turns("<image>\nHow many?", "Two.", system="Be brief.")),
        {"conversations": turns("2 + 2?", "4")},
    ]
    for name in ("test.json", "test.jsonl"):
        with_picture, text = read_questions(make_source(records, name).file, images)
        image_part = [{"type": "image"}, {"type": "text", "text": "How many?"}]
        prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": image_part}]
        assert with_picture == Question("car", "count", (images / "car.png",), prompt, "Two.")
        assert text == Question("2", "all", (), [{"role": "user", "content": "2 + 2?"}], "4")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "has no questions"),
        ([car(), {"id": "x"}], r"record 2 can't be used \(no_conversation\)"),
        ([car(image="none.png")], r"car can't be used \(no_picture\)"),
        ([car(image="../images/car.png")], r"car can't be used \(outside_folder\)"),
        ([{"id": 7, "conversations": turns("a", "b", "c", " ")}], "7 can't be used: its answer 2 is empty"),
    ],
)
def test_an_incomplete_test_is_an_error(make_source, images, records, words):
    with pytest.raises(DataError, match=words) as caught:
        read_questions(make_source(records).file, images)
    assert "\n" not in str(caught.value)


def test_every_answer_of_a_conversation_is_a_question(make_source, images):
    """With the true turns before it; the picture belongs to the questions that come with or after it."""
    talk = turns("What ?", "A car.", "<image>\nWhose ?", "Mine.", "Since when ?", "Monday.")
    first, second, third = read_questions(make_source([car(id="t", kind="k", conversations=talk)]).file, images)
    assert [each.id for each in (first, second, third)] == ["t/1", "t/2", "t/3"]
    assert [each.answer for each in (first, second, third)] == ["A car.", "Mine.", "Monday."]
    assert first.messages == [{"role": "user", "content": "What ?"}]
    assert [message["role"] for message in third.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert third.messages[:2] == [*first.messages, {"role": "assistant", "content": "A car."}]
    assert third.messages[3]["content"] == "Mine." and third.messages[:3] == second.messages
    shown = (images / "car.png",)
    assert [each.images for each in (first, second, third)] == [(), shown, shown]
