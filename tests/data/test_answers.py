"""What a score alone hides: one answer to most questions, answers that a limit cut."""

import pytest

from switchkd.data.answers import dominant_answer, mean_scores, plain_answers
from switchkd.data.questions import Question


def asked(*expected):
    return [Question(str(index), ("a", "b")[index % 2], None, [], answer) for index, answer in enumerate(expected)]


@pytest.mark.parametrize(
    ("answers", "expected", "found"),
    [
        (["t"] * 100, ["x"] * 99 + ["t"], ("t", 100, 1)),
        (["Yes."] * 12 + ["no"] * 8, ["yes"] * 10 + ["no"] * 10, None),  # as often as it is expected, nearly
        (["yes"] * 16 + [None] * 4, ["yes"] * 10 + ["no"] * 10, ("yes", 16, 10)),
        (["t"] * 5, ["x"] * 5, None),  # too few to say
        ([""] * 20, ["x"] * 20, ("", 20, 0)),
        ([None] * 20, ["x"] * 20, None),
    ],
)
def test_an_answer_that_dominates(answers, expected, found):
    assert dominant_answer(asked(*expected), answers) == found


def test_another_measure_is_a_mean_by_kind():
    questions, answers = asked("a red car", "two cars", "it rains"), ["the red bus", None, "it rains"]
    scores = mean_scores(questions, answers, "f1")
    assert {kind: score.accuracy for kind, score in scores.items()} == pytest.approx({"a": 0.75, "b": 0.0, "all": 0.5})
    plain = plain_answers(questions, answers, "f1", cut=1)
    assert (plain["measure"], plain["cut"], plain["unanswered"]) == ("f1", 1, 1)
    assert [row["score"] for row in plain["answers"]] == [0.5, 0.0, 1.0] and plain["scores"]["all"]["mean"] == 0.5
    assert plain_answers(questions, answers)["scores"]["all"]["right"] == 1
