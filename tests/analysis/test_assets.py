"""Stand-ins for public checkpoints: small, in half precision, with cards that say what was measured."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from switchkd.cli.main import main
from switchkd.files import file_sha256
from switchkd.models.vlm import load_language, load_vision, load_vlm
from switchkd.recipes.reader import load_recipe

STAGES = tuple(load_recipe("assets").stages)
NAMES = ("tower", "language-small", "language-large", "teacher")


@pytest.fixture
def assets(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("switchkd.analysis.assets._TEXT_QUESTIONS", 12)
    sizes = ["roadscenes.train=400", "roadscenes.val=8", "roadscenes.test=2", "roadscenes.text=30"]
    short = [f"stages.{name}.{key}" for name in STAGES for key in ("steps=1", "batch_size=4")]
    flags = [part for setting in sizes + short for part in ("--set", setting)]
    result = CliRunner().invoke(main, ["assets", "--out", "made", *flags])
    assert result.exit_code == 0, (result.output, result.exception)
    return tmp_path / "made"


@pytest.mark.slow
def test_parts_are_whole_small_and_described(assets):
    for name in NAMES:
        card = json.loads((assets / name / "card.json").read_text())
        weights = assets / name / "model.safetensors"
        assert card["sha256"] == file_sha256(weights) and 0 <= card["accuracy"] <= 1 and card["questions"] > 0
        assert all(tensor.dtype == torch.float16 for tensor in load_file(weights).values())
        assert card["sha256"] in (assets / name / "README.md").read_text()
    assert sum(path.stat().st_size for path in assets.rglob("*") if path.is_file()) < 12e6
    assert load_vision(assets / "tower").config.hidden_size == 128
    assert load_language(assets / "language-small").config.hidden_size == 64
    assert load_vlm(assets / "teacher").get_input_embeddings().num_embeddings == 512
