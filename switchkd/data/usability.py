"""What an index found, for people: how many records can be used, and why the others can't. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from switchkd.data.index import Checker, Index, RecordFile, Source
from switchkd.data.reasons import Reason
from switchkd.data.records import record_id
from switchkd.errors import DataError

_EXAMPLES = 5  # named for each reason


@dataclass(frozen=True)
class Usability:
    """A LLaVA file in numbers."""

    file: Path
    total: int  # records
    usable: int  # records
    text_only: int  # usable records without a picture
    several: int  # usable records with more than one
    most_pictures: int  # of a usable record
    bad: dict[str, int]  # records by reason (a lower-case Reason), the most frequent first
    examples: dict[str, list[str]]  # up to five ids for each of these reasons; "record N" where it has none
    why: dict[str, str]  # of the first of these, what is wrong with it, in words

    def check(self, max_bad: float = 0.01) -> None:
        """Raises DataError if more than this share of the records, or all of them, can't be used."""
        unusable = self.total - self.usable
        if self.total and self.usable and unusable <= max_bad * self.total:
            return
        if not self.total:
            raise DataError(f"{self.file} has no records.")
        causes = ", ".join(
            f"{count} {name} ({', '.join(self.examples[name])}: {self.why[name]})" for name, count in self.bad.items()
        )
        advice = f"correct them, or allow more than {max_bad:.1%} with max_bad" if self.usable else "correct them"
        raise DataError(f"{unusable} of {self.total} records of {self.file} can't be used: {causes}; {advice}.")


def count_usable(source: Source, index: Index) -> Usability:
    """Counts an index; reads only the few records that serve as examples from the file."""
    file = source.file
    usable = index.usable
    pictures = index.pictures[usable]
    counts = np.bincount(index.reason, minlength=len(Reason))
    reasons = sorted((reason for reason in Reason if reason and counts[reason]), key=lambda reason: -counts[reason])
    return Usability(
        file=file,
        total=len(index),
        usable=len(usable),
        text_only=int((pictures == 0).sum()),
        several=int((pictures > 1).sum()),
        most_pictures=int(pictures.max(initial=0)),
        bad={reason.name.lower(): int(counts[reason]) for reason in reasons},
        examples={reason.name.lower(): _examples(file, index, reason) for reason in reasons},
        why={reason.name.lower(): _why(source, index, reason) for reason in reasons},
    )


def _examples(file: Path, index: Index, reason: Reason) -> list[str]:
    records = RecordFile(file)
    rows = np.flatnonzero(index.reason == reason)[:_EXAMPLES].tolist()
    names = (record_id(records.read(int(index.offset[row]), int(index.size[row]))) for row in rows)
    return [f"record {row + 1}" if name is None else name for row, name in zip(rows, names, strict=True)]


def _why(source: Source, index: Index, reason: Reason) -> str:
    row = int(np.flatnonzero(index.reason == reason)[0])
    return " ".join(Checker(source).why(int(index.offset[row]), int(index.size[row])).split())
