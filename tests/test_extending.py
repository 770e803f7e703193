"""The examples of docs/extending.md, copied as they stand into a folder on PYTHONPATH and used by the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.extending import EXAMPLES, MARKED, PAGE, write_files
from support.forked import Command
from support.llava_models import picture

ROOT = Path(__file__).parents[1]
SECTIONS = ("A language model", "A projector", "A loss", "A format", "A target")
# Mistral-7B-Instruct-v0.3's published config.json.
MISTRAL = {
    **{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": False},
    **{"rms_norm_eps": 1e-5, "rope_theta": 1000000, "max_position_embeddings": 32768, "hidden_act": "silu"},
    **{"sliding_window": None},
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Copies one example into a folder that new processes find, in an empty working directory."""
    folder = tmp_path / "outside"

    def copy(name: str, text: str | None = None) -> Path:
        write_files(folder, {name: text or EXAMPLES[name]})
        assert len([path for path in folder.rglob("*") if path.suffix in (".py", ".toml")]) == 1
        return folder

    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))  # forked processes take over the path that this one has
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return copy


def skd(*words: object, status: int = 0) -> str:
    """A command in a process of its own."""
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "switchkd.cli", *map(str, words)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    printed = result.stdout + result.stderr
    assert result.returncode == status, printed
    return printed


def forked(*words: object, status: int = 0) -> str:
    """A command that needs torch, in a process of its own."""
    number = len(list(Path().glob("*.printed")))
    return Command(Path(f"{number}.printed"), *words).finish(status)


def in_transformers(folder: str) -> str:
    """What its Auto classes make of a folder after the one import that docs/families.md names."""
    page = (ROOT / "docs" / "families.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    tell = "print(*(type(each).__name__ for each in (model, processor, model.model.multi_modal_projector)))"
    words = [sys.executable, "-c", code.replace('"student"', repr(folder)) + tell]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def init(folder: str, *words: object, language: object = "qwen2.5-0.5b") -> None:
    shapes = ("--vision", "siglip-so400m-patch14-384", "--language", language, "--feature-layer", -2)
    forked("init", folder, "--random", "--shrink", *shapes, "--seed", 1, *words)


def distil(student: object, teacher: Path, data: Path, *overrides: str) -> list[dict]:
    """Two steps and an evaluation → the log."""
    settings = {
        "data.folder": data,
        "data.sets.finetune": "{file: instruct.json, images: images}",
        "teacher.checkpoint": teacher,
        "student.checkpoint": student,
        "student.stages": "[dft]",
        "stages.dft": "{data: finetune, steps: 2, batch_size: 4, log_every: 1, distill: true, warmup: 0}",
    }
    words = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    for override in overrides:
        words += ["--set", override]
    printed = forked("distill", "--recipe", "tinyllava-0.5b", "--run", "try", *words)
    assert "Switch-KD" in printed and Path("runs/try/reports/accuracy.json").exists(), printed
    (record,) = Path("runs/try").glob("stages/student-dft-*/stage.json")
    return [entry for entry in json.loads(record.read_text())["log"] if "loss" in entry]


def shape(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MISTRAL))
    return folder


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_needs_one_file(title):
    (section,) = re.findall(rf"\n## {title}\n(.*?)\n## ", PAGE, re.DOTALL)
    assert section.strip().startswith("One file") and "What else has to be true" in section
    assert len(MARKED.findall(section)) == 1


def test_a_language_model_is_distilled_and_evaluated(outside, tmp_path, teacher_folder, road_scenes):
    outside("switchkd_families/mistral.py")
    init("student", language=shape(tmp_path / "Mistral-7B"))
    log = distil("student", teacher_folder, road_scenes)
    assert len(log) == 2 and all(entry["vsd"] > 0 for entry in log)
    assert json.loads(Path("runs/try/student/config.json").read_text())["text_config"]["model_type"] == "mistral"


@pytest.mark.slow
def test_a_projector_is_distilled_and_evaluated(outside, teacher_folder, road_scenes):
    outside("switchkd_families/linear.py")
    init("student", "--projector", "linear")
    assert json.loads(Path("student/config.json").read_text())["model_type"] == "switchkd_llava"
    assert len(distil("student", teacher_folder, road_scenes)) == 2
    loaded = in_transformers("runs/try/student")
    assert loaded.splitlines()[-1] == "SwitchkdLlavaForConditionalGeneration SwitchkdLlavaProcessor Sequential"
    from safetensors.numpy import load_file

    before, after = (load_file(Path(folder, "model.safetensors")) for folder in ("student", "runs/try/student"))
    names = {name for name in after if name.startswith("multi_modal_projector.")}
    assert names == {f"multi_modal_projector.{name}" for name in ("norm.weight", "linear.weight", "linear.bias")}
    assert all((before[name] != after[name]).any() for name in names)


def test_a_loss_is_trained_by_and_explained(outside, student_folder, teacher_folder, road_scenes):
    outside("switchkd_terms/picture_states.py")
    assert "Weight of the picture's states." in skd("recipe")
    log = distil(student_folder, teacher_folder, road_scenes, "distillation.terms.picture_states=0.5")
    assert all(entry["picture_states"] > 0 for entry in log)


def test_a_format_is_exported_asked_and_predicted(outside, shelf):
    outside("switchkd_formats/zipped.py")
    assert "[gguf|onnx|hybrid|zipped|tinyllava]" in skd("export", "--help")
    picture().save("street.png")
    forked("export", shelf.checkpoint(), "--format", "zipped", "--quant", "whole", "--out", "out", "--threads", 1)
    assert {path.name for path in Path("out").glob("*.zip")} == {"vision.zip", "language.zip"}
    asked = ("--image", "street.png", "--prompt", "how many cars ?", "--max-tokens", 3)
    answers = [forked("chat", each, *asked).splitlines()[0] for each in ("out", shelf.checkpoint())]
    assert answers[0] == answers[1]
    assert "out" in skd("hardware", "fit", "out", "--target", "raspberry-pi-5", "--ram", 4)


def test_a_target_is_predicted_for(outside, shelf):
    folder = outside("my-board.toml")
    printed = skd("hardware", "fit", shelf.export("gguf", "q8"), "--target", folder / "my-board.toml", "--rate", 2)
    assert "Our board" in printed or "my-board" in printed


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("formats", ("export", "--help")),
        ("terms", ("recipe",)),
        ("families", ("data", "check", "{data}", "--model", "{model}")),
    ],
)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere\n", "can't be loaded: ModuleNotFoundError"),
        (
            "FORMAT = TERM = FAMILY = 1\n",
            "has to declare (FORMAT|TERM|FAMILY), a (Format|Term|Family) of the name 'odd'",
        ),
    ],
    ids=["broken", "misnamed"],
)
def test_a_file_that_is_none_is_named_in_one_line(outside, student_folder, road_scenes, folder, words, text, message):
    outside(f"switchkd_{folder}/odd.py", text)
    places = {"data": road_scenes / "instruct.json", "model": student_folder}
    printed = skd(*(word.format(**places) for word in words), status=1)
    assert re.fullmatch(rf"Error: \S+/switchkd_{folder}/odd\.py {message}.*\n", printed), printed


def test_a_name_that_is_taken_is_refused(outside):
    outside("switchkd_formats/gguf.py", 'from switchkd.hardware.runtimes import FORMATS\nFORMAT = FORMATS["gguf"]\n')
    assert "which isn't one of skd's own" in skd("export", "--help", status=1)


def test_nothing_is_loaded_that_no_command_looks_for(outside):
    outside("switchkd_formats/odd.py", "import nowhere\n")
    for words in ((), ("bench",), ("distill",)):
        assert "Usage" in skd(*words, "--help")


@pytest.mark.slow
def test_a_language_model_from_outside_is_exported(outside, tmp_path):
    outside("switchkd_families/mistral.py")
    init("student", language=shape(tmp_path / "Mistral-7B"))
    picture().save("street.png")
    for format, quant in (("gguf", "f16"), ("onnx", "fp32")):
        forked("export", "student", "--format", format, "--quant", quant, "--out", format, "--threads", 1)
        skd("chat", format, "--image", "street.png", "--prompt", "how many cars ?", "--max-tokens", 3)


@pytest.mark.slow
def test_a_projector_from_outside_is_exported_where_it_can_be(outside):
    outside("switchkd_families/linear.py")
    init("student", "--projector", "linear")
    forked("export", "student", "--format", "onnx", "--quant", "fp32", "--out", "onnx", "--threads", 1)
    refused = forked("export", "student", "--format", "gguf", "--quant", "f16", "--out", "gguf", status=1)
    assert "norm and one matrix can't be exported to gguf: llama.cpp has no such projector" in refused
