"""A data file in numbers, against counting by hand and against what the processor really does."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.llava_files import turns
from support.llava_models import make_checkpoint

from switchkd.cli.main import main
from switchkd.pictures import image_size, open_image
from switchkd.preprocess import Preprocess

SIZES = [(int(width), int(height)) for width, height in np.random.default_rng(3).integers(20, 400, (12, 2))]


def processor(shortest_edge: int | None, *, pad: bool, side: int = 200) -> Preprocess:
    return Preprocess(side, side, shortest_edge, 2, 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), pad=pad)


@pytest.mark.parametrize(
    ("shortest_edge", "pad"), [(None, False), (None, True), (200, False), (200, True), (240, False)]
)
@pytest.mark.parametrize("size", SIZES)
def test_what_becomes_of_a_picture_is_seen_in_its_pixels(size, shortest_edge, pad):
    """Red rises from left to right, green from top to bottom, blue is what isn't padding."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    pixels[..., 2] = 255
    preprocess = processor(shortest_edge, pad=pad)
    seen, change = preprocess.resize(Image.fromarray(pixels)), preprocess.change(size)
    real = seen[..., 2] > 127
    assert change.filled == pytest.approx(1 - real.mean(), abs=0.03)
    across, down = real.any(axis=0).sum(), real.any(axis=1).sum()
    shown = [np.ptp(seen[real][:, channel].astype(int)) / 255 for channel in (0, 1)]
    assert 1 - change.lost == pytest.approx(shown[0] * shown[1], abs=0.04)
    scales = (across / (shown[0] * width), down / (shown[1] * height))
    assert change.stretched == pytest.approx(max(scales) / min(scales), rel=0.08)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_those_of_upright_pictures(tmp_path, orientation):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == open_image(tmp_path / "a.jpg").size


def test_the_command_tells_what_is_in_a_file(tmp_path):
    model = make_checkpoint(tmp_path / "model")
    (tmp_path / "images").mkdir()
    records = []
    for number, (size, answer) in enumerate(
        (((40, 20), "Yes."), ((40, 20), "yes"), ((30, 30), "No"), ((20, 60), "a long " * 40))
    ):
        Image.new("RGB", size).save(tmp_path / "images" / f"{number}.png")
        records.append({"image": f"{number}.png", "conversations": turns("<image>\nIs it?", answer)})
    records.append({"conversations": turns("Two?", "2", "Three?", "3")})
    (tmp_path / "talks.json").write_text(json.dumps(records))

    def check(*more: object) -> str:
        words = ("data", "check", tmp_path / "talks.json", "--model", model, "--max-bad", 1, *more)
        result = CliRunner().invoke(main, [str(each) for each in words], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    whole = check()
    assert "0 records are longer than 3,072 tokens" in whole
    assert "6 answers, 5 different: yes 33.3 %" in whole and "4 pictures, 3 different: 40 × 20 50.0 %" in whole
    assert "longer side over shorter 2.00 3.00 3.00" in whole
    assert "one side stretched against the other 2.00-fold 3.00-fold 3.00-fold" in whole
    lengths = [int(word) for word in whole.partition("tokens a record ")[2].split()[:3]]
    assert lengths[0] < lengths[1] == lengths[2]
    short = check("--max-length", lengths[2] - 1)
    assert f"1 records are longer than {lengths[2] - 1:,} tokens" in short and "5 answers, 4 different" in short
    assert f"tokens a record {lengths[0]} {lengths[1]} {lengths[2]}" in short, (
        "what is too long is counted all the same"
    )
