"""Pictures in odd files: chunks, EXIF, depths and ends that cameras and converters leave behind."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

LONG, RATIONAL, SIGNED_RATIONAL, FLOAT, ORIENTATION, X_RESOLUTION = 4, 5, 10, 11, 0x0112, 0x011A


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Random pixels, the same for a size and a seed."""
    random = np.random.default_rng((seed, *size))
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def encoded(form: str, size: tuple[int, int] = (200, 200), **options: object) -> bytes:
    """Noise as a file of this form."""
    return saved(noise(size), form, **options)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """A picture as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes, *, damaged: bool = False) -> bytes:
    """A PNG chunk; a damaged one has another checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ damaged)


def with_chunks(png: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    """A PNG with more chunks, behind IHDR or before IEND."""
    place = len(png) - 12 if at_end else 33
    return png[:place] + b"".join(chunks) + png[place:]


def exif(tag: int, kind: int, value: bytes, count: int = 1) -> bytes:
    """A JPEG's EXIF segment of one entry, whose value is put behind the table where it is longer than four bytes."""
    place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", 26)
    body = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHI", 1, tag, kind, count) + place + b"\0" * 4
    body = b"Exif\0\0" + body + (value if len(value) > 4 else b"")
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def with_segment(jpeg: bytes, segment: bytes) -> bytes:
    """A JPEG with one more segment, in front of the others."""
    return jpeg[:2] + segment + jpeg[2:]


def grey_png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit grey."""
    return saved(Image.fromarray(values.astype(np.uint16)), "PNG")


def colour_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow can't write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
