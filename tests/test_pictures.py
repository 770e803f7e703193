"""Pictures as people have them: opened where every pixel is there, refused by the true reason where not."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from support import pictures
from support.pictures import encoded, noise, saved

from switchkd.errors import DataError
from switchkd.pictures import UnsupportedPictureError, check_image_header, decode_image, open_image, to_rgb


def test_transparency_shows_white_to_the_last_bit():
    """Every value with every opacity, as transformers composes them."""
    value, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = Image.fromarray(np.stack([value, value[:, ::-1], value.T, opacity], -1))
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    np.testing.assert_array_equal(to_rgb(image), Image.alpha_composite(white, image).convert("RGB"))


def test_transparency_takes_one_copy_of_a_picture():
    code = """
import resource
from PIL import Image
from switchkd.pictures import to_rgb
image = Image.new("RGBA", (4000, 4000), (9, 9, 9, 99))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
to_rgb(image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 90  # MiB; one copy is 61


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(form, tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a", form)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a"))[..., 1], values >> 8)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values.astype(np.int32))))[..., 2], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_open_as_in_transformers(orientation, tmp_path):
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    noise((30, 20)).save(path, exif=exif)
    assert open_image(path).size == ((30, 20) if orientation < 5 else (20, 30))
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(load_image(str(path))))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_torn_picture_is_found_by_decoding(form, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(encoded(form)[: len(encoded(form)) // 2])
    if form != "WEBP":  # whose decoder wants the whole file at once
        check_image_header(path)
    with pytest.raises(DataError, match="torn or not a picture") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", encoded("PNG")[:20], b"\xff\xd8\xff"])
def test_no_picture_is_found_by_its_header(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for check in (open_image, check_image_header):
        with pytest.raises(DataError, match="torn or not a picture"):
            check(path)


def test_bytes_are_decoded_as_files_are(tmp_path):
    data = encoded("PNG")
    (tmp_path / "a.png").write_bytes(data)
    image = decode_image(data, formats=("JPEG", "PNG"), max_pixels=200 * 200)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(open_image(tmp_path / "a.png")))
    with pytest.raises(DataError, match="200 × 200 pixels, more than 39,999"):
        decode_image(data, formats=("PNG",), max_pixels=200 * 200 - 1)
    for torn, formats in ((data, ("JPEG",)), (data[: len(data) // 2], ("PNG",)), (b"", ("PNG",))):
        with pytest.raises(DataError, match="torn or not a picture"):
            decode_image(torn, formats=formats, max_pixels=10**6)


def scans(count: int, *, application: bytes = b"", between: bytes = b"", after: bytes = b"") -> bytes:
    """A progressive JPEG whose first scan comes `count` times, and nine others once."""
    stream = io.BytesIO()
    noise((40, 40)).save(stream, "JPEG", progressive=True)
    head, first, *rest = stream.getvalue().split(b"\xff\xda")
    segment = b"\xff\xe5" + (len(application) + 2).to_bytes(2) + application
    parts = [head[:2] + segment + head[2:], *[first + between] * count, *rest]
    return b"\xff\xda".join(parts) + after


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, formats=("JPEG",), max_pixels=10**6))


def test_a_jpeg_of_many_scans_is_refused_before_decoding(tmp_path):
    expected = decoded(scans(1))
    np.testing.assert_array_equal(decoded(scans(91)), expected)
    np.testing.assert_array_equal(decoded(scans(1, application=b"\xff\xda" * 900, after=b"\xff\xda" * 900)), expected)
    bomb = scans(92)
    for data in (bomb, scans(92, between=b"\xff\x02\xff\xff"), scans(92, between=b"\xff\xd0"), scans(500)):
        with pytest.raises(DataError, match="more than 100 scans"):
            decoded(data)
    (tmp_path / "a.jpg").write_bytes(bomb)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.jpg")), expected)  # it is a picture


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_999, 60_000])
def test_a_decompression_bomb_is_refused_before_decoding(side, tmp_path):
    header = bytearray(encoded("PNG"))
    header[16:24] = side.to_bytes(4, "big") * 2  # IHDR's width and height
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(header)
    with pytest.raises(DataError, match="pixels"):
        open_image(path)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a.tiff: .*floating-point"):
        open_image(tmp_path / "a.tiff")


def pixels(path) -> np.ndarray:
    return np.asarray(open_image(path))


@pytest.mark.parametrize(
    ("brightest", "bits"),
    [(200, 8), (255, 8), (1000, 10), (3000, 12), (4095, 12), (9000, 14), (40000, 16), (65535, 16)],
)
def test_grey_of_more_than_eight_bits_is_scaled_by_the_bits_in_use(brightest, bits, tmp_path):
    """As cameras write them: 10, 12 or 14 bits in a file of 16 or 32."""
    values = np.linspace(0, brightest, 64).astype(np.int32).reshape(8, 8)
    expected = values.astype(np.float64) * 2 ** (8 - bits)
    (tmp_path / "a.png").write_bytes(pictures.grey_png(values))
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "b.tiff")
    Image.fromarray(values).save(tmp_path / "c.tiff")
    for name in ("a.png", "b.tiff", "c.tiff"):
        np.testing.assert_array_equal(pixels(tmp_path / name)[..., 0], np.floor(expected), err_msg=name)


@pytest.mark.parametrize("brightest", [2**17, 2**24, 2**31 - 1])
def test_grey_of_32_bits_is_neither_black_nor_white(brightest, tmp_path):
    Image.fromarray(np.linspace(0, brightest, 64).astype(np.int32).reshape(8, 8)).save(tmp_path / "a.tiff")
    shown = pixels(tmp_path / "a.tiff")
    assert shown.min() == 0 and shown.max() >= 64 and len(np.unique(shown)) > 30


@pytest.mark.parametrize("values", [[-1, 5], [-(2**31), 0], [-300, -200]])
def test_pixels_below_zero_are_refused_by_reason(values, tmp_path):
    Image.fromarray(np.array([values] * 2, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(UnsupportedPictureError, match="below zero"):
        open_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("brightest", [255, 1023, 4095])
def test_colours_of_16_bits_that_would_be_black_are_refused_by_reason(brightest, tmp_path):
    """Pillow keeps the upper half of each colour, so the rest is lost."""
    values = np.random.default_rng(0).integers(0, brightest + 1, (8, 8, 3))
    (tmp_path / "a.png").write_bytes(pictures.colour_png(values))
    with pytest.raises(UnsupportedPictureError, match="nearly black"):
        open_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(pictures.colour_png(values * (65535 // brightest)))
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), values * (65535 // brightest) >> 8)
    (tmp_path / "c.png").write_bytes(saved(Image.new("RGB", (8, 8)), "PNG"))
    assert pixels(tmp_path / "c.png").max() == 0  # eight bits may be black


BROKEN_EXIF = {
    "orientation as a fraction": (pictures.exif(0x0112, pictures.RATIONAL, struct.pack("<II", 6, 1)), True),
    "orientation as a float": (pictures.exif(0x0112, pictures.FLOAT, struct.pack("<f", 6.0)), True),
    "orientation as a long": (pictures.exif(0x0112, pictures.LONG, struct.pack("<I", 6)), True),
    "two orientations": (pictures.exif(0x0112, 3, struct.pack("<HH", 6, 6), 2), True),
    "orientation 9": (pictures.exif(0x0112, 3, struct.pack("<H", 9)), False),
    "orientation 0 / 0": (pictures.exif(0x0112, pictures.RATIONAL, struct.pack("<II", 0, 0)), False),
    "resolution 1 / 0": (pictures.exif(0x011A, pictures.RATIONAL, struct.pack("<II", 1, 0)), False),
    "resolution -1": (pictures.exif(0x011A, pictures.SIGNED_RATIONAL, struct.pack("<ii", -1, 1)), False),
    "width as a fraction": (pictures.exif(0x0100, pictures.RATIONAL, struct.pack("<II", 5, 2)), False),
    "an unknown kind": (pictures.exif(0x0112, 77, struct.pack("<H", 6)), False),
    "a table that breaks off": (pictures.exif(0x0112, 3, struct.pack("<H", 6))[:22], None),
    "noise": (b"\xff\xe1\x00\x20Exif\0\0" + bytes(range(60, 84)), None),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN_EXIF)
def test_broken_exif_leaves_a_picture_usable_and_the_terminal_clean(name, tmp_path, capfd):
    segment, turned = BROKEN_EXIF[name]
    whole = encoded("JPEG", (40, 24))
    if turned is None:  # a segment's length has to be true
        segment = segment[:2] + (len(segment) - 2).to_bytes(2) + segment[4:]
    (tmp_path / "a.jpg").write_bytes(pictures.with_segment(whole, segment))
    expected = Image.open(io.BytesIO(whole)).convert("RGB")
    expected = expected.transpose(Image.Transpose.ROTATE_270) if turned else expected
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), np.asarray(expected))
    check_image_header(tmp_path / "a.jpg")
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_counts_in_every_form(form, tmp_path):
    settings = Image.Exif()
    settings[0x0112] = 6
    image = noise((40, 24))
    (tmp_path / "a").write_bytes(saved(image, form, exif=settings))
    assert open_image(tmp_path / "a").size == (24, 40)


BIG = b"x" * (2 << 20)
CHUNKS = {
    "a damaged text": [pictures.chunk(b"tEXt", b"Comment\0hello", damaged=True)],
    "a damaged time": [pictures.chunk(b"tIME", b"\x07\xe8\x01\x01\0\0\0", damaged=True)],
    "a damaged unknown one": [pictures.chunk(b"vpAg", b"123", damaged=True)],
    "a damaged orientation": [pictures.chunk(b"eXIf", b"II*\0\x08\0\0\0", damaged=True)],
    "text that unpacks to megabytes": [pictures.chunk(b"zTXt", b"a\0\0" + zlib.compress(BIG))],
    "a profile that unpacks to megabytes": [pictures.chunk(b"iCCP", b"p\0\0" + zlib.compress(BIG))],
    "text that unpacks to 66 MB": [pictures.chunk(b"zTXt", b"a\0\0" + zlib.compress(BIG[: 1 << 20]))] * 66,
    "an empty profile": [pictures.chunk(b"iCCP", b"")],
    "physical size of the wrong length": [pictures.chunk(b"pHYs", b"12")],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_beside_the_picture_dont_decide_whether_it_is_seen(name, at_end, tmp_path):
    plain = encoded("PNG", (16, 16))
    path = tmp_path / "a.png"
    path.write_bytes(pictures.with_chunks(plain, *CHUNKS[name], at_end=at_end))
    np.testing.assert_array_equal(pixels(path), np.asarray(noise((16, 16))))
    check_image_header(path)
    np.testing.assert_array_equal(
        np.asarray(decode_image(path.read_bytes(), formats=("PNG",), max_pixels=999)), pixels(path)
    )


def test_chunks_that_show_are_kept_and_the_others_read_no_memory(tmp_path):
    """Transparency and orientation count, beside a comment that is passed over."""
    image = Image.new("P", (40, 24), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    settings = Image.Exif()
    settings[0x0112] = 6
    clear = saved(image, "PNG", transparency=1, exif=settings)
    comment = pictures.chunk(b"tEXt", b"Comment\0hello", damaged=True)
    (tmp_path / "a.png").write_bytes(pictures.with_chunks(clear, comment))
    assert open_image(tmp_path / "a.png").size == (24, 40)
    assert pixels(tmp_path / "a.png").min() == 255
    big = tmp_path / "big.png"
    big.write_bytes(pictures.with_chunks(encoded("PNG", (16, 16)), pictures.chunk(b"prIV", bytes(60 << 20))))
    tracemalloc.start()
    open_image(big)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_a_damaged_chunk_of_the_picture_itself_is_refused(tmp_path):
    png = bytearray(encoded("PNG", (16, 16)))
    png[20] ^= 1  # IHDR
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match="torn"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"restart_marker_blocks": 1}]
)
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0\0", b"\0" * 40])
def test_a_jpeg_without_its_end_is_seen_where_every_pixel_is_there(options, end, tmp_path):
    whole = encoded("JPEG", (64, 48), **options)
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + end)
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), pixels(tmp_path / "whole.jpg"))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0, "quality": 95}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("missing", [2, 3, 5, 40, 900])
def test_a_jpeg_that_lacks_pixels_is_refused(options, missing, tmp_path):
    """The last scan byte may be filling bits alone, so that two are the least that is surely missed."""
    whole = encoded("JPEG", (64, 48), **options)
    (tmp_path / "a.jpg").write_bytes(whole[: -2 - missing])
    with pytest.raises(DataError, match="torn"):
        open_image(tmp_path / "a.jpg")


OTHERS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "HEIC (burst)": b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc",
    "HEIC (mif1 first)": b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf",
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a PDF": b"%PDF-1.7\n",
    "a video": b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
    "an HTML page": b"<!DOCTYPE html><title>404</title>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
}


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\x01", b"\xff\xe0", b"\xff\xd3"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_a_marker_before_the_last_pixels_ends_no_picture(marker, share, tmp_path):
    """Decoders take it for the end and fill up with grey."""
    whole = encoded("JPEG", (120, 90))
    (tmp_path / "early.jpg").write_bytes(whole[: int(share * len(whole))] + marker)
    with pytest.raises(DataError, match="it ends before its last pixels"):
        open_image(tmp_path / "early.jpg")


def test_a_whole_jpeg_that_ends_in_grey_is_seen(tmp_path):
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
        (tmp_path / "grey.jpg").write_bytes(saved(Image.new("RGB", (90, 70), (128, 128, 128)), "JPEG", **options))
        assert open_image(tmp_path / "grey.jpg").getpixel((89, 69)) == (128, 128, 128)


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_kinds_are_called_by_their_name(name, tmp_path):
    (tmp_path / "a.jpg").write_bytes(OTHERS[name].ljust(300, b"\0"))
    for look in (open_image, check_image_header):
        with pytest.raises(UnsupportedPictureError, match=rf"a\.jpg is {re.escape(name.partition(' (')[0])}") as caught:
            look(tmp_path / "a.jpg")
    assert "\n" not in str(caught.value)
