"""Where each record of a JSON or JSONL file lies, found in one pass with a bounded buffer. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from switchkd.errors import DataError

MAX_RECORD = 64 << 20  # bytes
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_LINES = (".jsonl", ".ndjson")  # how a file of one record a line is named
# How files begin that hold records, but not as UTF-8: what they are, and what to do.
_OTHERS = {
    b"\xff\xfe": "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\x1f\x8b": "is a gzip archive; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is a Parquet table; save it as JSON, one record a line",
}


def scan_records(path: Path) -> Iterator[tuple[int, int]]:
    """(byte offset, byte size) of each record: the items of a .json file's list, or the lines of a .jsonl file.

    A JSONL line isn't parsed here: a torn one costs only itself, whoever reads it.

    Raises:
        DataError: the file is missing or not UTF-8 text; a .json file isn't one list or breaks off (the message names the
            byte); a record exceeds MAX_RECORD.
    """
    try:
        with path.open("rb") as stream:
            _check_beginning(stream.read(4), path)
            stream.seek(0)
            if stream.read(len(_BOM)) != _BOM:
                stream.seek(0)
            yield from _scan_lines(stream, path) if path.suffix.lower() in _LINES else _scan_list(stream, path)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error


def _check_beginning(head: bytes, path: Path) -> None:
    other = next((what for beginning, what in _OTHERS.items() if head.startswith(beginning)), None)
    if other is None and b"\0" in head:
        other = "isn't UTF-8 text"
    if other is not None:
        raise DataError(f"{path} {other}.")


def _scan_lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
    offset = stream.tell()
    while line := stream.readline(MAX_RECORD):
        if len(line) == MAX_RECORD:
            raise DataError(f"{path} has a line longer than {MAX_RECORD:,} bytes at byte {offset}.")
        if line.strip():
            yield offset, len(line)
        offset += len(line)


def _scan_list(stream: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
    window = _Window(stream, path)
    if window.next_character() != "[":
        raise window.error("a list of records is expected; a file of one record a line is to be named .jsonl")
    window.position += 1
    if window.next_character() != "]":
        while True:
            window.next_character()
            yield window.skip_value()
            separator = window.next_character()
            if separator == "]":
                break
            if separator != ",":
                raise window.error("expected ',' or ']' after a record" if separator else "the file breaks off")
            window.position += 1
    window.position += 1
    if window.next_character():
        raise window.error("text after the list's end")


class _Window:
    """A part of the file as text. Latin-1 makes each byte one character, so that positions are byte offsets; JSON's
    own signs are ASCII and never occur inside a UTF-8 sequence."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._start = stream.tell()  # of the buffer in the file
        self._buffer = ""
        self._decoder = json.JSONDecoder()
        self.position = 0  # in the buffer

    def next_character(self) -> str:
        """The next character that isn't space, at which `position` then stands; "" at the end of the file."""
        while True:
            self.position = _SPACE.match(self._buffer, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self._buffer):
                return self._buffer[self.position]
            if not self._read_more(_CHUNK):
                return ""

    def skip_value(self) -> tuple[int, int]:
        """Offset and size of the JSON value at `position`, which moves behind it."""
        amount = _CHUNK
        while True:
            failure = None
            try:
                _, end = self._decoder.raw_decode(self._buffer, self.position)
            except (ValueError, RecursionError) as error:
                end = len(self._buffer)
                failure = self.error(getattr(error, "msg", str(error)), getattr(error, "pos", None))
            size = end - self.position
            if size > MAX_RECORD:
                raise self.error(f"no record ends within {MAX_RECORD:,} bytes")
            # What the buffer's end cuts off may be whole with more; a number as late as before "e+" (of 1e+5).
            if end + 2 >= len(self._buffer) and self._read_more(amount):
                amount *= 2
                continue
            if failure:
                raise failure
            start = self._start + self.position
            self.position = end
            return start, size

    def error(self, what: str, position: int | None = None) -> DataError:
        position = self.position if position is None else position
        return DataError(f"{self._path} isn't valid JSON at byte {self._start + position}: {what}.")

    def _read_more(self, amount: int) -> bool:
        """Appends to the buffer, dropping what lies before `position`; false, and no change, at the end of the file."""
        more = self._stream.read(amount)
        if more:
            self._buffer = self._buffer[self.position :] + more.decode("latin-1")
            self._start += self.position
            self.position = 0
        return bool(more)
