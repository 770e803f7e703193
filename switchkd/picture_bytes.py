"""What of a picture's file decides how it looks, and what of it only could keep it from being read. No torch.

Pillow refuses a PNG for a damaged or a big comment, though its pixels are all there. So only the chunks that decide how the
picture looks are shown to it; the others are passed over in the file, and take no memory.
"""

from __future__ import annotations

import io
import re
import zlib
from bisect import bisect_right
from itertools import accumulate
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20  # the bit of a chunk's first letter that lets a reader leave it out
_SHOWING = (b"tRNS", b"eXIf")  # ancillary, but they decide how the picture looks: transparency, orientation
_SMALL = 1 << 16  # bytes; such a chunk is checked, a bigger one is none of these two

# JPEG's markers that a length follows, and the end of the picture. The rest stands alone or only looks like one.
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_SCAN, _END, _RESTARTS, _RESTART = 0xDA, 0xD9, 0xDD, 0xD0
_MARKER = re.compile(rb"\xff([^\x00\xff])")
# What is put where a JPEG's end is missing. Pixels that aren't in the file are made of it, and so differ.
_TAILS = (b"", b"\xaa" * 256, b"\x6d" * 256, b"\xff\x00" * 256)
_LONGEST_JPEG = 1 << 28  # bytes

_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
_BOX = (b"ftyp", 4)
# How files begin that people take for pictures: (bytes, at which place) → what it is.
_BEGINNINGS = {
    (b"\xff\x0a", 0): "JPEG XL",
    (b"\x00\x00\x00\x0cJXL ", 0): "JPEG XL",
    (b"%PDF", 0): "a PDF",
    (b"version https://git-lfs", 0): "a pointer of Git LFS (`git lfs pull` gets the picture)",
    (b"\x1aE\xdf\xa3", 0): "a video (Matroska or WebM)",
    (b"AVI ", 8): "a video (AVI)",
    (b"PK\x03\x04", 0): "a zip archive",
    (b"\x1f\x8b", 0): "a gzip archive",
    (b"\x93NUMPY", 0): "a numpy array",
}
_MARKUP = re.compile(rb"<svg|<!doctype\s+html|<html", re.IGNORECASE)


def shown_part(stream: BinaryIO) -> BinaryIO:
    """The stream itself, at its beginning; or, of a PNG, one of only the chunks that decide how the picture looks."""
    stream.seek(0)
    if stream.read(len(_PNG)) != _PNG:
        stream.seek(0)
        return stream
    parts, dropped = [(0, len(_PNG))], False
    while len(head := stream.read(8)) == 8:
        start, size = stream.tell() - 8, int.from_bytes(head[:4]) + 12  # length, name and checksum included
        if head[4] & _ANCILLARY and not _is_shown(stream, head):
            dropped = True
        elif parts[-1][0] + parts[-1][1] == start:
            parts[-1] = (parts[-1][0], parts[-1][1] + size)
        else:
            parts.append((start, size))
        stream.seek(start + size)
    stream.seek(0)
    return io.BufferedReader(_Spliced(stream, parts)) if dropped else stream


def _is_shown(stream: BinaryIO, head: bytes) -> bool:
    """Whether an ancillary chunk, whose length and name were just read, is wanted and undamaged."""
    size, name = int.from_bytes(head[:4]), head[4:]
    if name not in _SHOWING or size > _SMALL:
        return False
    body = stream.read(size + 4)
    return zlib.crc32(name + body[:-4]) == int.from_bytes(body[-4:])


class _Spliced(io.RawIOBase):
    """Parts (start, size) of a stream as one."""

    def __init__(self, stream: BinaryIO, parts: list[tuple[int, int]]) -> None:
        self._stream, self._parts = stream, parts
        self._starts = [0, *accumulate(size for _, size in parts)]  # of each part in this stream, and its end
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._place >= self._starts[-1]:
            return 0
        part = bisect_right(self._starts, self._place) - 1
        start, size = self._parts[part]
        within = self._place - self._starts[part]
        self._stream.seek(start + within)
        data = self._stream.read(min(len(buffer), size - within))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def ended_jpegs(stream: BinaryIO) -> list[bytes]:
    """A JPEG that breaks off, with different ends. Where they all show the same, the file holds every pixel."""
    stream.seek(0)
    data = stream.read(_LONGEST_JPEG + 1)
    if len(data) > _LONGEST_JPEG:
        return []
    end = _pixels_end(data)
    return [] if end is None else [data[:end] + tail + bytes((0xFF, _END)) for tail in _TAILS]


def _pixels_end(jpeg: bytes) -> int | None:
    """Where a JPEG's last scan ends: at the data's end, or at a marker that ends it, behind which no decoder looks for pixels.
    None where it breaks off before."""
    place, restarts = 2, False
    while jpeg[place : place + 1] == b"\xff":
        marker = jpeg[place + 1 : place + 2]
        size = int.from_bytes(jpeg[place + 2 : place + 4])
        if not marker or not _SEGMENT.match(jpeg, place) or size < 2 or place + 2 + size > len(jpeg):
            return None
        restarts |= marker[0] == _RESTARTS and any(jpeg[place + 4 : place + 6])
        place += 2 + size
        if marker[0] == _SCAN:
            place = _scan_end(jpeg, place, restarts)
            if jpeg[place + 1 : place + 2] in (b"", bytes((_END,))) or not _SEGMENT.match(jpeg, place):
                return place
    return None


def _scan_end(jpeg: bytes, place: int, restarts: bool) -> int:
    """The next marker behind `place`, or the data's end; restarts in their order belong to the scan."""
    expected = 0
    while found := _MARKER.search(jpeg, place):
        if not restarts or found[1][0] != _RESTART + expected or found.end() == len(jpeg):
            return found.start()
        expected = (expected + 1) % 8
        place = found.end()
    return len(jpeg.rstrip(b"\xff"))  # the first half of a marker


def count_scans(jpeg: bytes) -> int:
    """Start-of-scan markers up to the picture's end; not those of a thumbnail or a film in the same file."""
    count, place = 0, 0
    while found := _SEGMENT.search(jpeg, place):
        marker, place = jpeg[found.end() - 1], found.end()
        if marker == _END:
            break
        count += marker == _SCAN
        place += max(2, int.from_bytes(jpeg[place : place + 2]))
    return count


def other_kind(head: bytes) -> str | None:
    """What a file is, by its first 512 bytes, that holds no picture of a kind that is read; None where nothing tells."""
    mark, place = _BOX
    if head[place : place + 4] == mark:
        size = min(int.from_bytes(head[:4]), len(head))
        brands = {head[8:12], *(head[start : start + 4] for start in range(16, size, 4))}
        if brands & _AVIF:  # of HEIC's family, and read
            return None
        return "HEIC" if brands & _HEIF else "a video (MP4)"
    for (beginning, place), kind in _BEGINNINGS.items():
        if head[place : place + len(beginning)] == beginning:
            return kind
    if found := _MARKUP.search(head):
        return "SVG" if found[0].lower() == b"<svg" else "an HTML page"
    return None
