"""What a vision tower's features hold: linear probes for the answers to questions that many pictures are asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from switchkd.analysis.report import recorded_conversations
from switchkd.data.index import RecordFile
from switchkd.data.questions import exchanges
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import picture_path, read_record
from switchkd.data.scan import scan_records
from switchkd.errors import DataError, SkdError
from switchkd.models.environment import quiet
from switchkd.models.switch import vision_features
from switchkd.models.vlm import load_vlm
from switchkd.pictures import open_image
from switchkd.preprocess import Preprocess
from switchkd.runs import recorded_questions, recorded_recipe
from switchkd.scoring import normalise

Floats = NDArray[np.float32]
Labels = NDArray[np.str_]

# Ridge penalties tried, as multiples of the mean eigenvalue of the pictures' Gram matrix; the strongest first.
STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
# An answer is a class where so many pictures have it; a question is probed where classes make up most of its answers.
_MIN_CLASS = 5
_MIN_COVERED = 0.9
# Questions are probed where so many pictures are asked them, and tested on fresh pictures where there are so many.
_MIN_PICTURES = 60
_MIN_TESTED = 40
_HELD_OUT = 4  # one of so many pictures is held out

Asked = dict[Path, dict[str, str]]  # {picture: {question: normalised answer}}


@dataclass(frozen=True)
class Task:
    """One question as a classification of pictures."""

    question: str
    fitted: tuple[tuple[Path, str], ...]  # (picture, answer)
    tested: tuple[tuple[Path, str], ...]
    fresh: bool  # tested on pictures of the validation split, else on held-out training pictures

    @property
    def classes(self) -> int:
        """Number of different answers that are fitted."""
        return len({answer for _, answer in self.fitted})

    @property
    def chance(self) -> float:
        """Accuracy of always giving the answer that is most frequent among the fitted pictures."""
        (frequent, _), *_ = Counter(answer for _, answer in self.fitted).most_common(1)
        return sum(answer == frequent for _, answer in self.tested) / len(self.tested)


def probe_run(
    run_folder: Path,
    models: Mapping[str, Path],
    console: Console,
    *,
    pictures: int = 1500,
    questions: int = 12,
) -> dict[str, dict[str, Any]]:
    """Probes each model's tower for the questions of a run's training conversations.

    Returns:
        {question: {"classes", "fitted", "tested", "tested_on", "chance", "accuracy": {model: accuracy}}}, most frequent
        question first.

    Raises:
        SkdError: the run's conversations are gone, or have no question to probe.
    """
    with console.status("reading questions"):
        tasks = probe_tasks(
            read_asked(*recorded_conversations(run_folder), follow_links=_follows_links(run_folder)),
            _validation(run_folder),
            pictures=pictures,
            questions=questions,
        )
    tasks = readable_tasks(tasks, console)
    named = sorted({picture for task in tasks for picture, _ in (*task.fitted, *task.tested)})
    accuracy = {}
    for name, folder in models.items():
        features = tower_features(folder, named, console, title=f"probing {name}")
        accuracy[name] = probe(tasks, dict(zip(named, features, strict=True)))
    return {
        task.question: {
            "classes": task.classes,
            "fitted": len(task.fitted),
            "tested": len(task.tested),
            "tested_on": "validation" if task.fresh else "held-out training pictures",
            "chance": task.chance,
            "accuracy": {name: values[task.question] for name, values in accuracy.items()},
        }
        for task in tasks
    }


def overall(report: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Each model's accuracy over all test pictures of all questions, after "chance"."""
    weights = np.array([entry["tested"] for entry in report.values()])
    columns = [{"chance": entry["chance"], **entry["accuracy"]} for entry in report.values()]
    return {name: float(np.average([column[name] for column in columns], weights=weights)) for name in columns[0]}


def _validation(run_folder: Path) -> Asked:
    try:
        file, images = recorded_questions(run_folder, "validation")
    except SkdError:
        return {}
    return read_asked(file, images, follow_links=_follows_links(run_folder))


def _follows_links(run_folder: Path) -> bool:
    return bool(recorded_recipe(run_folder)["data"].get("follow_links", False))


def read_asked(file: Path, images: Path, *, follow_links: bool = False) -> Asked:
    """Every question of a LLaVA file and its answer, by picture; records that can't be used are left out, as in training.

    Raises:
        DataError: the file itself can't be read.
    """
    records = RecordFile(file)
    asked: Asked = defaultdict(dict)
    for place in scan_records(file):
        try:
            record = read_record(records.read(*place))
            if len(record.images) != 1:  # the features are looked into of one picture
                continue
            picture = picture_path(images, record.images[0], follow_links=follow_links)
        except BadRecordError:
            continue
        for question, answer in exchanges(record.messages):
            asked[picture].setdefault(question, normalise(answer))
    return dict(asked)


def probe_tasks(training: Asked, validation: Asked, *, pictures: int = 1500, questions: int = 12) -> list[Task]:
    """The most frequent questions whose answers repeat, over at most so many training pictures.

    Raises:
        DataError: no question is asked of enough pictures.
    """
    training = {picture: answers for picture, answers in training.items() if picture not in validation}
    chosen = _frequent(training)[:questions]
    with_one = sorted(picture for picture, answers in training.items() if answers.keys() & set(chosen))
    order = np.random.default_rng(0).permutation(len(with_one))[:pictures]
    taken = {with_one[index]: training[with_one[index]] for index in order}
    tasks = [task for question in chosen if (task := _task(question, taken, validation))]
    if not tasks:
        raise DataError(f"No question with repeating answers is asked of {_MIN_PICTURES} training pictures.")
    return tasks


def _frequent(asked: Asked) -> list[str]:
    """Questions whose answers are classes, those of most pictures first."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for of_picture in asked.values():
        for question, answer in of_picture.items():
            answers[question][answer] += 1
    usable = {question: counts.total() for question, counts in answers.items() if len(_classes(counts)) > 1}
    return sorted(usable, key=lambda question: (-usable[question], question))


def _classes(counts: Counter[str]) -> set[str]:
    """Answers that repeat; none where too many others don't."""
    classes = {answer for answer, count in counts.items() if count >= _MIN_CLASS}
    return classes if sum(counts[answer] for answer in classes) >= _MIN_COVERED * counts.total() else set()


def _task(question: str, training: Asked, validation: Asked) -> Task | None:
    rows = [(picture, answers[question]) for picture, answers in training.items() if question in answers]
    tested = [(picture, answers[question]) for picture, answers in validation.items() if question in answers]
    if len(rows) < _MIN_PICTURES:
        return None
    fresh = len(tested) >= _MIN_TESTED
    if not fresh:
        rows, tested = [row for n, row in enumerate(rows) if n % _HELD_OUT], rows[::_HELD_OUT]
    # Too rare an answer can't be fitted; where it is tested, it counts as wrong.
    classes = _classes(Counter(answer for _, answer in rows))
    rows = [row for row in rows if row[1] in classes]
    return Task(question, tuple(rows), tuple(tested), fresh) if len(classes) > 1 else None


def readable_tasks(tasks: Sequence[Task], console: Console) -> list[Task]:
    """The tasks without the pictures that can't be decoded, whose number is told.

    Raises:
        DataError: of no task enough is left.
    """
    unreadable = set()
    for picture in {picture for task in tasks for picture, _ in (*task.fitted, *task.tested)}:
        try:
            open_image(picture)
        except DataError:
            unreadable.add(picture)
    if not unreadable:
        return [*tasks]
    console.print(
        f"[yellow]warning[/]: {len(unreadable)} pictures can't be read and are left out, e.g. {min(unreadable)}"
    )
    left = []
    for task in tasks:
        fitted, tested = (tuple(row for row in rows if row[0] not in unreadable) for rows in (task.fitted, task.tested))
        if tested and len({answer for _, answer in fitted}) > 1:
            left.append(replace(task, fitted=fitted, tested=tested))
    if not left:
        raise DataError("Too few of the pictures can be read for any question.")
    return left


@torch.inference_mode()
def tower_features(
    model: Path, pictures: Sequence[Path], console: Console, *, title: str = "looking", batch_size: int = 64
) -> Floats:
    """What the model's projector gets of each picture: [N, patches · width], held in memory whole."""
    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vlm, preprocess = load_vlm(model).to(device).eval(), Preprocess.load(model)
    rows = []
    starts = range(0, len(pictures), batch_size)
    for start in track(starts, description=title, console=console, disable=not console.is_terminal, transient=True):
        batch = [preprocess(open_image(picture)) for picture in pictures[start : start + batch_size]]
        features = vision_features(vlm, torch.from_numpy(np.stack(batch)).to(device))  # [I, P, W]
        rows.append(features.flatten(1).float().cpu().numpy())
    return np.concatenate(rows)


def probe(tasks: Sequence[Task], features: Mapping[Path, Floats]) -> dict[str, float]:
    """Accuracy of a linear probe on each task's test pictures, by question.

    Args:
        features: [D] of every picture that the tasks name.
    """
    return {task.question: _accuracy(task, features) for task in tasks}


def _accuracy(task: Task, features: Mapping[Path, Floats]) -> float:
    (fitted, labels), (tested, expected) = (
        (np.stack([features[picture] for picture, _ in rows]), np.array([answer for _, answer in rows]))
        for rows in (task.fitted, task.tested)
    )
    return float(np.mean(linear_probe(fitted, labels, tested) == expected))


def linear_probe(features: Floats, labels: Labels, tested: Floats) -> Labels:
    """Ridge regression, one class against the rest, on standardised features.

    The penalty is the one that is best for every fourth row when the others are fitted (the strongest among equals);
    all rows are fitted with it.

    Args:
        features: [N, D].
        labels: [N].
        tested: [M, D].

    Returns:
        The predicted labels [M].
    """
    held_out = np.arange(len(labels)) % _HELD_OUT == 0
    guesses = ridge(features[~held_out], labels[~held_out], features[held_out], STRENGTHS)
    right = [np.sum(guess == labels[held_out]) for guess in guesses]
    return ridge(features, labels, tested, (STRENGTHS[int(np.argmax(right))],))[0]


def ridge(features: Floats, labels: Labels, tested: Floats, strengths: Sequence[float]) -> list[Labels]:
    """Predictions [M] for each penalty, in closed form.

    W = Xᵀ(XXᵀ + λI)⁻¹Y for the standardised X [N, D] and Y [N, classes] of 1 and 0, less its mean: the dual form, since
    a picture has more features than there are pictures. λ is the strength times the mean eigenvalue of XXᵀ.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = 1
    x, z = (features - mean) / spread, (tested - mean) / spread
    classes, index = np.unique(labels, return_inverse=True)
    targets = np.eye(len(classes))[index]  # [N, classes]
    values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
    projected = vectors.T @ (targets - targets.mean(axis=0))
    across = (z @ x.T).astype(np.float64) @ vectors  # [M, N]
    unit = values.mean() or 1.0
    scores = (
        across @ (projected / (np.maximum(values, 0) + strength * unit)[:, None]) + targets.mean(axis=0)
        for strength in strengths
    )
    return [classes[score.argmax(axis=1)] for score in scores]
