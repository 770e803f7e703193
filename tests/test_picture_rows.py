"""Pictures side by side as one, for reports and for models that have learned from one at a time."""

import pytest
from PIL import Image

from switchkd.pictures import side_by_side


def test_pictures_side_by_side_keep_their_pixels():
    sizes = [(800, 24), (300, 1200)]
    row = side_by_side([Image.new("RGB", size) for size in sizes])
    assert row.width * row.height == pytest.approx(sum(width * height for width, height in sizes), rel=0.02)
    assert row.width / row.height == pytest.approx(800 / 24 + 300 / 1200, rel=0.01)
    assert side_by_side([Image.new("RGB", (90, 60))] * 2).size == (180, 60)
    assert side_by_side([Image.new("RGB", (30_000, 1)), Image.new("RGB", (1, 1))]).size == (30_001, 1)
