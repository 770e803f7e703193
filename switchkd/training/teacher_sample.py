"""Whether a teacher knows the task that it is to teach: a sample of questions, asked before any training."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from switchkd.data.answers import answer_all, read_answers, write_answers
from switchkd.data.habits import baselines
from switchkd.data.index import RecordFile
from switchkd.data.questions import Question
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import picture_paths, read_record
from switchkd.data.scan import scan_records
from switchkd.errors import DataError, SkdError
from switchkd.files import file_sha256, folder_sha256
from switchkd.models.answerer import Answerer
from switchkd.pictures import open_image
from switchkd.prompt import count_images
from switchkd.scoring import is_right, normalise

SAMPLE = 64  # questions
_FEWEST = 8  # that say something
_SHORT = 3  # words; longer answers are seldom given word for word
_LOOKED_AT = 40 * SAMPLE  # records, evenly over the file


@dataclass(frozen=True)
class Knowledge:
    """How a teacher answered, beside what needs no look at the pictures."""

    right: int
    total: int
    majority: str  # the sample's most frequent answer
    majority_right: int  # how often it is right
    blind_right: int | None = None  # by the habits of the training data; None where the sample is of these themselves

    @property
    def doubtful(self) -> bool:
        """Whether one does as well without looking."""
        return self.right <= max(self.majority_right, self.blind_right or 0)

    def __str__(self) -> str:
        asked = "training" if self.blind_right is None else "evaluation"
        blind = "" if self.blind_right is None else f", the training data's habits, blind, {self.blind_right} times"
        return (
            f"the teacher answers {self.right} of {self.total} sampled {asked} questions right; always saying "
            f"“{self.majority}” would be right {self.majority_right} times{blind}"
        )


def ask_teacher(
    teacher: Path, data: tuple[Path, Path], folder: Path, console: Console, *, training: Path | None = None
) -> Knowledge | None:
    """Asks a teacher a sample of what it is to teach, and tells how it did, with a warning where one does as well without
    looking.

    Args:
        data: the file of the questions, and the folder of its pictures.
        folder: keeps the answers, which aren't asked for again.
        training: the file that the student is trained on, where `data` are others for evaluation.

    Returns:
        None where too few questions have short answers, or the teacher can't be asked.
    """
    file, images = data
    kept = folder / f"{folder_sha256(teacher)[:12]}-{file_sha256(file)[:12]}-sample.json"
    if not kept.exists():
        questions = [question for question in sample_questions(file, images) if _can_be_seen(question)]
        if len(questions) < _FEWEST:
            console.print(f"the teacher wasn't asked a sample first: {file} has too few questions with short answers")
            return None
        try:
            answers = answer_all(Answerer(teacher), questions, console, title="asking the teacher")
        except SkdError as error:
            console.print(f"the teacher couldn't be asked a sample first: {error}", markup=False)
            return None
        write_answers(kept, questions, answers)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    knowledge = judge([(row["answer"] or "", row["expected"]) for row in read_answers(kept)])
    if training is not None:
        sampled = [question for question in sample_questions(file, images) if _can_be_seen(question)]
        knowledge = replace(knowledge, blind_right=baselines(training, sampled).blind["all"].right)
    style, mark = ("yellow", "warning: ") if knowledge.doubtful else (None, "")
    end = ": it can't teach this, and what it gets wrong the student learns from it" if knowledge.doubtful else ""
    console.print(f"{mark}{knowledge}{end}", style=style, markup=False, highlight=False, soft_wrap=True)
    return knowledge


def judge(answers: Sequence[tuple[str, str]]) -> Knowledge:
    """Compares (given, expected) answers with what always giving the most frequent expected one would have got."""
    (frequent, count), *_ = Counter(normalise(expected) for _, expected in answers).most_common(1)
    return Knowledge(sum(is_right(*pair) for pair in answers), len(answers), frequent, count)


def sample_questions(file: Path, images: Path) -> list[Question]:
    """Opening questions with short answers out of a training file, evenly over it; fewer than `SAMPLE` where it has fewer.

    Records that can't be used are passed over: training counts them.
    """
    places = list(enumerate(scan_records(file), 1))
    chosen = places[:: max(1, len(places) // _LOOKED_AT)]
    found = list(_short_questions(file, images, chosen))
    return list(islice(found[:: max(1, len(found) // SAMPLE)], SAMPLE))


def _short_questions(file: Path, images: Path, places: list[tuple[int, tuple[int, int]]]) -> Iterator[Question]:
    records = RecordFile(file)
    for number, place in places:
        try:
            record = read_record(records.read(*place))
            first = next(n for n, message in enumerate(record.messages) if message["role"] == "assistant")
            prompt, answer = record.messages[:first], record.messages[first]["content"]
            shown = sum(map(count_images, prompt))
            paths = picture_paths(images, record.images[:shown])
        except BadRecordError:
            continue
        if 0 < len(answer.split()) <= _SHORT and normalise(answer):
            yield Question(record.id or str(number), record.kind, paths, prompt, answer)


def _can_be_seen(question: Question) -> bool:
    try:
        for path in question.images:
            open_image(path)
    except DataError:
        return False
    return True
