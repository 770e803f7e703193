"""Imported models on small computers: their exports say what they say."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from support.answers import assert_says_the_same
from support.foreign import CLIP, LLAMA, QWEN, SIGLIP, random_model, write_factory, write_llava, write_tower
from support.llava_models import picture
from support.tokenizers import small_tokenizer

from switchkd.cli.main import main
from switchkd.export.folder import ExportRequest, run_export
from switchkd.models.tokenizer import save_tokenizer
from switchkd.runtime.engines.opening import open_engine

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}


@pytest.fixture(scope="module", params=["factory", "llava"])
def imported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "factory":  # 728 tokens a picture
        source = write_factory(folder / "source", random_model(SIGLIP | WIDE, QWEN | WIDE))
        save_tokenizer(small_tokenizer(), source)
        more = []
    else:  # pasted on a square, a sentencepiece model, text opened by a token
        model = random_model(CLIP | WIDE, LLAMA | WIDE)
        source = write_llava(folder / "source", model)
        more = ["--vision", str(write_tower(folder / "tower", model))]
    result = CliRunner().invoke(main, ["import", str(source), str(folder / "target"), *more])
    assert result.exit_code == 0, result.output
    return folder / "target"


@pytest.mark.long
@pytest.mark.parametrize(
    ("format", "quant", "error"),
    [("gguf", "f32", 1e-2), pytest.param("onnx", "fp32", 1e-3, marks=pytest.mark.slow)],
)
def test_exports_of_imported_models(imported, format, quant, error, tmp_path):
    out = tmp_path / "out"
    run_export(ExportRequest(imported, out, format=format, quant=quant, threads=1))
    with open_engine(imported, threads=1) as reference, open_engine(out, threads=1) as engine:
        assert_says_the_same(engine, reference, picture(3, 90, 40), error=error)
