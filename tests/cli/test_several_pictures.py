"""Pairs of pictures by the command line: drawn, checked, trained on, exported, evaluated and asked about."""

import json

import pytest
from click.testing import CliRunner
from support.training import train

from switchkd.cli.main import main
from switchkd.data.questions import read_questions
from switchkd.data.roadscenes import write_roadscenes
from switchkd.manifest import Manifest
from switchkd.pictures import open_image
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "data"
    write_roadscenes(folder, train=8, val=2, test=3, text=0, questions=3, pairs=18, processes=1)
    return folder


@pytest.fixture(scope="module")
def student(shelf, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train(folder / "stage", shelf.checkpoint(), (data / "pairs.json", data / "images"), steps=2)


@pytest.fixture(scope="module")
def export(student, data):
    out = student.with_name("student-gguf-q8")
    asked = ("--data", data / "pairs_test.json", "--calibrate", data / "pairs.json")
    skd("export", student, "--format", "gguf", "--quant", "q4", "--threads", 1, "--out", out, *asked)
    return out


def skd(*words):
    result = CliRunner().invoke(main, [*map(str, words)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_check_counts_them(student, data):
    printed = skd("data", "check", data / "pairs.json", "--model", student, "--max-length", 400, "--workers", 1)
    assert "with several pictures" in printed and "up to 2" in printed and "36 pictures" in printed


def test_the_export_is_proved_on_pairs_and_says_so(export):
    manifest = Manifest.load(export)
    assert manifest.pictures == 2
    loss = manifest.parity["loss"]
    assert loss["kl_mean"] < 0.1 and "unanswered" not in json.dumps(manifest.parity)


def test_checkpoint_and_export_are_evaluated(student, export, data, tmp_path):
    skd(
        "eval",
        student,
        export,
        "--data",
        data / "pairs_test.json",
        "--max-tokens",
        6,
        "--json",
        tmp_path / "scores.json",
    )
    written = json.loads((tmp_path / "scores.json").read_text())
    questions = read_questions(data / "pairs_test.json", data / "images")
    assert all(len(question.images) == 2 for question in questions)
    for folder in (student, export):
        with open_engine(folder, threads=1) as engine:
            expected = [engine.answer(q.messages, *map(open_image, q.images), max_new_tokens=6) for q in questions]
        assert [row["answer"] for row in written["models"][folder.name]["answers"]] == expected


def test_it_is_asked_about_two_without_a_warning_and_about_three_with_one(export, data):
    shown = [data / "images" / "test" / f"{number:06d}.png" for number in range(3)]

    def told(count):
        pictures = [word for path in shown[:count] for word in ("--image", path)]
        words = ["chat", export, *pictures, "--prompt", "is it the same scene ?", "--max-tokens", 4, "--threads", 1]
        result = CliRunner().invoke(main, [*map(str, words)])
        assert result.exit_code == 0, result.output
        return result.stderr

    assert told(2) == ""
    assert told(3).endswith("was trained on conversations with at most 2 pictures; what it says of more is a guess.\n")
