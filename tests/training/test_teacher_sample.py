"""A teacher is asked a sample of its task before it teaches."""

import json

import pytest
from rich.console import Console
from support.finished import coloured_records

from switchkd.training import teacher_sample
from switchkd.training.teacher_sample import SAMPLE, Knowledge, ask_teacher, judge, sample_questions


@pytest.fixture
def coloured(tmp_path):
    """(training file, picture folder): 30 pictures of three colours, in turn."""
    file = tmp_path / "train.json"
    file.write_text(json.dumps(coloured_records(tmp_path, "train", 30)))
    return file, tmp_path


def test_the_teacher_beside_the_most_frequent_answer():
    pairs = [("red", "Red."), ("a red", "red"), ("blue", "red"), ("blue", "blue"), ("", "green")]
    assert judge(pairs) == Knowledge(right=3, total=5, majority="red", majority_right=3)
    assert judge(pairs).doubtful and not judge([*pairs, ("green", "green")]).doubtful
    nothing = judge([("", "yes"), ("x", "no"), ("", "yes")])
    assert nothing.doubtful and "0 of 3" in str(nothing) and "“yes” would be right 2 times" in str(nothing)


def test_the_sample_is_spread_over_the_file(tmp_path):
    def record(number, answer, **more):
        talk = [("human", f"{number}?"), ("gpt", answer), ("human", "and?"), ("gpt", "more")]
        return {"id": str(number), "conversations": [{"from": who, "value": text} for who, text in talk]} | more

    records = [record(number, "yes" if number % 2 else "that is a long answer in many words") for number in range(1000)]
    records[501] = record(501, "yes", image="none.png")  # markers and picture disagree
    records[503] = {"id": "503"}
    file = tmp_path / "train.json"
    file.write_text(json.dumps(records))
    questions = sample_questions(file, tmp_path)
    numbers = [int(question.id) for question in questions]
    assert len(numbers) == SAMPLE and numbers == sorted(set(numbers)) and all(number % 2 for number in numbers)
    assert numbers[0] < 50 and numbers[-1] > 850 and not {501, 503} & set(numbers)
    assert all(len(question.messages) == 1 and question.answer == "yes" for question in questions)


def test_a_teacher_that_knows_less_than_the_habits_of_the_data(tmp_path, coloured, teacher_folder, monkeypatch, capsys):
    """Of 30 questions about colours, in turn, each colour is asked in words of its own: one needn't look."""
    file, folder = coloured
    records = json.loads(file.read_text())
    for record in records:
        asked = record["conversations"]
        asked[0]["value"] = f"<image>\nIs it {asked[1]['value']} or not?"
        del asked[2:]
    held_out = tmp_path / "test.json"
    held_out.write_text(json.dumps(records))
    monkeypatch.setattr(
        teacher_sample,
        "Answerer",
        lambda _: Known(lambda question: question.answer if question.answer != "red" else "car"),
    )
    file.write_text(json.dumps(records[:20]))
    asking = (teacher_folder, (held_out, folder), tmp_path / "kept", Console(width=300))
    knowledge = ask_teacher(*asking, training=file)
    assert (knowledge.right, knowledge.majority_right, knowledge.blind_right) == (20, 10, 30) and knowledge.doubtful
    said = capsys.readouterr().out
    assert "20 of 30 sampled evaluation questions" in said and "blind, 30 times: it can't teach this" in said
    file.write_text(json.dumps([record for record in records if record["conversations"][1]["value"] == "blue"]))
    assert not ask_teacher(*asking, training=file).doubtful  # only one habit, right for a third


class Known:
    """A teacher whose answers are given."""

    def __init__(self, answers):
        self._answers = answers

    def answer(self, questions, *, max_new_tokens=16):
        return [self._answers(question) for question in questions]


@pytest.mark.parametrize(
    ("answers", "right", "warned"),
    [
        (lambda question: question.answer, 30, False),
        (lambda question: "red", 10, True),
        (lambda question: "", 0, True),
        (lambda question: "car" if question.answer == "red" else question.answer, 20, False),
    ],
)
def test_what_is_said(tmp_path, coloured, teacher_folder, monkeypatch, capsys, answers, right, warned):
    """Of teachers that know the task, guess, say nothing or know a part; the real one below."""
    monkeypatch.setattr(teacher_sample, "Answerer", lambda folder: Known(answers))
    knowledge = ask_teacher(teacher_folder, coloured, tmp_path / "kept", Console(width=300))
    assert (knowledge.right, knowledge.total, knowledge.majority_right) == (right, 30, 10)
    said = capsys.readouterr().out
    assert f"answers {right} of 30 sampled training questions right" in said and said.startswith("warning") == warned


def test_a_real_teacher_is_asked_once(tmp_path, coloured, teacher_folder, monkeypatch, capsys):
    """One of random weights, which knows nothing."""
    kept = tmp_path / "kept"
    first = ask_teacher(teacher_folder, coloured, kept, Console(width=300))
    assert first.total == 30 and first.doubtful and "warning: the teacher answers" in capsys.readouterr().out
    monkeypatch.setattr(teacher_sample, "Answerer", None)
    assert ask_teacher(teacher_folder, coloured, kept, Console(width=300)) == first
    assert "warning" in capsys.readouterr().out


@pytest.mark.parametrize("broken", [True, False])
def test_where_nothing_can_be_asked(tmp_path, coloured, teacher_folder, capsys, broken):
    """Torn pictures are passed over; too few questions say nothing."""
    file, folder = coloured
    records = json.loads(file.read_text())
    if broken:
        for path in folder.glob("train/*.png"):
            path.write_bytes(path.read_bytes()[:40])
    else:
        file.write_text(json.dumps(records[:5]))
    assert ask_teacher(teacher_folder, coloured, tmp_path / "kept", Console(width=300)) is None
    assert "wasn't asked a sample first" in capsys.readouterr().out
