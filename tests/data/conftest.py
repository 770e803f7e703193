"""A folder of pictures and a maker of LLaVA files, for the tests of this folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.llava_files import IMAGE_TOKENS
from support.tokenizers import small_prompt

from switchkd.data.index import Source


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """car.png, sub/sign.jpg and a torn.jpg."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("car.png", "sub/sign.jpg", "torn.jpg"):
        Image.fromarray(random.integers(0, 256, (37, 53, 3), dtype=np.uint8)).save(folder / name)
    torn = folder / "torn.jpg"
    torn.write_bytes(torn.read_bytes()[:900])
    return folder


@pytest.fixture
def make_source(tmp_path: Path, images: Path) -> Callable[..., Source]:
    """Writes records to a file (named .jsonl: one a line) and gives the Source over it."""

    def make(records: list[Any], name: str = "data.json", **options: Any) -> Source:
        file = tmp_path / name
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        file.write_text(
            "\n".join(lines) if name.endswith(".jsonl") else json.dumps(records, ensure_ascii=False, indent=1)
        )
        defaults = {"images": images, "prompt": small_prompt(), "image_tokens": IMAGE_TOKENS, "max_length": 400}
        return Source(file, **(defaults | options))

    return make
