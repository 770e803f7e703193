"""What goes in, at the commands: names of models and folders, links, bytes of other encodings, weights of other kinds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import checkpoints, pictures
from support.llava_files import turns
from support.llava_models import make_checkpoint
from support.pictures import encoded, noise
from support.training import QUIET, stage_job

from switchkd.cli.main import main
from switchkd.errors import CheckpointError
from switchkd.prompt import ChatPrompt
from switchkd.training.stages import open_data

OTHER = os.fsdecode(b"donn\xe9es")  # a folder named in Latin-1


def skd(*arguments: object, fails: bool = False, said: bytes | None = None) -> str:
    """What a command printed; one that fails does so in one line."""
    result = CliRunner().invoke(main, [str(each) for each in arguments], input=said, env={"COLUMNS": "200"})
    assert (result.exit_code != 0) == fails, (result.output, result.exception)
    if fails:
        assert isinstance(result.exception, SystemExit), result.exception
        assert len([line for line in result.output.splitlines() if line.startswith("Error: ")]) == 1, result.output
    return result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "student")


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_data(folder: Path, picture: str = "car.png") -> Path:
    """data.json of four records about images/car.png."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if picture == "car.png":
        with (folder / "images" / picture).open("wb") as stream:  # Pillow wants the path to be Unicode
            noise((40, 30)).save(stream, "PNG")
    record = {"image": picture, "conversations": turns("<image>\nWhat is it ?", "A car.")}
    (folder / "data.json").write_text(json.dumps([record | {"id": str(number)} for number in range(4)]))
    return folder / "data.json"


@pytest.mark.parametrize("name", ["asset:teacher", "model", "./model"])
def test_data_check_takes_every_name_of_a_model(name, model, tmp_path):
    (tmp_path / "model").symlink_to(model)
    assert "4" in skd("data", "check", write_data(tmp_path), "--model", name)


@pytest.mark.parametrize("name", ["asset:nothing", "nobody", "images/none"])
def test_data_check_refuses_names_that_mean_nothing(name, tmp_path):
    assert "Error: There is no" in skd("data", "check", write_data(tmp_path), "--model", name, fails=True)


@pytest.mark.filterwarnings("error::UserWarning")
def test_data_check_keeps_the_terminal_clean(model, tmp_path, capfd):
    """Pictures whose EXIF Pillow warns of, looked at by other processes."""
    file = write_data(tmp_path, "odd.jpg")
    odd = pictures.exif(0x0112, 3, b"\6\0\6\0", 2)
    (tmp_path / "images" / "odd.jpg").write_bytes(pictures.with_segment(encoded("JPEG", (40, 30)), odd))
    assert "usable" in skd("data", "check", file, "--model", model)
    assert capfd.readouterr().err == ""


def test_links_that_lead_out_are_followed_where_that_is_allowed(model, tmp_path):
    file = write_data(tmp_path, "far.png")
    noise((40, 30)).save(tmp_path / "elsewhere.png")
    (tmp_path / "images" / "far.png").symlink_to(tmp_path / "elsewhere.png")
    commands = (("data", "check", file, "--model", model), ("eval", model, "--data", file, "--max-tokens", 2))
    for command in commands:
        assert "--follow-links" in skd(*command, fails=True)
        skd(*command, "--follow-links")
    job = stage_job(tmp_path / "stage", model, (file, tmp_path / "images"))
    with pytest.raises(Exception, match="--follow-links"):
        open_data(job, ChatPrompt.load(model), QUIET, workers=0)
    object.__setattr__(job.data, "follow_links", True)
    samples, report = open_data(job, ChatPrompt.load(model), QUIET, workers=0)
    assert report.usable == 4 and samples[0]["pixel_values"] is not None and not samples[0]["bad"]


@pytest.mark.parametrize(
    "end", ["{{- '<|im_end|>' -}}", "{{- '<|im_end|>\n' -}}", "{#- no end at all #}", "{{- eos_token -}}"]
)
def test_a_template_that_never_teaches_to_stop_is_refused_before_training(end, model, tmp_path):
    """In `data check` as in training."""
    folder = shutil.copytree(model, tmp_path / "student")
    path = folder / "chat_template.jinja"
    inside = "{{- body(message.content) + '<|im_end|>' -}}\n        {%- endgeneration -%}"
    assert inside in path.read_text()
    outside = "{{- body(message.content) -}}\n        {%- endgeneration -%}\n        " + end
    path.write_text(path.read_text().replace(inside, outside))
    file = write_data(tmp_path)
    assert "never learn to stop" in skd("data", "check", file, "--model", folder, fails=True)
    with pytest.raises(CheckpointError, match="never learn to stop"):
        open_data(stage_job(tmp_path / "stage", folder, (file, tmp_path / "images")), ChatPrompt.load(folder), QUIET)


@pytest.mark.parametrize("said", [b"caf\xe9 ?", b"\xff\xfeh\0i\0", "straße ?".encode("latin-1")])
def test_bytes_of_another_encoding_are_told_and_asked_again(said, model):
    output = skd("chat", model, "--max-tokens", 2, "--threads", 1, said=said + b"\nis it red ?\n\n")
    assert output.count("isn't UTF-8") == 1 and output.count("> ") == 3


def test_folders_named_in_another_encoding(model, tmp_path):
    """Data may lie there; models that libraries read may not, which is told in a line."""
    file = write_data(tmp_path / OTHER)
    assert "usable" in skd("data", "check", file, "--model", model)
    skd("eval", model, "--data", file, "--max-tokens", 2, "--json", tmp_path / OTHER / "scores.json")
    assert json.loads((tmp_path / OTHER / "scores.json").read_text())["unanswered"] == 0
    shutil.copytree(model, tmp_path / OTHER / "student")
    assert "usable" in skd("data", "check", file, "--model", tmp_path / OTHER / "student")
    shape = ("--random", "--shrink", "--vision", "siglip-so400m-patch14-384", "--language", "qwen2.5-0.5b")
    assert "isn't UTF-8" in skd("init", Path(OTHER) / "new", *shape, fails=True)
    assert "UTF-8" in skd("eval", tmp_path / OTHER / "student", "--data", file, fails=True)


KINDS = {
    "LoRA adapter": lambda folder: (shutil.rmtree(folder), checkpoints.adapter(folder)),
    "quantized by gptq": lambda folder: checkpoints.configure(folder, quantization_config={"quant_method": "gptq"}),
    "quantized by bitsandbytes": lambda folder: checkpoints.configure(
        folder, quantization_config={"quant_method": "bitsandbytes"}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_weights_are_called_by_their_name_by_every_command(kind, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "odd")
    KINDS[kind](folder)
    file = write_data(tmp_path)
    commands = [
        ("data", "check", file, "--model", "odd"),
        ("eval", "odd", "--data", file),
        ("chat", "odd", "--prompt", "hi"),
        ("init", "new", "--vision", "odd", "--language", "odd"),
        *(("export", "odd", "--format", name, "--quant", "q8", "--out", "out") for name in ("gguf", "onnx", "hybrid")),
    ]
    for command in commands:
        output = skd(*command, fails=True)
        assert kind in output and ("merge" in output or "made from" in output), (command, output)
    assert not Path("out").exists() and not Path("new").exists()
