"""Probes: ridge regression against its textbook form, known answers found, unknowable ones not."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from support.finished import finish_run

from switchkd.analysis.probe import Task, linear_probe, overall, probe_tasks, read_asked, readable_tasks, ridge
from switchkd.cli.main import main
from switchkd.errors import DataError


@pytest.fixture
def finished_run(tmp_path_factory, teacher_folder, student_folder):
    return finish_run(tmp_path_factory.getbasetemp() / "finished", teacher_folder, student_folder)


def clusters(number: int, width: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre a class, on axes of very different scale."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(4, width))
    classes = draw.integers(0, 4, number)
    features = centres[classes] + noise * draw.normal(size=(number, width))
    scale = 10.0 ** np.random.default_rng(8).integers(-3, 4, width)
    return (features * scale).astype(np.float32), np.array(["no", "one", "red", "yes"])[classes]


@pytest.mark.parametrize(("number", "width"), [(30, 200), (120, 8)])
def test_the_dual_form_is_the_textbooks(number, width):
    features, labels = clusters(number, width, 0, 3.0)
    tested, _ = clusters(60, width, 1, 3.0)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    x, z = (features - mean) / spread, (tested - mean) / spread
    names = sorted(set(labels))
    targets = np.stack([labels == name for name in names], axis=1).astype(float)
    strengths = (10.0, 1.0, 0.01)
    for strength, ours in zip(strengths, ridge(features, labels, tested, strengths), strict=True):
        penalty = strength * np.trace(x @ x.T) / number
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(width), x.T @ (targets - targets.mean(axis=0)))
        theirs = np.array(names)[(z @ weights + targets.mean(axis=0)).argmax(axis=1)]
        assert np.mean(ours == theirs) > 0.99
    assert len(set(ours)) == 4


def test_known_answers_are_found_and_unknowable_ones_are_not():
    features, labels = clusters(300, 500, 0, 2.0)
    tested, expected = clusters(200, 500, 1, 2.0)
    assert np.mean(linear_probe(features, labels, tested) == expected) > 0.95
    shuffled = np.random.default_rng(2).permutation(labels)
    assert 0.1 < np.mean(linear_probe(features, shuffled, tested) == expected) < 0.45


def test_the_penalty_is_chosen_on_rows_that_were_not_fitted():
    """As many noisy features as rows: without a penalty they are learned by heart."""
    features, labels = clusters(100, 100, 0, 3.0)
    tested, expected = clusters(1000, 100, 1, 3.0)
    chosen = np.mean(linear_probe(features, labels, tested) == expected)
    unpenalised = np.mean(ridge(features, labels, tested, (1e-9,))[0] == expected)
    assert chosen > unpenalised + 0.3


def test_a_constant_feature_harms_nothing():
    features, labels = clusters(80, 20, 0, 0.5)
    features[:, 3] = 5
    assert np.mean(linear_probe(features, labels, features) == labels) > 0.95


def asked(name: str, number: int, **answers) -> dict[Path, dict[str, str]]:
    return {Path(f"{name}{n}"): {question: answer(n) for question, answer in answers.items()} for n in range(number)}


def test_questions_are_probed_where_answers_repeat():
    training = asked(
        "t", 200, colour=lambda n: "rgb"[n % 3], caption=str, same=lambda n: "yes", rare=lambda n: str(n // 4)
    )
    (task,) = probe_tasks(training, asked("v", 50, colour=lambda n: "rgb"[n % 2]))
    assert (task.question, task.classes, task.fresh) == ("colour", 3, True)
    assert (len(task.fitted), len(task.tested), task.chance) == (200, 50, 0.5)
    assert len(probe_tasks(training, {}, pictures=100)[0].fitted) == 75, "a quarter is held out"


def test_no_picture_is_fitted_and_tested():
    training = asked("t", 200, colour=lambda n: "rgb"[n % 3])
    few = dict(list(training.items())[:10])
    for validation in ({}, few, dict(list(training.items())[:60])):
        (task,) = probe_tasks(training, validation)
        assert not {picture for picture, _ in task.fitted} & {picture for picture, _ in task.tested}
        assert task.fresh == (len(validation) == 60)


def test_too_little_is_said():
    with pytest.raises(DataError, match="No question with repeating answers"):
        probe_tasks(asked("t", 30, colour=lambda n: "rgb"[n % 3]), {})


def test_chance_is_the_fitted_pictures_favourite():
    rows = [(Path("a"), "x"), (Path("b"), "x"), (Path("c"), "y")]
    assert Task("?", tuple(rows), ((Path("d"), "y"), (Path("e"), "y"), (Path("f"), "x")), False).chance == 1 / 3


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"words"])
def test_pictures_that_cannot_be_read_are_told_and_left_out(tmp_path, capsys, damage):
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.new("RGB", (8, 8), "red").save(path)
    rows = tuple((path, "yes" if number % 2 else "no") for number, path in enumerate(paths))
    task = Task("is it day?", rows, rows[:2], True)
    assert readable_tasks([task], Console()) == [task] and not capsys.readouterr().out
    paths[1].write_bytes(damage(paths[1].read_bytes()))
    (left,) = readable_tasks([task], Console(width=200))
    assert left == Task("is it day?", (rows[0], *rows[2:]), rows[:1], True)
    assert "1 pictures can't be read" in capsys.readouterr().out
    paths[0].unlink()
    with pytest.raises(DataError, match="Too few"):
        readable_tasks([task], Console())


def test_later_turns_are_asked_about_the_picture_too(finished_run):
    folder, _ = finished_run
    table = read_asked(folder / "train.json", folder)
    assert len(table) == 120
    answers = table[(folder / "train" / "4.png").resolve()]
    assert answers["What colour is it?"] == "green" and answers["Was it a Monday?"] in ("yes", "no")


def test_the_command_tells_what_each_tower_holds(finished_run, monkeypatch):
    folder, _ = finished_run
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["linear-probe", "--json", "probe.json"])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(Path("probe.json").read_text())
    assert set(report["questions"]) == {"What colour is it?", "Was it a Monday?"}
    seen, unseen = report["questions"]["What colour is it?"], report["questions"]["Was it a Monday?"]
    assert (seen["tested_on"], seen["tested"], seen["classes"]) == ("validation", 45, 3)
    assert (unseen["tested_on"], unseen["tested"]) == ("held-out training pictures", 30)
    assert list(seen["accuracy"]) == ["before", "teacher", "SFT", "Switch-KD"]
    assert min(seen["accuracy"].values()) > 0.95 > 0.8 > max(unseen["accuracy"].values())
    assert report["all"] == overall(report["questions"])
    assert report["all"]["chance"] == pytest.approx((45 * seen["chance"] + 30 * unseen["chance"]) / 75)
    assert "held out of the fit" in result.output and "What colour" in result.output


def test_without_a_run_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["linear-probe"])
    assert result.exit_code == 1 and "There is no run yet" in result.output
