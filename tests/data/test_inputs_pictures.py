"""docs/inputs.md, row by row: every kind of picture."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from PIL import Image
from support import pictures
from support.inputs_page import asked, outcomes, rows
from support.llava_files import turns
from support.pictures import encoded, noise, saved


def big_png(width: int, height: int) -> bytes:
    header = bytearray(encoded("PNG", (16, 16)))
    header[16:24] = width.to_bytes(4) + height.to_bytes(4)
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
    return bytes(header)


def picture_files() -> dict[str, list[bytes]]:
    """Row → files."""
    whole, png = encoded("JPEG", (64, 48)), encoded("PNG", (16, 16))
    oriented = Image.Exif()
    oriented[0x0112] = 6
    grey = np.arange(64).reshape(8, 8)
    damaged = pictures.chunk(b"tEXt", b"a\0b", damaged=True)
    forms = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
    return {
        "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM": [encoded(form) for form in forms],
        "CMYK, palettes, grey, black and white": [
            saved(noise((16, 16)).convert(mode), form)
            for mode, form in (("CMYK", "JPEG"), ("P", "PNG"), ("L", "JPEG"), ("1", "PNG"))
        ],
        "transparency": [saved(noise((16, 16), "RGBA"), "PNG"), saved(noise((16, 16), "LA"), "PNG")],
        "turned by EXIF": [encoded(form, exif=oriented) for form in ("JPEG", "PNG", "WEBP")],
        "broken EXIF": [
            pictures.with_segment(whole, pictures.exif(tag, kind, b"\1\0\0\0\0\0\0\0"))
            for tag, kind in ((0x0112, pictures.RATIONAL), (0x011A, pictures.SIGNED_RATIONAL), (0x0100, pictures.FLOAT))
        ],
        "damaged or huge comments, profiles and times in a PNG": [
            pictures.with_chunks(png, damaged),
            pictures.with_chunks(png, pictures.chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20)))),
            pictures.with_chunks(png, pictures.chunk(b"tIME", b"1", damaged=True), at_end=True),
        ],
        "a JPEG without its end marker that has every pixel": [whole[:-2], whole[:-1], whole[:-2] + b"\0\0"],
        "grey of 10 to 32 bits a pixel": [
            *(pictures.grey_png(grey * scale) for scale in (16, 60, 1000)),
            *(saved(Image.fromarray((grey * scale).astype(np.int32)), "TIFF") for scale in (3, 60, 2**24)),
        ],
        "colours of 16 bits that use 12 or fewer": [
            pictures.colour_png(np.stack([grey * scale] * 3, -1)) for scale in (1, 16, 64)
        ],
        "pixels that are floating-point or below zero": [
            saved(Image.fromarray(values), "TIFF")
            for values in (grey.astype(np.float32), (-grey).astype(np.int32), (grey - 9).astype(np.int32))
        ],
        "HEIC, JPEG XL, SVG": [
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
            b"\xff\x0a" + bytes(99),
            b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        ],
        "a PDF, a film, an archive, a web page, a Git LFS pointer": [
            b"%PDF-1.7\n",
            b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
            b"PK\x03\x04" + bytes(99),
            b"<!DOCTYPE html><html>",
            b"version https://git-lfs.github.com/spec/v1\n",
        ],
        "more than 89,478,485 pixels": [big_png(9_999, 9_999), big_png(60_000, 60_000), big_png(89_478_486, 1)],
        "sides that differ more than 200-fold": [
            encoded("PNG", (201, 1)),
            encoded("JPEG", (2, 500)),
            encoded("PNG", (1, 900)),
        ],
        "a file that breaks off": [
            encoded(form)[: len(encoded(form)) // 2] for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
        ],
        "an empty file, a text": [b"", b"not found", bytes(100)],
    }


@pytest.mark.long
@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(("row", "outcome"), asked("picture"))
def test_pictures(row, outcome, tmp_path, capfd):
    (tmp_path / "data.json").write_text(
        json.dumps([{"image": "a.picture", "conversations": turns("<image>\nWhat is it?", "A car.")}])
    )
    for content in picture_files()[row]:
        (tmp_path / "a.picture").write_bytes(content)
        assert outcomes(tmp_path / "data.json", tmp_path) == {outcome}, content[:40]
    assert capfd.readouterr() == ("", "")


def test_every_row_has_its_inputs():
    assert set(rows("picture")) == set(picture_files())
