"""Pictures as people have them, opened: decoded whole, upright, RGB; or refused by the reason that is true. No torch."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from switchkd.errors import DataError
from switchkd.picture_bytes import count_scans, ended_jpegs, other_kind, shown_part

MAX_PIXELS = 89_478_485  # 256 MiB as RGB: Pillow's own bound against decompression bombs
MAX_ASPECT = 200  # resizing the short edge of a longer strip would take gigabytes
MAX_SCANS = 100  # of a JPEG; each passes over the whole picture, and progressive ones have about ten

_FILLED = (128, 128, 128)  # what stands for a JPEG's missing blocks
_HEAD = 512  # bytes that tell a file's kind
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))
_JPEGS, _JPEG_START = ("JPEG", "MPO"), b"\xff\xd8"
_BLACK = 16  # of 256: what is darker everywhere has 12 bits or fewer of a channel's 16 in use


class UnsupportedPictureError(DataError):
    """A picture that may be whole, but is of a kind or a size that isn't read."""


def open_image(path: Path | str) -> Image.Image:
    """Reads a picture from disk: fully decoded, upright by its EXIF orientation, RGB as `to_rgb` makes it.

    What doesn't decide how it looks doesn't decide whether it can be read: broken EXIF, PNG's comments and profiles, JPEG's
    end marker where every pixel is there.

    Raises:
        UnsupportedPictureError: it is too large or too narrow, or of a kind that isn't read.
        DataError: there is no such file, it is no picture, or it is torn.
    """
    with _file(path) as stream:
        return _read(stream, str(path), None, MAX_PIXELS)


def decode_image(data: bytes, *, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """The same out of a file's bytes, from somebody who isn't trusted.

    Args:
        data: the file's content.
        formats: Pillow's names of those that are read, e.g. "JPEG".
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        DataError: as `open_image`; also a JPEG whose many scans would take long.
    """
    if data.startswith(_JPEG_START) and count_scans(data) > MAX_SCANS:
        raise DataError(f"The picture has more than {MAX_SCANS} scans; save it as an ordinary JPEG.")
    return _read(io.BytesIO(data), "The picture", formats, max_pixels)


def check_image_header(path: Path | str) -> None:
    """Reads no more than a picture's header. Raises DataError as `open_image`, though not for a torn body."""
    with _file(path) as stream, _quietly():
        _read_header(stream, str(path), None, MAX_PIXELS)


def image_size(path: Path | str) -> tuple[int, int]:
    """(width, height) of a picture as it is shown, by its header. Raises DataError as `check_image_header`."""
    with _file(path) as stream, _quietly():
        image = _read_header(stream, str(path), None, MAX_PIXELS)
        width, height = image.size
        return (height, width) if _turn(image) in _QUARTER_TURNS else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB; transparency shows white, as in transformers' image processors.

    Whole numbers of more than 8 bits are scaled by the bits that the brightest pixel takes, rounded up to an even number as
    cameras' are: 0 to 4095 for 12 bits, in a file of 16 or 32. Pillow and transformers would clip them to white.

    Raises:
        UnsupportedPictureError: floating-point pixels or ones below zero, which have no agreed range.
    """
    if image.mode == "F":
        raise UnsupportedPictureError(
            "Pictures with floating-point pixels aren't supported; save it with 8 bits a channel."
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image)  # to the last bit what transformers composes of two more copies
        return white
    return image.convert("RGB")


def check_size(size: tuple[int, int], name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Raises UnsupportedPictureError for a picture, called `name`, too large or too narrow to be resized."""
    width, height = size
    if width * height > max_pixels:
        raise UnsupportedPictureError(
            f"{name} is {width} × {height} pixels, more than {max_pixels:,}; make it smaller."
        )
    if min(size) == 0 or max(size) > MAX_ASPECT * min(size):
        raise UnsupportedPictureError(
            f"{name} is {width} × {height} pixels: its sides may differ {MAX_ASPECT}-fold at most; crop it."
        )


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise UnsupportedPictureError(
            "Pictures with pixels below zero, or beyond 31 bits, aren't supported; save it with 8 bits a channel."
        )
    bits = max(8, highest.bit_length())
    return (values >> (bits + bits % 2 - 8)).astype(np.uint8)


@contextmanager
def _file(path: Path | str) -> Iterator[BinaryIO]:
    if not Path(path).is_file():
        raise DataError(f"There is no picture {path}.")
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error
    with stream:
        yield stream


@contextmanager
def _quietly() -> Iterator[None]:
    """Pillow warns of what is decided here: of many pixels, of broken EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(stream: BinaryIO, name: str, formats: tuple[str, ...] | None, max_pixels: int) -> Image.Image:
    with _quietly():
        image = _read_header(stream, name, formats, max_pixels)
        try:
            shown = _decode(image, name)
            if image.format not in _JPEGS or not _has_a_grey_corner(shown):
                return shown
            torn = DataError(f"{name} is torn: it ends before its last pixels.")
        except UnsupportedPictureError:
            raise
        except DataError as error:
            torn = error
        whole = _decode_without_end(stream, name, max_pixels) if image.format in _JPEGS else None
        if whole is None:
            raise torn
        return whole


def _read_header(stream: BinaryIO, name: str, formats: tuple[str, ...] | None, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(shown_part(stream), formats=formats)
    except Image.DecompressionBombError as error:
        raise UnsupportedPictureError(f"{name} has too many pixels: {error}") from error
    except Exception as error:  # see _decode
        stream.seek(0)
        if kind := other_kind(stream.read(_HEAD)):
            raise UnsupportedPictureError(f"{name} is {kind}, which isn't read; save it as JPEG or PNG.") from error
        raise DataError(_torn(name, error)) from error
    check_size(image.size, name, max_pixels)
    return image


def _decode(image: Image.Image, name: str) -> Image.Image:
    try:
        cut_to_eight = _is_cut_to_eight_bits(image)
        image.load()
        colours = to_rgb(_upright(image))
    except DataError as error:
        raise UnsupportedPictureError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise all kinds on broken data
        raise DataError(_torn(name, error)) from error
    if cut_to_eight and int(np.asarray(colours).max()) < _BLACK:
        raise UnsupportedPictureError(
            f"{name} is nearly black: its 16 bits a channel hold fewer; save it with 8 bits a channel."
        )
    return colours


def _is_cut_to_eight_bits(image: Image.Image) -> bool:
    """Whether Pillow, which has no colours of 16 bits, takes the upper half of each."""
    layouts = (tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", ()))
    wide = any(isinstance(item, str) and ";16" in item for layout in layouts for item in layout)
    return wide and not image.mode.startswith("I")


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation, where that can be read."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What its EXIF orientation asks for."""
    try:
        value = image.getexif().get(_ORIENTATION)
        return _TURNS.get(float(value[0] if isinstance(value, tuple) else value))  # type: ignore[arg-type, call-overload]
    except Exception:  # there is none; or EXIF is broken, and Pillow raises all kinds on it
        return None


def _decode_without_end(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image | None:
    """A JPEG that breaks off, where every pixel is there."""
    whole: Image.Image | None = None
    for ended in ended_jpegs(stream):
        try:
            image = _decode(_read_header(io.BytesIO(ended), name, ("JPEG",), max_pixels), name)
        except DataError:
            return None
        if whole is not None and image.tobytes() != whole.tobytes():
            return None
        whole = image
    return whole


def _has_a_grey_corner(image: Image.Image) -> bool:
    """Whether a decoder may have filled up a picture's last block: where a marker comes too early, it does so without a word."""
    right, bottom = image.width - 1, image.height - 1
    return any(image.getpixel(place) == _FILLED for place in ((0, 0), (right, 0), (0, bottom), (right, bottom)))


def _torn(name: str, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its words are the name again
        return f"{name} is torn or not a picture."
    return f"{name} is torn or not a picture: {error or type(error).__name__}."


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, at the height that gives the row as many pixels as they have together; one alone as it is."""
    if len(pictures) == 1:
        return pictures[0]
    area = sum(picture.width * picture.height for picture in pictures)
    height = max(1, round(math.sqrt(area / sum(picture.width / picture.height for picture in pictures))))
    scaled = [
        picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BICUBIC)
        for picture in pictures
    ]
    row = Image.new("RGB", (sum(picture.width for picture in scaled), height))
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
