"""`skd export` and `skd chat` from the command line, in a run's folder."""

import shutil

import pytest
from click.testing import CliRunner
from support.llava_models import make_checkpoint, picture, question

from switchkd.cli.chat import chat_command
from switchkd.cli.export import export_command
from switchkd.errors import SkdError
from switchkd.manifest import Manifest
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("commands") / "student", seed=3)


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """A working folder with one finished run, laid out as `skd distill` does."""
    monkeypatch.chdir(tmp_path)
    stage = tmp_path / "runs" / "first" / "stages" / "student-dft-0" / "model"
    shutil.copytree(checkpoint, stage)
    (tmp_path / "runs" / "first" / "student").symlink_to("stages/student-dft-0/model")
    (tmp_path / "runs" / "latest").symlink_to("first")
    (tmp_path / "runs" / "first" / "recipe.yaml").write_text(
        "data: {source: files, folder: '', test: '', test_images: ''}\n"
    )
    return tmp_path / "runs" / "first"


def invoke(command, *arguments, **options):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_bare_export_then_chat_by_name(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = invoke(export_command, "--threads", 1).output
    out = run / "exports" / "student-gguf-q4"
    assert Manifest.load(out).quant == "q5_mixed"
    assert "student-gguf-q4" in (run / "reports" / "index.html").read_text()
    assert all(word in shown for word in ("language.gguf", "Q5_1", "mmproj.gguf", "F16", "mean KL", "features"))
    with pytest.raises(SkdError, match="--force"):
        invoke(export_command, "--threads", 1)
    invoke(export_command, "--threads", 1, "--force")

    picture().save("scene.png")
    with open_engine(out, threads=1) as engine:
        expected = engine.answer(question("is it red ?"), picture(), max_new_tokens=9)
    assert expected
    chat = ("student-gguf-q4", "--image", "scene.png", "--threads", 1, "--max-tokens", 9)
    assert invoke(chat_command, *chat, "--prompt", "is it red ?").stdout.strip() == expected
    several = invoke(chat_command, *chat, input="is it red ?\nand now ?\n\n").stdout
    assert several.startswith(expected) and len(several) > len(expected) + 2


def test_other_checkpoints_go_beside_you(checkpoint, run):
    invoke(export_command, checkpoint, "--quant", "f16", "--threads", 1)
    assert Manifest.load(run.parents[1] / "exports" / "student-gguf-f16").quant == "f16"
    invoke(export_command, "runs/first/student", "--quant", "f16", "--threads", 1)
    assert Manifest.load(run / "exports" / "student-gguf-f16").quant == "f16"


def test_questions_and_calibration(run, road_scenes):
    data = next(path for path in sorted(road_scenes.glob("test*.json")))
    options = ("--data", data, "--calibrate", road_scenes / "instruct.json", "--samples", 4)
    shown = invoke(export_command, "--threads", 1, "--vision-quant", "q8_0", "--out", "mine", *options)
    manifest = Manifest.load(run.parents[1] / "mine")
    assert manifest.parity["loss"]["questions"] == 4 and len(manifest.parity["candidates"]) == 2
    assert manifest.vision_quant == "q8_0" and "right of 4 questions" in shown.output


def test_no_run_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SkdError, match="no run yet"):
        invoke(export_command)
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    with pytest.raises(SkdError, match="has no student"):
        invoke(export_command, "--run", "empty")
    with pytest.raises(SkdError, match="There is no variant"):
        invoke(chat_command, "nobody")


def test_unknown_precisions(checkpoint, run):
    with pytest.raises(SkdError, match="no precision 'q3'; there are q4, q4_0"):
        invoke(export_command, checkpoint, "--quant", "q3")
    with pytest.raises(SkdError, match="no precision 'q2' for the vision file; there are f16"):
        invoke(export_command, checkpoint, "--vision-quant", "q2")
