"""Exports of a model whose pictures are pasted on a square: they show their engines the same square."""

from __future__ import annotations

import pytest
from support.answers import assert_says_the_same
from support.llava_models import make_checkpoint, picture
from support.padding import with_padding

from switchkd.export.folder import ExportRequest, run_export
from switchkd.preprocess import Preprocess
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("padded") / "student"
    return with_padding(make_checkpoint(folder, vision="clip-vit-large-patch14-336", feature_layer=-2))


@pytest.mark.long
@pytest.mark.parametrize(
    ("format", "quant", "error"), [("gguf", "f32", 1e-2), pytest.param("hybrid", "f32", 1e-2, marks=pytest.mark.slow)]
)
def test_exports_show_the_same_square(student, format, quant, error, tmp_path):
    out, seeing = tmp_path / "out", "fp32" if format == "hybrid" else None
    run_export(ExportRequest(student, out, format=format, quant=quant, vision_quant=seeing, threads=1))
    assert Preprocess.load(out) == Preprocess.load(student) and Preprocess.load(out).pad
    with open_engine(student, threads=1) as reference, open_engine(out, threads=1) as engine:
        for size in ((90, 60), (40, 100), (64, 64)):
            assert_says_the_same(engine, reference, picture(0, *size), error=error)
