"""The gallery's choice of scenes, and what else a report says of the answers."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.finished import finish_run

from switchkd.analysis.report import run_models, student_before
from switchkd.data.examples import choose
from switchkd.data.questions import Question, question_text
from switchkd.scoring import normalise


@pytest.fixture
def finished_run(tmp_path_factory, teacher_folder, student_folder):
    return finish_run(tmp_path_factory.getbasetemp() / "finished", teacher_folder, student_folder)


def questions(*places: tuple[str, str | None]) -> list[Question]:
    return [
        Question(str(n), kind, () if image is None else (Path(image),), [], "")
        for n, (kind, image) in enumerate(places)
    ]


BOTH, FIRST, NONE = (True, True), (True, False), (False, False)


def test_each_pattern_once_most_frequent_first():
    asked = questions(*((f"kind{n}", f"{n}.png") for n in range(7)))
    patterns = [NONE, BOTH, BOTH, BOTH, FIRST, FIRST, NONE]
    assert choose(asked, patterns, 3) == [1, 0, 4]
    assert choose(asked, patterns, 5) == [1, 0, 4, 2, 6]
    assert sorted(choose(asked, patterns, 99)) == list(range(7))


def test_pictures_never_repeat_and_kinds_only_when_they_must():
    asked = questions(("count", "a"), ("count", "b"), ("sign", "a"), ("sign", "c"), ("count", "d"), ("text", None))
    chosen = choose(asked, [BOTH] * 6, 6)
    assert chosen == [0, 3, 1, 4], "the sign before a second count; the picture a once; text alone never"


def test_question_text_is_the_last_turns():
    picture = {"type": "image"}
    assert question_text([{"role": "user", "content": [picture, {"type": "text", "text": "Why?\n"}]}]) == "Why?"
    assert question_text([{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]) == "Two."


def test_a_run_draws_its_answers_and_tells_the_agreement(finished_run, monkeypatch):
    folder, output = finished_run
    monkeypatch.chdir(folder)
    reports = Path("runs/small/reports")
    assert Image.open(reports / "answers.png").size > (900, 600) and "answers.png" in output
    accuracy = json.loads((reports / "accuracy.json").read_text())
    said = [
        json.loads(path.read_text())["answers"]
        for path in (reports / "answers").glob("*.json")
        if "sample" not in path.name
    ]
    assert all(len(rows) == 9 for rows in said)
    shares = accuracy.pop("agreement_with_teacher")
    unseen = {name: accuracy.pop(name)["all"] for name in ("blind", "majority")}
    assert all(score["right"] == 3 and score["total"] == 9 for score in unseen.values())  # one of three colours
    assert list(shares) == ["SFT", "Switch-KD"] and list(accuracy) == ["teacher", *shares]
    for name, share in shares.items():
        assert f"{name} answers {100 * share:.1f} % of the questions like the teacher" in output
    possible = {
        sum(normalise(a["answer"]) == normalise(b["answer"]) for a, b in zip(one, other, strict=True)) / 9
        for one in said
        for other in said
    }
    assert set(shares.values()) <= possible


def test_a_runs_models_are_found_again(finished_run, monkeypatch, teacher_folder, student_folder):
    folder, _ = finished_run
    monkeypatch.chdir(folder)
    models = run_models(Path("runs/small"))
    assert list(models) == ["teacher", "SFT", "Switch-KD"]
    assert models["teacher"] == teacher_folder, "a ready teacher isn't linked, but recorded"
    assert student_before(Path("runs/small")) == student_folder


@pytest.mark.parametrize("same", [0, 2, 3])
def test_agreement_counts_equal_answers(tmp_path, monkeypatch, same):
    from switchkd.analysis import report

    answers = {"teacher": ["a car", "Two.", "no"], "SFT": ["car", "2", "no"][:same] + ["x"] * (3 - same)}
    for name, rows in answers.items():
        (tmp_path / name).write_text(json.dumps({"answers": [{"answer": row} for row in rows]}))
    monkeypatch.setattr(report, "kept_answers", lambda run, folder, split, name: tmp_path / name)
    models = {name: tmp_path for name in answers}
    assert report.agreement(None, models) == {"SFT": same / 3}
    assert report.agreement(None, {"SFT": tmp_path}) == {}
