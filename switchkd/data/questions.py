"""Test questions in the LLaVA form: a question, its expected answer, and the group it is counted in. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.data.index import RecordFile
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import picture_paths, read_record
from switchkd.data.scan import scan_records
from switchkd.errors import DataError


@dataclass(frozen=True)
class Question:
    """One question of a test."""

    id: str
    kind: str  # the group whose accuracy it counts for; "all" where the file names none
    images: tuple[Path, ...]  # in the order of their parts; none: a question of text only
    messages: list[dict[str, Any]]  # the prompt, without the answer
    answer: str  # expected


def read_questions(file: Path, images: Path | None, *, follow_links: bool = False) -> list[Question]:
    """Reads a test file whole; a test is complete or it is none, so nothing is left out. A record of several turns is as many
    questions, `ID/1`, `ID/2` …, each asked with the true turns before it.

    Args:
        follow_links: links in the picture folder may lead out of it.

    Raises:
        DataError: the file isn't valid, or a record can't be used or lacks its picture.
    """
    records = RecordFile(file)
    places = enumerate(scan_records(file), 1)
    questions = [
        question
        for number, place in places
        for question in _read_questions(records.read(*place), number, file, images, follow_links)
    ]
    if not questions:
        raise DataError(f"{file} has no questions.")
    return questions


def question_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The words of a conversation's last message, without the pictures."""
    content = messages[-1]["content"]
    parts = content if isinstance(content, list) else [{"text": content}]
    return " ".join(part["text"].strip() for part in parts if part.get("text"))


def exchanges(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each question's words in a conversation, and its answer."""
    for index, message in enumerate(messages[:-1]):
        if message["role"] == "user":
            yield question_text(messages[: index + 1]), messages[index + 1]["content"]


def _read_questions(raw: bytes, number: int, file: Path, images: Path | None, follow_links: bool) -> Iterator[Question]:
    """A record's, one for each of its answers."""
    name = f"record {number}"
    try:
        record = read_record(raw)
        name = record.id or name
        paths = picture_paths(images, record.images, follow_links=follow_links)
    except BadRecordError as error:
        raise DataError(f"{file}, {name} can't be used ({error.reason.name.lower()}): {error}.") from error
    places = [place for place, message in enumerate(record.messages) if message["role"] == "assistant"]
    for turn, place in enumerate(places, 1):
        prompt, answer = record.messages[:place], record.messages[place]["content"]
        if not answer.strip():
            raise DataError(f"{file}, {name} can't be used: its answer {turn} is empty.")
        try:
            answer.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{file}, {name} can't be used: its answer isn't Unicode.") from error
        own = record.id or str(number)
        yield Question(
            own if len(places) == 1 else f"{own}/{turn}",
            record.kind,
            paths[: sum(map(_pictures_in, prompt))],  # others come with later turns
            prompt,
            answer,
        )


def _pictures_in(message: Mapping[str, Any]) -> int:
    content = message["content"]
    return sum(part["type"] == "image" for part in content) if isinstance(content, list) else 0
