"""What is in a data file: lengths, answers, shapes of pictures, and what a model's processor makes of these. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from switchkd.data.index import Index, RecordFile, Source
from switchkd.data.questions import exchanges
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import Record, picture_path, read_record
from switchkd.errors import DataError
from switchkd.pictures import image_size
from switchkd.preprocess import Preprocess
from switchkd.scoring import normalise

_LOOKED_AT = 4000  # usable records, evenly over the file
_FREQUENT = 5  # answers and sizes that are named


@dataclass(frozen=True)
class Spread:
    """Of some numbers."""

    median: float
    high: float  # 95 % are no larger
    most: float


@dataclass(frozen=True)
class Frequent:
    """The most frequent of some things."""

    total: int  # things
    different: int
    named: list[tuple[str, float]]  # (what, its share of all), the most frequent first


@dataclass(frozen=True)
class Statistics:
    """A data file in numbers; answers and pictures of its usable records, or evenly of as many as are looked at."""

    records: int  # usable
    looked_at: int  # of these
    tokens: Spread | None  # of all records whose tokens can be counted, the picture's included; None: of no record
    too_long: int  # of these records
    answers: Frequent  # after VQA's normalisation
    sizes: Frequent  # of pictures, each counted once a record
    aspect: Spread | None  # longer side over shorter; None: without pictures
    changes: dict[str, Spread]  # what the model's processor does to the pictures, see `Preprocess.change`


def data_statistics(source: Source, index: Index, preprocess: Preprocess) -> Statistics:
    """Counts an index, and reads some thousand records and their pictures' headers."""
    tokens = index.tokens[index.tokens > 0]
    usable = index.usable
    chosen = usable[np.linspace(0, len(usable) - 1, min(len(usable), _LOOKED_AT), dtype=np.int64)]
    records = _read(source, index, chosen.tolist())
    pictures = _sizes(source, records)
    changes = [preprocess.change(size) for size in pictures]
    return Statistics(
        records=len(usable),
        looked_at=len(chosen),
        tokens=_spread(tokens.tolist()),
        too_long=int((tokens > source.max_length).sum()),
        answers=_frequent(normalise(answer) for record in records for _, answer in exchanges(record.messages)),
        sizes=_frequent(f"{width} × {height}" for width, height in pictures),
        aspect=_spread([max(size) / min(size) for size in pictures]),
        changes={
            name: spread
            for name in ("stretched", "lost", "filled")
            if (spread := _spread([getattr(change, name) for change in changes]))
        },
    )


def _read(source: Source, index: Index, rows: Sequence[int]) -> list[Record]:
    file, found = RecordFile(source.file), []
    for row in rows:
        try:
            found.append(read_record(file.read(int(index.offset[row]), int(index.size[row]))))
        except BadRecordError:
            continue  # the file has changed meanwhile
    return found


def _sizes(source: Source, records: Iterable[Record]) -> list[tuple[int, int]]:
    found = []
    for record in records:
        for name in record.images:
            try:
                found.append(image_size(picture_path(source.images, name, follow_links=source.follow_links)))
            except (BadRecordError, DataError):
                continue
    return found


def _spread(values: Sequence[float]) -> Spread | None:
    if not len(values):
        return None
    return Spread(*(float(value) for value in np.quantile(values, (0.5, 0.95, 1.0), method="higher")))


def _frequent(things: Iterable[str]) -> Frequent:
    counts = Counter(things)
    named = sorted(counts, key=lambda thing: (-counts[thing], thing))[:_FREQUENT]
    return Frequent(counts.total(), len(counts), [(thing, counts[thing] / counts.total()) for thing in named])
