"""Pictures to pixels, next to transformers' image processors."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from switchkd.errors import CheckpointError, DataError
from switchkd.preprocess import Preprocess, check_image_header, decode_image, open_image, to_rgb

SIZES = [(1, 1), (7, 5), (97, 31), (31, 97), (64, 48), (48, 48), (333, 500), (1021, 40), (50, 3)]
SIGLIP = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 48, "width": 64},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 51},
    "crop_size": {"height": 48, "width": 37},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def siglip_processor(**changes):
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(**{k: v for k, v in (SIGLIP | changes).items() if k != "image_processor_type"})


def clip_processor(**changes):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**{k: v for k, v in (CLIP | changes).items() if k != "image_processor_type"})


def picture(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    random = np.random.default_rng((seed, *size))
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def expected_pixels(processor, image: Image.Image) -> np.ndarray:
    return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("make", [siglip_processor, clip_processor])
@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_equal_transformers_bit_by_bit(make, resample, tmp_path):
    processor = make(resample=resample)
    processor.save_pretrained(tmp_path)
    preprocess = Preprocess.load(tmp_path)
    for seed, size in enumerate(SIZES):
        image = picture(size, seed=seed)
        pixels, expected = preprocess(image), expected_pixels(processor, image)
        assert pixels.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "CMYK", "YCbCr", "1", "P"])
def test_modes_equal_transformers(mode):
    processor, preprocess = siglip_processor(), Preprocess.from_config(SIGLIP)
    image = picture((90, 61)).convert(mode) if mode in "1P" else picture((90, 61), mode)
    np.testing.assert_array_equal(preprocess(image), expected_pixels(processor, image))


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
from switchkd.preprocess import to_rgb
image = Image.new("RGBA", (4000, 4000), (9, 9, 9, 99))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
to_rgb(image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 90  # MiB; one copy is 61


def test_a_palette_with_a_transparent_entry_shows_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.gif", transparency=0)
    pixels = np.asarray(open_image(tmp_path / "a.gif"))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 0, 0]
    processor, preprocess = siglip_processor(), Preprocess.from_config(SIGLIP)
    stored = Image.open(tmp_path / "a.gif")
    np.testing.assert_array_equal(preprocess(stored), expected_pixels(processor, stored))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(form, tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a", form)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a"))[..., 1], values >> 8)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values.astype(np.int32))))[..., 2], values >> 8)


def test_the_stages_compose():
    preprocess = Preprocess.from_config(CLIP)
    image = picture((77, 120))
    pixels = preprocess.resize(image)
    assert (pixels.shape, pixels.dtype) == ((48, 37, 3), np.uint8)
    slow = (pixels.astype(np.float64) / 255 - CLIP["image_mean"]) / CLIP["image_std"]
    np.testing.assert_allclose(preprocess.normalize(pixels), slow.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(preprocess(image), preprocess.normalize(pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_open_as_in_transformers(orientation, tmp_path):
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    picture((30, 20)).save(path, exif=exif)
    assert open_image(path).size == ((30, 20) if orientation < 5 else (20, 30))
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(load_image(str(path))))


def encoded(form: str) -> bytes:
    stream = io.BytesIO()
    picture((200, 200)).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_torn_picture_is_found_by_decoding(form, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(encoded(form)[: len(encoded(form)) // 2])
    if form != "WEBP":  # whose decoder wants the whole file at once
        check_image_header(path)
    with pytest.raises(DataError, match="torn or not a picture") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>", encoded("PNG")[:20], b"\xff\xd8\xff"])
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
    picture((40, 40)).save(stream, "JPEG", progressive=True)
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


def test_missing_pictures_and_folders_are_errors(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="There is no picture"):
            open_image(path)


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


def test_a_strip_is_refused():
    with pytest.raises(DataError, match="crop it"):
        Preprocess.from_config(CLIP)(Image.new("RGB", (1, 500)))


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a.tiff: .*floating-point"):
        open_image(tmp_path / "a.tiff")


def test_load_reads_all_three_places(tmp_path):
    """Today's file, the processor's part of transformers 5, and CLIP's first form."""
    expected = Preprocess.from_config(CLIP)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": CLIP}))
    assert Preprocess.load(tmp_path) == expected
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SIGLIP))
    assert Preprocess.load(tmp_path) == expected  # as transformers reads them
    (tmp_path / "processor_config.json").unlink()
    assert Preprocess.load(tmp_path) == Preprocess.from_config(SIGLIP)
    old = {k: v for k, v in CLIP.items() if k not in ("image_processor_type", "rescale_factor")}
    old |= {"feature_extractor_type": "CLIPFeatureExtractor", "size": 51, "crop_size": 40}
    new = CLIP | {"crop_size": {"height": 40, "width": 40}}
    assert Preprocess.from_config(old) == Preprocess.from_config(new)


def test_a_processor_saved_by_transformers_is_read(tmp_path):
    from support.tokenizers import write_prompt_files
    from transformers import AutoTokenizer, LlavaProcessor

    write_prompt_files(tmp_path)
    processor = LlavaProcessor(siglip_processor(), AutoTokenizer.from_pretrained(tmp_path), image_token="<|image_pad|>")
    processor.save_pretrained(tmp_path / "saved")
    assert Preprocess.load(tmp_path / "saved") == Preprocess.from_config(SIGLIP)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "Qwen2VLImageProcessor isn't supported"),
        ({"image_processor_type": None}, "image_processor_type None isn't supported"),
        (SIGLIP | {"do_resize": False}, "do_resize = False"),
        (SIGLIP | {"do_normalize": None}, "do_normalize = None"),
        (CLIP | {"do_pad": True}, "do_pad = True"),
        (CLIP | {"do_center_crop": False}, "do_center_crop = False"),
        (CLIP | {"crop_size": {"height": 52, "width": 52}}, "exceeds the shortest edge 51"),
        (SIGLIP | {"size": {"longest_edge": 3}}, "longest_edge"),
        (SIGLIP | {"size": {"height": 10**6, "width": 3}}, "not 1 to 4096"),
        (SIGLIP | {"resample": 77}, "77"),
        (SIGLIP | {"image_mean": [1, 2]}, "can't be used"),
        ({k: v for k, v in SIGLIP.items() if k != "image_std"}, "'image_std' is missing"),
    ],
)
def test_what_is_not_supported_is_named(config, words, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        Preprocess.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", None])
def test_a_torn_or_missing_configuration_is_an_error(content, tmp_path):
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(CheckpointError):
        Preprocess.load(tmp_path)
