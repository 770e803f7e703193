"""Questions about two pictures: true of both, in balance, and no use without looking."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from switchkd.cli.data import roadscenes_command
from switchkd.data.roadscenes import draw, write_roadscenes
from switchkd.data.roadscenes.language import PLURALS
from switchkd.data.roadscenes.pairs import PAIR_KINDS
from switchkd.data.roadscenes.scene import Scene, scenes
from switchkd.errors import DataError

COUNTS: dict[str, Any] = {"train": 60, "val": 4, "test": 30, "text": 0, "questions": 9, "pairs": 240}
FILES = {"pairs": "train", "pairs_val": "val", "pairs_test": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pairs") / "data"
    write_roadscenes(target, **COUNTS, processes=1)
    return target


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{name}.json").read_text())


def true_answer(first: Scene, second: Scene, text: str) -> str:
    """By the words alone, in another way than they are made."""
    if "same scene" in text:
        return "no"  # of two pictures that aren't of the same number
    if "night" in text:
        dark = [name for name, scene in (("first", first), ("second", second)) if scene.time == "night"]
        return "both" if len(dark) == 2 else dark[0] if dark else "neither"
    kind = next(kind for kind, plural in PLURALS.items() if f"more {plural} " in text)
    counts = [
        len(each.pedestrians) if kind == "pedestrian" else len([v for v in each.vehicles if v.kind == kind])
        for each in (first, second)
    ]
    return "neither" if counts[0] == counts[1] else ("first", "second")[counts[1] > counts[0]]


@pytest.mark.parametrize("name", FILES)
def test_answers_are_true(folder: Path, name: str) -> None:
    split = FILES[name]
    shown = {f"{split}/{n:06d}.png": scene for n, scene in enumerate(scenes(split, 0, COUNTS[split]))}
    again = 0
    for record in read(folder, name):
        asked, said = (turn["value"] for turn in record["conversations"])
        first, second = record["image"]
        if second in shown:
            assert first != second and true_answer(shown[first], shown[second], asked) == said
            continue
        again += 1  # the first scene with another look: other pixels, the same content
        assert (record["kind"], said, second.split("/")[0]) == ("same", "yes", f"{split}-again")
        one, other = (np.asarray(Image.open(folder / "images" / path)) for path in (first, second))
        assert one.shape == other.shape and (one != other).any()
        plain = np.asarray(draw(shown[first], one.shape[0]))
        np.testing.assert_array_equal(one, plain)
    assert again == len(list((folder / "images" / f"{split}-again").iterdir())) > 0


def test_answers_are_in_balance(folder: Path) -> None:
    records = read(folder, "pairs") + read(folder, "pairs_test")
    for name, kind in PAIR_KINDS.items():
        counts = Counter(r["conversations"][1]["value"] for r in records if r["kind"] == name)
        assert set(counts) == set(kind.answers) and max(counts.values()) <= 1.3 * min(counts.values())
    assert len(read(folder, "pairs")) == 240 and len(read(folder, "pairs_test")) == 9 * 30
    blind = json.loads((folder / "roadscenes.json").read_text())["blind_pairs"]
    assert 0.3 < blind["overall"] < 0.45 and set(blind["by_kind"]) == set(PAIR_KINDS)


def test_pairs_change_nothing_else(folder: Path, tmp_path: Path) -> None:
    write_roadscenes(tmp_path / "without", **{**COUNTS, "pairs": 0}, processes=1)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for path in (tmp_path / "without").rglob("*.*"):
        if path.is_file() and path.name != "roadscenes.json":
            name = str(path.relative_to(tmp_path / "without"))
            assert name in names and path.read_bytes() == (folder / name).read_bytes()
    assert "pairs" not in json.loads((tmp_path / "without" / "roadscenes.json").read_text())["parameters"]
    with pytest.raises(DataError, match="made with another pairs"):
        write_roadscenes(tmp_path / "without", **COUNTS, processes=1)
    write_roadscenes(tmp_path / "more", **{**COUNTS, "pairs": 300}, processes=2)
    assert read(tmp_path / "more", "pairs")[:240] == read(folder, "pairs")


def test_by_the_command_line(tmp_path: Path) -> None:
    sizes = ["--train", "6", "--val", "2", "--test", "2", "--text", "0"]
    result = CliRunner().invoke(roadscenes_command, [str(tmp_path / "data"), *sizes, "--pairs", "12"])
    assert result.exit_code == 0, result.output
    assert "pairs: night" in result.output and len(read(tmp_path / "data", "pairs")) == 12
    result = CliRunner().invoke(roadscenes_command, [str(tmp_path / "one"), *sizes[:-4], "--test", "1", "--pairs", "3"])
    assert isinstance(result.exception, DataError) and "pairs need two pictures" in str(result.exception)
