"""The paper's table 2 in small, by the command line: CLIP at 336 pixels, LDPv2, the authors' prompt, pictures on a square."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.answers import first_tokens
from support.llava_models import picture

from switchkd.cli.main import main
from switchkd.models.shapes import load_shape
from switchkd.preprocess import Preprocess
from switchkd.runtime.engines.opening import open_engine


def skd(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.slow
def test_a_student_with_ldpv2_is_distilled_and_exported(tmp_path, road_scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Small in all but its 24 × 24 patches, for which llama.cpp's LDPv2 is made.
    shapes = {
        "tower": load_shape("clip-vit-large-patch14-336", shrink=True) | {"image_size": 336},
        "large": load_shape("qwen2.5-7b", shrink=True) | {"vocab_size": 600},
        "small": load_shape("qwen2.5-1.5b", shrink=True) | {"vocab_size": 600},
    }
    for name, shape in shapes.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(json.dumps(shape))
    made = ("--random", "--vision", "tower", "--projector", "ldpv2", "--feature-layer", -2)
    for name, language in (("teacher", "large"), ("student", "small")):
        skd("init", name, *made, "--language", language, "--template", "chatml-system", "--pictures", "pad")
    assert Preprocess.load(Path("student")).pad
    stage = "{data: finetune, steps: 2, batch_size: 4, log_every: 1, distill: true, warmup: 0}"
    changes = {
        "data.folder": road_scenes,
        "data.sets.finetune": "{file: instruct.json, images: images}",
        "teacher.checkpoint": "teacher",
        "student.checkpoint": "student",
        "student.stages": "[dft]",
        "stages.dft": stage,
    }
    words = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    assert "VSD" in skd("distill", "--recipe", "mobilevlm-1.5b", "--run", "run", *words)
    said = []
    for format, quant in (("gguf", "f16"), ("onnx", "fp32")):
        skd("export", "runs/run/student", "--format", format, "--quant", quant, "--out", format, "--threads", 1)
        with open_engine(Path(format), threads=1) as engine:
            assert engine.image_tokens == 144 and engine.preprocess.pad
            said.append(first_tokens(engine, picture(1, 120, 60), 4))
    with open_engine(Path("runs/run/student"), threads=1) as engine:
        assert said == [first_tokens(engine, picture(1, 120, 60), 4)] * 2
        system = engine.prompt.decode(engine.encode_prompt([{"role": "user", "content": "hi"}]), False)
    assert system.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
