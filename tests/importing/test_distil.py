"""Imported models at work: a teacher of TinyLLaVA's shape distils a student of the same."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from support.foreign import QWEN, SIGLIP, random_model, write_config, write_factory
from support.tokenizers import small_tokenizer

from switchkd.cli.main import main
from switchkd.models.tokenizer import save_tokenizer
from switchkd.prompt import ChatPrompt


def skd(*arguments: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.mark.long
def test_an_imported_teacher_distils_a_student_that_asks_alike(tmp_path, road_scenes, monkeypatch):
    """A student of 728 tokens with Factory's words; its token in a picture's place is another than the teacher's."""
    monkeypatch.chdir(tmp_path)
    save_tokenizer(small_tokenizer(), tmp_path / "words")
    write_factory(tmp_path / "source", random_model(SIGLIP, QWEN | {"tie_word_embeddings": False}))
    skd("import", "source", "teacher", "--tokenizer", "words")
    write_config(tmp_path / "siglip", SIGLIP)
    write_config(tmp_path / "qwen", QWEN | {"hidden_size": 32})
    shape = ("--random", "--vision", "siglip", "--language", "qwen", "--tokenizer", "words")
    skd("init", "student", *shape, "--feature-layer", "-2", "--feature-select", "default", "--template", "tinyllava")
    prompts = [ChatPrompt.load(tmp_path / name) for name in ("teacher", "student")]
    assert prompts[0].template == prompts[1].template and prompts[0].image_token != prompts[1].image_token
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
    skd("distill", "--recipe", "tinyllava-0.5b", "--run", "run", *options)
    config = json.loads((tmp_path / "runs" / "run" / "student" / "config.json").read_text())
    assert config["image_seq_length"] == 728 and config["vision_feature_select_strategy"] == "default"
