"""The parts that ship: what their cards say is true, hashes whole and accuracies on a sample."""

import json
from importlib import resources
from pathlib import Path

import pytest
from rich.console import Console

from switchkd.analysis.assets import ASSETS, ask, text_questions
from switchkd.analysis.probe import probe, probe_tasks, read_asked, tower_features
from switchkd.data.questions import read_questions
from switchkd.data.roadscenes import write_roadscenes
from switchkd.files import file_sha256
from switchkd.models.llava_processor import load_image_processor, load_tokenizer
from switchkd.models.vlm import assemble, load_language, load_vision, save_vlm

FOLDER = Path(str(resources.files("switchkd") / "assets"))
LIMIT = 12_000_000  # bytes, all parts together
SEED = 20261121  # of scenes that no recipe uses


def card(name: str) -> dict:
    return json.loads((FOLDER / name / "card.json").read_text())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_roadscenes(folder / "data", size=64, seed=SEED, train=900, val=60, test=30, text=1, processes=1)
    return folder / "data"


def joined(tmp_path: Path, language: str) -> Path:
    """The shipped tower and a shipped language model under a projector that nobody trained."""
    vision, words = FOLDER / "tower", FOLDER / language
    parts = load_vision(vision), load_language(words), load_tokenizer(words), load_image_processor(vision)
    vlm, processor = assemble(*parts)
    save_vlm(vlm, tmp_path / "model", processor)
    return tmp_path / "model"


def test_the_weights_are_those_of_the_cards_and_small():
    for name in ASSETS:
        assert card(name)["sha256"] == file_sha256(FOLDER / name / "model.safetensors"), name
        assert card(name)["sha256"] in (FOLDER / name / "README.md").read_text()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < LIMIT


def test_the_teacher_is_strong():
    assert card("teacher")["accuracy"] >= 0.9 and card("teacher")["questions"] == 2000


def near(measured: float, promised: float, questions: int) -> bool:
    """Within four standard errors of a sample."""
    return abs(measured - promised) < 4 * (promised * (1 - promised) / questions) ** 0.5 + 1e-9


def test_the_teacher_answers_as_well_as_its_card_says(scenes):
    questions = read_questions(scenes / "test.json", scenes / "images")
    score = ask(FOLDER / "teacher", questions, Console(quiet=True))
    assert score.total == len(questions) == 240 and near(score.accuracy, card("teacher")["accuracy"], 240)


@pytest.mark.parametrize("name", ["language-small", "language-large"])
def test_a_language_model_reads_as_well_as_its_card_says(tmp_path, name):
    score = ask(joined(tmp_path, name), text_questions(tmp_path, SEED, 150), Console(quiet=True))
    assert near(score.accuracy, card(name)["accuracy"], 150)


def test_the_tower_shows_what_its_card_says(tmp_path, scenes):
    """A probe of fewer pictures than the card's, so somewhat below it, and far above chance."""
    training, fresh = (read_asked(scenes / f"{name}.json", scenes / "images") for name in ("instruct", "val"))
    tasks = probe_tasks(training, fresh)
    pictures = sorted({picture for task in tasks for picture, _ in (*task.fitted, *task.tested)})
    features = tower_features(joined(tmp_path, "language-small"), pictures, Console(quiet=True))
    right = probe(tasks, dict(zip(pictures, features, strict=True)))
    total = sum(len(task.tested) for task in tasks)
    accuracy, chance = (
        sum(share * len(task.tested) for share, task in zip(shares, tasks, strict=True)) / total
        for shares in ([right[task.question] for task in tasks], [task.chance for task in tasks])
    )
    assert card("tower")["accuracy"] - 0.12 < accuracy and accuracy > chance + 0.2
