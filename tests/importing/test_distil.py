"""Imported models at work: a teacher of TinyLLaVA's shape distils a student of the same."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from support.foreign import QWEN, SIGLIP, random_model, write_factory
from support.tokenizers import small_tokenizer

from switchkd.cli.main import main
from switchkd.models.tokenizer import save_tokenizer


@pytest.mark.long
def test_an_imported_teacher_distils_an_imported_student(tmp_path, road_scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tokenizer(small_tokenizer(), tmp_path / "words")
    shapes = {"teacher": QWEN | {"tie_word_embeddings": False}, "student": QWEN | {"hidden_size": 32}}
    for name, text in shapes.items():
        source = write_factory(tmp_path / f"{name}-source", random_model(SIGLIP, text))
        result = CliRunner().invoke(main, ["import", str(source), name, "--tokenizer", "words"])
        assert result.exit_code == 0, result.output
    settings = {
        "data.folder": road_scenes,
        "data.sets.pretrain": "{file: captions.json, images: images}",
        "data.sets.finetune": "{file: instruct.json, images: images}",
        "teacher.checkpoint": "teacher",
        "teacher.stages": "[]",
        "student.checkpoint": "student",
        "student.stages": "[dft]",
        "compare": "false",
        "stages.dft.steps": 2,
        "stages.dft.batch_size": 2,
        "stages.dft.micro_batch": 2,
        "stages.dft.precision": "fp32",
        "stages.dft.workers": 0,
        "stages.dft.log_every": 1,
    }
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(main, ["distill", "--recipe", "tinyllava-0.5b", "--run", "run", *options])
    assert result.exit_code == 0, (result.output, result.exception)
    config = json.loads((tmp_path / "runs" / "run" / "student" / "config.json").read_text())
    assert config["image_seq_length"] == 728 and config["vision_feature_select_strategy"] == "default"
