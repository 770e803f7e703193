"""Pictures with text to prove, measure or calibrate an export on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from switchkd.data.index import RecordFile
from switchkd.data.questions import read_questions
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import picture_paths, read_record
from switchkd.data.scan import scan_records
from switchkd.errors import DataError
from switchkd.pictures import open_image
from switchkd.prompt import Message

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Sample:
    """One conversation, with pictures or without."""

    messages: Sequence[Message]
    pictures: Sequence[Path | Image.Image] = ()  # in the order of their parts; none: text alone
    answer: str | None = None  # the expected one, where it is known

    def images(self) -> list[Image.Image]:
        """The pictures, decoded. Raises DataError where one can't be."""
        return [open_image(picture) if isinstance(picture, Path) else picture for picture in self.pictures]


def synthetic_samples(count: int, seed: int = 0) -> list[Sample]:
    """Made-up pictures of several shapes, from soft to noisy, with questions of several lengths."""
    random = np.random.default_rng(seed)
    questions = ("What is this?", "Describe the picture in one sentence.", "How many cars are there, and where?")
    return [
        Sample(_question(questions[index % len(questions)]), [_synthetic_picture(random, cells=2 ** (1 + index % 5))])
        for index in range(count)
    ]


@dataclass(frozen=True)
class SampleFile:
    """A file in the LLaVA form, of which samples are taken that spread evenly over it."""

    file: Path
    images: Path  # its picture folder
    follow_links: bool = False  # links in the picture folder may lead out of it
    leave_out: Callable[[str], None] = lambda _: None  # told why, for each that is left out

    def questions(self, count: int) -> list[Sample]:
        """Of a test file, see `read_questions`; those with a torn picture are left out.

        Raises:
            DataError: the file can't be used, or none of its pictures.
        """
        asked = _spread(read_questions(self.file, self.images, follow_links=self.follow_links), count)
        samples = [Sample(question.messages, question.images, question.answer) for question in asked]
        seen = [sample for sample in samples if self._can_be_seen(sample)]
        if not seen:
            raise DataError(f"No picture of the questions in {self.file} can be used.")
        return seen

    def conversations(self, count: int) -> list[Sample]:
        """Whole ones of a training file; what can't be used is left out. Raises DataError where nothing can be."""
        records, samples = RecordFile(self.file), []
        for place in _spread(list(scan_records(self.file)), count):
            try:
                record = read_record(records.read(*place))
                pictures = picture_paths(self.images, record.images, follow_links=self.follow_links)
            except BadRecordError as error:
                self.leave_out(f"{error.reason.name.lower()}: {error}")
                continue
            sample = Sample(record.messages, pictures)
            if self._can_be_seen(sample):
                samples.append(sample)
        if not samples:
            raise DataError(
                f"{self.file} has no usable record to calibrate on; its pictures are sought in {self.images}."
            )
        return samples

    def _can_be_seen(self, sample: Sample) -> bool:
        try:
            sample.images()
        except DataError as error:
            self.leave_out(str(error))
            return False
        return True


def _question(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def _synthetic_picture(random: np.random.Generator, cells: int) -> Image.Image:
    width, height = (int(side) for side in random.integers(40, 400, 2))
    coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
