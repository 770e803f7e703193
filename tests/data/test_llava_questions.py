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
        ([{"id": 7, "conversations": turns("a", "b", "c", "d")}], "7 has several answers"),
    ],
)
def test_an_incomplete_test_is_an_error(make_source, images, records, words):
    with pytest.raises(DataError, match=words) as caught:
        read_questions(make_source(records).file, images)
    assert "\n" not in str(caught.value)
