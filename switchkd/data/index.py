"""The index of a LLaVA file: where each record lies, how long it is, whether and why not it can be used. No torch.

A file of 665,000 records becomes five arrays of 14 MB in all, checked once and kept on disk; the records themselves
stay in the file and are read by offset.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from switchkd.data.reasons import PICTURE_REASONS, BadRecordError, Reason
from switchkd.data.records import Record, picture_paths, read_record
from switchkd.data.scan import scan_records
from switchkd.errors import DataError
from switchkd.pictures import UnsupportedPictureError, check_image_header, open_image
from switchkd.prompt import ChatPrompt

Progress = Callable[[int, int], None]  # (bytes of the file done, bytes of the file)

_FORMAT = 3  # raise it when the checks or the arrays change, so that older caches are made anew
_CHUNK = 256  # records a task
_SPOT_CHECKS = 256  # pictures of a stored index that are looked at again


@dataclass(frozen=True)
class Source:
    """A LLaVA file and how its records are to be read."""

    file: Path  # .json (one list) or .jsonl (one record a line)
    images: Path | None  # the folder that holds the pictures; None where all records are text
    prompt: ChatPrompt
    image_tokens: int  # tokens that one picture takes
    max_length: int  # tokens; longer records are unusable, none is cut
    verify: Literal["full", "header"] = "full"  # decode every picture, or read its header only
    follow_links: bool = False  # links in the picture folder may lead out of it


@dataclass(frozen=True)
class Index:
    """What is known of each of a file's N records, in the file's order."""

    offset: NDArray[np.int64]  # [N] byte at which the record starts
    size: NDArray[np.int32]  # [N] bytes
    tokens: NDArray[np.int32]  # [N] length of its ids, its pictures' tokens included; 0 where it has none
    pictures: NDArray[np.int32]  # [N] how many it has
    reason: NDArray[np.uint8]  # [N] a Reason; 0 is usable

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def usable(self) -> NDArray[np.int64]:
        """Positions of the usable records."""
        return np.flatnonzero(self.reason == Reason.USABLE)


_TYPES = {"offset": np.int64, "size": np.int32, "tokens": np.int32, "pictures": np.int32, "reason": np.uint8}


class RecordFile:
    """Reads records by offset. Safe to share with forked workers and to pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO | None = None

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from byte `offset` on. Raises DataError where the file ends before, or is gone."""
        try:
            if self._stream is None:
                self._stream = self.path.open("rb")
            raw = os.pread(self._stream.fileno(), size, offset)  # keeps no position that processes would share
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error.strerror or error}.") from error
        if len(raw) != size:
            raise DataError(f"{self.path} has become shorter since it was indexed; start again.")
        return raw

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return RecordFile, (self.path,)


def build_index(
    source: Source, *, workers: int = 0, cache: Path | None = None, progress: Progress | None = None
) -> Index:
    """Checks every record of a file, or takes what an earlier run found.

    Args:
        source: the file and how to read it.
        workers: processes that check records; 0 does it in this one.
        cache: folder for finished indices. One is reused as long as the file, the tokenizer, the template and the
            options are the same, and a few hundred of its pictures are as they were; those that were missing or torn are
            looked at again each time.
        progress: called after each chunk of records.

    Raises:
        DataError: the file can't be read or isn't JSON, or a worker died.
        CheckpointError: the chat template marks no answers.
    """
    source.prompt.require_answer_marks()
    path = None if cache is None else cache / f"{source.file.stem}-{_key(source)}.npz"
    index = None if path is None else _load(path)
    if index is None or not _pictures_still_there(source, index):
        places = scan_records(source.file)
        index = _check_all(source, iter(lambda: list(islice(places, _CHUNK)), []), workers, progress)
    else:
        index, changed = _check_pictures_again(source, index, workers, progress)
        path = path if changed else None
    if path is not None:
        _save(index, path)
    return index


class Checker:
    """Checks records of one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._file = RecordFile(source.file)

    def check(self, places: list[tuple[int, int]]) -> Index:
        """The index of the records at these (offset, size) places."""
        rows = [(offset, size, *self._check_one(offset, size)) for offset, size in places]
        columns = zip(*rows, strict=True)
        return Index(*(np.array(column, dtype=_TYPES[name]) for name, column in zip(_TYPES, columns, strict=True)))

    def why(self, offset: int, size: int) -> str:
        """What is wrong with the record there, in words; "" where nothing is."""
        return str(self._look(offset, size)[2] or "")

    def _check_one(self, offset: int, size: int) -> tuple[int, int, Reason]:
        """(tokens, pictures, reason)"""
        tokens, pictures, error = self._look(offset, size)
        return tokens, pictures, Reason.USABLE if error is None else error.reason

    def _look(self, offset: int, size: int) -> tuple[int, int, BadRecordError | None]:
        tokens, pictures = 0, 0
        try:
            record = read_record(self._file.read(offset, size))
            pictures = len(record.images)
            tokens = self._count_tokens(record)
            self._check_pictures(record)
            if tokens > self._source.max_length:
                words = f"{tokens} tokens, its pictures' included; {self._source.max_length} is the limit"
                raise BadRecordError(Reason.TOO_LONG, words)
            return tokens, pictures, None
        except BadRecordError as error:
            return tokens, pictures, error

    def _count_tokens(self, record: Record) -> int:
        try:
            return len(self._source.prompt.encode(record.messages, image_tokens=self._source.image_tokens).ids)
        except DataError as error:
            raise BadRecordError(Reason.UNSAFE_TEXT, str(error)) from error

    def _check_pictures(self, record: Record) -> None:
        look = open_image if self._source.verify == "full" else check_image_header
        paths = picture_paths(self._source.images, record.images, follow_links=self._source.follow_links)
        try:
            for path in paths:
                look(path)
        except UnsupportedPictureError as error:
            raise BadRecordError(Reason.UNSUPPORTED_PICTURE, str(error)) from error
        except DataError as error:
            raise BadRecordError(Reason.TORN_PICTURE, str(error)) from error


def _check_all(
    source: Source, chunks: Iterator[list[tuple[int, int]]], workers: int, progress: Progress | None
) -> Index:
    checker = Checker(source)
    total = _stat(source.file).st_size
    parts = [Index(*(np.zeros(0, dtype) for dtype in _TYPES.values()))]
    for part in map(checker.check, chunks) if workers == 0 else _check_in_processes(source, chunks, workers):
        parts.append(part)
        if progress:
            progress(int(part.offset[-1]) + int(part.size[-1]), total)
    return Index(*(np.concatenate([getattr(part, name) for part in parts]) for name in _TYPES))


_process_checker: Checker  # of a worker process


def _start_worker(source: Source) -> None:
    global _process_checker
    _process_checker = Checker(source)


def _check_in_worker(places: list[tuple[int, int]]) -> Index:
    return _process_checker.check(places)


def _check_in_processes(source: Source, chunks: Iterator[list[tuple[int, int]]], workers: int) -> Iterator[Index]:
    context = multiprocessing.get_context("spawn")  # a fork could copy a lock that one of our threads holds
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(source,))
    waiting: deque[Future[Index]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_check_in_worker, chunk))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            f"A process that checked {source.file} died, perhaps for lack of memory; use fewer workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _pictures_still_there(source: Source, index: Index) -> bool:
    """Whether some of the pictures that were fine are so still: a folder that isn't mounted this time would otherwise be
    noticed a picture at a time while training."""
    fine = np.flatnonzero((index.reason == Reason.USABLE) & (index.pictures > 0))
    chosen = fine[np.linspace(0, len(fine) - 1, min(len(fine), _SPOT_CHECKS), dtype=np.int64)]
    if not len(chosen):
        return True
    places = list(zip(index.offset[chosen].tolist(), index.size[chosen].tolist(), strict=True))
    return bool((Checker(source).check(places).reason == Reason.USABLE).all())


def _check_pictures_again(source: Source, index: Index, workers: int, progress: Progress | None) -> tuple[Index, bool]:
    """The index after another look at what was wrong with pictures only, and whether that changed anything."""
    again = np.flatnonzero(np.isin(index.reason, PICTURE_REASONS))
    if not len(again):
        return index, False
    places = list(zip(index.offset[again].tolist(), index.size[again].tolist(), strict=True))
    chunks = (places[start : start + _CHUNK] for start in range(0, len(places), _CHUNK))
    reason = index.reason.copy()
    reason[again] = _check_all(source, chunks, workers, progress).reason
    return replace(index, reason=reason), not np.array_equal(reason, index.reason)


def _key(source: Source) -> str:
    """Names all that the index depends on, except the pictures."""
    status = _stat(source.file)
    parts = (
        _FORMAT,
        *(str(source.file.resolve()), status.st_size, status.st_mtime_ns),
        None if source.images is None else str(source.images.resolve()),
        *(source.prompt.fingerprint, source.image_tokens, source.max_length, source.verify, source.follow_links),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error


def _load(path: Path) -> Index | None:
    """A stored index; None where there is none, or one that is torn and so is made anew."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = Index(**{name: arrays[name] for name in _TYPES})
    except Exception:  # a torn zip file raises all kinds
        return None
    columns = [(getattr(index, name), dtype) for name, dtype in _TYPES.items()]
    sound = all(column.dtype == dtype and column.shape == index.offset.shape for column, dtype in columns)
    return index if sound else None


def _save(index: Index, path: Path) -> None:
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, **{name: getattr(index, name) for name in _TYPES})
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(f"The index {path} can't be written: {error.strerror or error}.") from error
