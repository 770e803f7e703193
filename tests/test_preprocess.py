"""Pictures to pixels, next to transformers' image processors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from switchkd.errors import CheckpointError, DataError
from switchkd.pictures import open_image
from switchkd.preprocess import Preprocess

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


PAD = CLIP | {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": {"shortest_edge": 48}}
STRETCHED_PAD = SIGLIP | {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "do_center_crop": False}


def llava_processor(**changes):
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    return LlavaImageProcessorPil(**{k: v for k, v in (PAD | changes).items() if k != "image_processor_type"})


def stretching_llava_processor(**changes):
    return llava_processor(**(STRETCHED_PAD | changes))


def picture(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    random = np.random.default_rng((seed, *size))
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def expected_pixels(processor, image: Image.Image) -> np.ndarray:
    return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("make", [siglip_processor, clip_processor, llava_processor, stretching_llava_processor])
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


@pytest.mark.parametrize(("make", "config"), [(siglip_processor, SIGLIP), (llava_processor, PAD)])
@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "CMYK", "YCbCr", "1", "P"])
def test_modes_equal_transformers(mode, make, config):
    processor, preprocess = make(), Preprocess.from_config(config)
    image = picture((90, 61)).convert(mode) if mode in "1P" else picture((90, 61), mode)
    np.testing.assert_array_equal(preprocess(image), expected_pixels(processor, image))


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


def test_the_stages_compose():
    preprocess = Preprocess.from_config(CLIP)
    image = picture((77, 120))
    pixels = preprocess.resize(image)
    assert (pixels.shape, pixels.dtype) == ((48, 37, 3), np.uint8)
    slow = (pixels.astype(np.float64) / 255 - CLIP["image_mean"]) / CLIP["image_std"]
    np.testing.assert_allclose(preprocess.normalize(pixels), slow.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(preprocess(image), preprocess.normalize(pixels))


def test_missing_pictures_and_folders_are_errors(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="There is no picture"):
            open_image(path)


def test_padding_shows_the_whole_picture_on_the_mean_colour():
    """Written out slowly: nothing is cut off, and what is added is the mean, cut to whole bytes."""
    image = picture((40, 10))
    preprocess = Preprocess.from_config(PAD | {"size": {"shortest_edge": 40}, "crop_size": {"height": 40, "width": 40}})
    expected = np.empty((40, 40, 3), np.uint8)
    expected[:] = [int(value * 255) for value in CLIP["image_mean"]]
    expected[15:25] = np.asarray(image)
    np.testing.assert_array_equal(preprocess.resize(image), expected)
    assert preprocess != Preprocess.from_config(PAD | {"do_pad": False})


def test_a_picture_whose_square_is_too_large_is_refused():
    with pytest.raises(DataError, match="pasted on a square, is 10000 × 10000"):
        Preprocess.from_config(PAD)(Image.new("RGB", (10000, 100)))


def test_a_strip_is_refused():
    with pytest.raises(DataError, match="crop it"):
        Preprocess.from_config(CLIP)(Image.new("RGB", (1, 500)))


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
