"""The built-in task as a folder: plain LLaVA JSON, the same bytes every time, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from switchkd.data.roadscenes import QUESTION_KINDS, draw, splits, write_roadscenes
from switchkd.data.roadscenes.scene import SPLITS, scenes
from switchkd.errors import DataError

COUNTS: dict[str, Any] = {"train": 150, "val": 12, "test": 20, "text": 60}
TEXTS = ("captions", "instruct", "lookup", "text", "val", "test")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "roadscenes"
    write_roadscenes(folder, **COUNTS, processes=1)
    return folder


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{name}.json").read_text())


def digests(folder: Path) -> dict[str, str]:
    """Of the pixels of pictures and the bytes of all else."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            Image.open(path).tobytes() if path.suffix == ".png" else path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_bytes_with_any_number_of_processes(written: Path, tmp_path: Path) -> None:
    write_roadscenes(tmp_path / "again", **COUNTS, processes=2)
    assert digests(tmp_path / "again") == digests(written)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_the_same_bytes_in_another_interpreter(written: Path, tmp_path: Path) -> None:
    code = (
        f"from switchkd.data.roadscenes import write_roadscenes; write_roadscenes({str(tmp_path / 'x')!r}, **{COUNTS})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "5"})
    assert digests(tmp_path / "x") == digests(written)


def test_other_seeds_give_other_data(written: Path, tmp_path: Path) -> None:
    write_roadscenes(tmp_path / "other", **COUNTS, seed=1)
    ours, theirs = digests(written), digests(tmp_path / "other")
    assert not [name for name in ours if ours[name] == theirs.get(name)]


def test_splits_do_not_depend_on_each_other_and_grow_at_the_end(written: Path, tmp_path: Path) -> None:
    write_roadscenes(tmp_path / "less", train=40, val=0, test=COUNTS["test"], text=10, processes=1)
    less, more = digests(tmp_path / "less"), digests(written)
    same = [name for name in less if name.endswith(".png") or name == "test.json"]
    assert len(same) == 40 + COUNTS["test"] + 1
    assert all(less[name] == more[name] for name in same)
    for name in TEXTS:
        shorter, longer = records(tmp_path / "less", name), records(written, name)
        assert shorter == longer[: len(shorter)]
    assert records(tmp_path / "less", "val") == []


def test_splits_are_disjoint() -> None:
    contents = {split: [scene.content for scene in scenes(split, 0, 1500)] for split in SPLITS}
    everything = [content for of_split in contents.values() for content in of_split]
    assert len(set(everything)) == len(everything) == 6000


def test_records_are_llava(written: Path) -> None:
    for name in TEXTS:
        found = records(written, name)
        assert len({record["id"] for record in found}) == len(found)
        for record in found:
            turns = record["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert all(turn["value"] == turn["value"].strip() != "" for turn in turns)
            images = sum(turn["value"].count("<image>") for turn in turns)
            if name == "text":
                assert "image" not in record and images == 0
                assert turns[0]["value"].count("\n") == 1
            else:
                assert images == 1 and turns[0]["value"].startswith("<image>\n")
                with Image.open(written / "images" / record["image"]) as picture:
                    assert picture.size == (64, 64) and picture.format == "PNG"


def test_counts_and_kinds(written: Path) -> None:
    assert len(records(written, "captions")) == COUNTS["train"]
    for name, number in (("instruct", COUNTS["train"]), ("text", COUNTS["text"])):
        found = records(written, name)
        talks = [record for record in found if record["id"].endswith("talk")]
        singles = [record for record in found if record["id"].endswith("single")]
        assert len(talks) == number and len(singles) == number // 2 and len(found) == number + number // 2
        assert {len(record["kinds"]) for record in talks} == {3, 4, 5, 6}
        assert {len(record["kinds"]) for record in singles} == {1}
        assert all(len(record["conversations"]) == 2 * len(record["kinds"]) for record in found)
    for name in ("val", "test"):
        found = records(written, name)
        assert len(found) == 8 * COUNTS[name]
        assert {record["kind"] for record in found} == QUESTION_KINDS.keys()
        answers = [(record["kind"], record["conversations"][1]["value"]) for record in found]
        assert all(answer in QUESTION_KINDS[kind].answers for kind, answer in answers)
    summary = json.loads((written / "roadscenes.json").read_text())
    assert summary["parameters"] | COUNTS == summary["parameters"]
    assert summary["records"] == {name: len(records(written, name)) for name in TEXTS}
    assert sum(summary["questions"].values()) == 8 * COUNTS["test"]
    assert summary["blind"]["by_kind"].keys() == QUESTION_KINDS.keys()


def test_pictures_stand_in_the_order_of_their_scenes(written: Path) -> None:
    for split in ("train", "val", "test"):
        for number, scene in enumerate(scenes(split, 0, 5)):
            with Image.open(written / "images" / split / f"{number:06d}.png") as picture:
                assert picture.tobytes() == draw(scene, 64).tobytes()


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_roadscenes(
        tmp_path / "x",
        train=200,
        val=1,
        test=1,
        text=0,
        size=48,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (202, 202) and told == sorted(told) and len(told) == 2


def test_the_same_folder_is_reused(written: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert write_roadscenes(written, **COUNTS) == json.loads((written / "roadscenes.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert write_roadscenes(tmp_path, train=1, val=1, test=1, text=1)["records"]["captions"] == 1
    assert (tmp_path / "images/train/000000.png").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"train": 7}, "another train"), ({"size": 96, "seed": 3}, "another size, seed"), ({"questions": 3}, "questions")],
)
def test_a_folder_made_otherwise_is_left_alone(written: Path, change: dict[str, int], said: str) -> None:
    before = digests(written)
    with pytest.raises(DataError, match=said):
        write_roadscenes(written, **COUNTS | change)
    assert digests(written) == before


def test_another_generation_is_not_reused(written: Path) -> None:
    summary = json.loads((written / "roadscenes.json").read_text())
    assert summary["parameters"]["generation"] == splits.GENERATION
    parameters = splits.Parameters(**summary["parameters"] | {"generation": splits.GENERATION + 1})
    with pytest.raises(DataError, match="another generation"):
        splits._existing(written, parameters)


@pytest.mark.parametrize("found", ["", "[]", "{}", '{"parameters": 3}', "no json"])
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, found: str) -> None:
    (tmp_path / "roadscenes.json").write_text(found)
    with pytest.raises(DataError, match="choose another folder"):
        write_roadscenes(tmp_path, train=1)
    assert (tmp_path / "roadscenes.json").read_text() == found


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 10},
        {"size": 64.0},
        {"size": 4096},
        {"train": -1},
        {"val": "3"},
        {"test": 1_000_000},
        {"text": True},
        {"questions": 0},
        {"questions": 11},
        {"seed": -1},
        {"processes": 0},
    ],
)
def test_bad_parameters_are_one_line(tmp_path: Path, bad: dict[str, Any]) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(DataError) as caught:
        write_roadscenes(tmp_path / "x", **bad)
    assert name in str(caught.value) and repr(value) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError) as caught:
            write_roadscenes(folder, train=1)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be written"):
        write_roadscenes("/proc/roadscenes" if Path("/proc").is_dir() else "/dev/null/x", train=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_left_of_a_broken_run(tmp_path: Path, processes: int) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_roadscenes(tmp_path / "x", train=300, processes=processes, progress=stop)
    assert not list(tmp_path.iterdir())


def test_lookups_are_single_questions(written: Path) -> None:
    """Every answer is one that the scene gives to that question."""
    lookups = records(written, "lookup")
    assert len(lookups) == 5 * COUNTS["train"] and len({record["id"] for record in lookups}) == len(lookups)
    of_scene = {f"train/{number:06d}.png": scene for number, scene in enumerate(scenes("train", 0, COUNTS["train"]))}
    asked: dict[str, int] = {}
    for record in lookups:
        (kind,), (human, gpt) = record["kinds"], record["conversations"]
        question = human["value"].removeprefix("<image>\n")
        assert (question, gpt["value"]) in set(QUESTION_KINDS[kind].ask(of_scene[record["image"]]))
        asked[kind] = asked.get(kind, 0) + 1
    assert min(asked[kind] for kind in ("color", "place", "object")) > 3 * max(
        asked[kind] for kind in ("time", "weather")
    )


def test_lookups_ask_for_rare_answers_where_scenes_allow_them(written: Path) -> None:
    """Half of the questions how many there are, drawn at random, would have the answer 0."""
    answers = Counter(
        record["conversations"][1]["value"] for record in records(written, "lookup") if record["kinds"] == ["count"]
    )
    assert answers["0"] / answers.total() < 0.32
