"""Writes the built-in task as a folder of pictures and LLaVA JSON, like any other data set."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from switchkd.computer import usable_processors
from switchkd.errors import DataError

from .blind import blind_accuracy
from .draw import draw
from .pairs import PairRecord, pair_records
from .questions import ALWAYS_ANSWERABLE
from .records import (
    Record,
    caption_records,
    image_path,
    lookup_records,
    scored_records,
    training_records,
)
from .scene import Scene, scenes

GENERATION = 3  # to be raised whenever the same parameters would give other pictures or words
SUMMARY = "roadscenes.json"
_CHUNK = 128  # pictures a process paints at a time
_RANGES = {
    "size": (48, 2048),
    "seed": (0, 2**63 - 1),
    "train": (0, 999_999),
    "val": (0, 999_999),
    "test": (0, 999_999),
    "text": (0, 999_999),
    "questions": (1, ALWAYS_ANSWERABLE),
    "pairs": (0, 999_999),
}


@dataclass(frozen=True)
class Parameters:
    """All that decides what is written. A value out of range raises DataError."""

    size: int  # pixels of a picture's side, 48 to 2048
    seed: int  # 0 or more
    train: int  # pictures to learn from
    val: int  # pictures to watch learning on
    test: int  # pictures to score on
    text: int  # scenes in words only
    questions: int  # questions a picture in val and test, 1 to 10
    pairs: int = 0  # questions about two pictures to learn from
    generation: int = GENERATION

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise DataError(f"The road scenes' {name} is {value!r}; it must be a whole number, {least} to {most}.")
        if self.pairs and 1 in (self.train, self.val, self.test):
            raise DataError("The road scenes' pairs need two pictures in each of train, val and test, or none there.")

    def plain(self) -> dict[str, int]:
        """As written down; `pairs` only where there are some, as folders of older versions have it."""
        return {name: value for name, value in asdict(self).items() if name != "pairs" or value}


def write_roadscenes(
    folder: str | os.PathLike[str],
    *,
    size: int = 64,
    seed: int = 0,
    train: int = 6000,
    val: int = 100,
    test: int = 250,
    text: int = 12000,
    questions: int = 8,
    pairs: int = 0,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes images/SPLIT/NNNNNN.png, captions.json, instruct.json, lookup.json, text.json, val.json, test.json
    and roadscenes.json; with pairs also pairs.json to learn from, pairs_val.json and pairs_test.json, which ask as many
    questions as val.json and test.json.

    The same parameters give the same pixels and words, whatever `processes` (all usable cores by default); a split
    doesn't depend on the sizes of the others, and a longer one begins like a shorter one. Image paths are relative to
    folder/images. All is written beside the folder and renamed in the end. A folder that holds the same already is left
    as it is.

    size, seed, train, val, test, text, questions, pairs: see `Parameters`.
    progress: called with (pictures painted, pictures in all).
    Returns what roadscenes.json holds: parameters, counts of records, questions by kind, and the blind score of test.
    Raises DataError for a parameter out of range, a folder with something else in it, or one that can't be written.
    """
    parameters = Parameters(size, seed, train, val, test, text, questions, pairs)
    if processes is not None and (type(processes) is not int or processes < 1):
        raise DataError(f"The road scenes' processes is {processes!r}; it must be a whole number, 1 or more.")
    target = Path(folder)
    try:
        if summary := _existing(target, parameters):
            return summary
        with _renamed_in_the_end(target) as partial:
            return _write(partial, parameters, processes or usable_processors(), progress)
    except BrokenProcessPool as error:
        raise DataError(f"A process that painted pictures for {target} died; free memory and try again.") from error
    except OSError as error:
        raise DataError(f"The road scenes can't be written to {target}: {error.strerror or error}.") from error


def _existing(target: Path, parameters: Parameters) -> dict[str, Any] | None:
    """The summary of a folder that holds just this; None if there is no folder or nothing in it."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        summary = json.loads((target / SUMMARY).read_text(encoding="utf-8"))
        found = summary["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{target} exists and holds no road scenes; choose another folder or remove it.") from None
    wanted = parameters.plain()
    if found != wanted:
        found = found if isinstance(found, dict) else {}
        names = [name for name in asdict(parameters) if found.get(name) != wanted.get(name)]
        raise DataError(
            f"{target} holds road scenes made with another {', '.join(names)}; choose another folder or remove it."
        )
    return summary


@contextmanager
def _renamed_in_the_end(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that takes its place if all goes well, and goes away if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rmdir()  # empty, or this fails and says so
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path, parameters: Parameters, processes: int, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    seed = parameters.seed
    split_scenes = {name: list(scenes(name, seed, getattr(parameters, name))) for name in ("train", "val", "test")}
    pairs = _pairs(parameters, split_scenes)
    pictures = {
        image_path(split, number): scene
        for split, of_split in split_scenes.items()
        for number, scene in enumerate(of_split)
    }
    pictures |= {path: scene for each in pairs.values() for pair in each for path, scene in pair.drawn}
    _paint_all(folder / "images", pictures, parameters.size, processes, progress)

    instruct = list(training_records("train", seed, split_scenes["train"], pictures=True))
    text = training_records("text", seed, scenes("text", seed, parameters.text), pictures=False)
    val = scored_records("val", seed, split_scenes["val"], parameters.questions)
    test = list(scored_records("test", seed, split_scenes["test"], parameters.questions))
    counts = {
        name: _write_json(folder / f"{name}.json", records)
        for name, records in {
            "captions": caption_records("train", seed, split_scenes["train"]),
            "instruct": [record for record, _ in instruct],
            "lookup": lookup_records("train", seed, split_scenes["train"]),
            "text": [record for record, _ in text],
            "val": [record for record, _ in val],
            "test": [record for record, _ in test],
            **{name: [pair.record for pair in each] for name, each in pairs.items()},
        }.items()
    }
    test_questions = [question for _, question in test]
    blind = blind_accuracy((question for _, asked in instruct for question in asked), test_questions)
    summary = {
        "parameters": parameters.plain(),
        "records": counts,
        "questions": dict(sorted(Counter(question.kind for question in test_questions).items())),
        "blind": blind._asdict(),
    }
    if pairs:
        learned, asked = ([pair.question for pair in pairs[name]] for name in ("pairs", "pairs_test"))
        summary["blind_pairs"] = blind_accuracy(learned, asked)._asdict()
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _pairs(parameters: Parameters, split_scenes: Mapping[str, Sequence[Scene]]) -> dict[str, list[PairRecord]]:
    """Records about two pictures by the name of their file; none where none are asked for."""
    if not parameters.pairs:
        return {}
    counts = {"train": parameters.pairs, "val": parameters.questions * parameters.val}
    counts["test"] = parameters.questions * parameters.test
    return {
        "pairs" if split == "train" else f"pairs_{split}": list(
            pair_records(split, parameters.seed, split_scenes[split], count if split_scenes[split] else 0, image_path)
        )
        for split, count in counts.items()
    }


def _write_json(path: Path, records: Iterable[Record]) -> int:
    """A JSON list with one record a line; returns how many."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return len(lines)


def _paint_all(
    images: Path,
    pictures: Mapping[str, Scene],
    size: int,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    jobs = [(images / path, scene) for path, scene in pictures.items()]
    for folder in {images, *(path.parent for path, _ in jobs)}:
        folder.mkdir(parents=True, exist_ok=True)
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    done = 0
    for painted in _painted(chunks, size, min(processes, len(chunks))):
        done += painted
        if progress:
            progress(done, len(jobs))


def _painted(chunks: list[list[tuple[Path, Scene]]], size: int, processes: int) -> Iterator[int]:
    """Paints the chunks, in any order; yields how many pictures each held."""
    if processes <= 1:
        for chunk in chunks:
            yield _paint(chunk, size)
        return
    pool = ProcessPoolExecutor(processes)
    try:
        for future in as_completed([pool.submit(_paint, chunk, size) for chunk in chunks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _paint(jobs: list[tuple[Path, Scene]], size: int) -> int:
    for path, scene in jobs:
        draw(scene, size).save(path)
    return len(jobs)
