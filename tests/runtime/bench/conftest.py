"""A small student with two exports that need no torch, and questions about pictures."""

import json
import shutil
from pathlib import Path

import pytest
from support.llava_models import make_checkpoint, picture

from switchkd.export.folder import ExportRequest, run_export


@pytest.fixture(scope="session")
def bench_models(tmp_path_factory) -> Path:
    """A folder with "student" and its ONNX exports "onnx-q8" and "onnx-fp32"."""
    folder = tmp_path_factory.mktemp("bench-models")
    make_checkpoint(folder / "student")
    for quant in ("q8", "fp32"):
        run_export(ExportRequest(folder / "student", folder / f"onnx-{quant}", format="onnx", quant=quant, threads=1))
    return folder


@pytest.fixture
def models(bench_models, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(bench_models, tmp_path / "models")


@pytest.fixture
def questions(tmp_path) -> Path:
    """test.json with twelve questions of two kinds about four pictures in images/."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(4):
        picture(index).save(images / f"{index}.png")
    records = [
        {
            "id": f"q{index}",
            "kind": ("car", "light")[index % 2],
            "image": f"{index % 4}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nhow many cars ? {'red ' * (index // 4)}"},
                {"from": "gpt", "value": "two"},
            ],
        }
        for index in range(12)
    ]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(records))
    return path
