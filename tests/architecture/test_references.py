"""What a model's name means to the commands: a folder, a shipped part, or a model on the hub (here in its local cache)."""

import json
import os
import subprocess
import sys

import pytest
from support.llava_models import make_checkpoint

from switchkd.architecture.references import is_reference, model_name, resolve_checkpoint
from switchkd.errors import CheckpointError

HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A folder, and the environment of a command that runs in it offline, with one model in the hub's cache."""
    folder = tmp_path_factory.mktemp("references")
    model = folder / "hub" / "models--someone--small-vlm"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(HASH)
    make_checkpoint(model / "snapshots" / HASH)
    return folder, os.environ | {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def skd(cached, *arguments):
    folder, environment = cached
    command = [sys.executable, "-c", "from switchkd.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_model_on_the_hub_is_exported_and_asked_by_its_name(cached):
    done = skd(cached, "export", "someone/small-vlm", "--quant", "q8", "--threads", "1")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((cached[0] / "exports" / "small-vlm-gguf-q8" / "manifest.json").read_text())
    assert manifest["quant"] == "q8_0"
    told = skd(cached, "chat", "someone/small-vlm", "--prompt", "is it red ?", "--max-tokens", "4", "--threads", "1")
    assert told.returncode == 0 and told.stdout, told.stderr


def test_data_is_checked_with_a_model_on_the_hub(cached):
    (cached[0] / "talks.json").write_text(
        json.dumps([{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}])
    )
    for name, status in (("someone/small-vlm", 0), ("someone/else", 1)):
        done = skd(cached, "data", "check", "talks.json", "--model", name)
        assert done.returncode == status and len(done.stderr.splitlines()) == status, done.stderr


def test_a_model_that_the_hub_does_not_have(cached):
    for command in ("export", "chat", "bench"):
        done = skd(cached, command, "someone/else")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "'someone/else' is neither a folder nor a model that could be downloaded" in line


@pytest.mark.parametrize(("held", "asked"), [("model.safetensors", 1), ("pytorch_model.bin", 2)])
def test_pickles_are_downloaded_where_there_is_nothing_else(held, asked, tmp_path, monkeypatch):
    """And only for a command that reads them."""
    import huggingface_hub

    left_out = []

    def download(name: str, ignore_patterns: list[str]) -> str:
        left_out.append(ignore_patterns)
        (tmp_path / held).touch() if held.endswith(".safetensors") or "*.bin" not in ignore_patterns else None
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_checkpoint("someone/model", pickles=True) == tmp_path
    assert ["*.bin" in each for each in left_out] == [True, False][:asked]
    assert all("*.pt" in each for each in left_out)
    left_out.clear()
    resolve_checkpoint("someone/model")
    assert ["*.bin" in each for each in left_out] == [True]


def test_shipped_parts_have_names():
    teacher = resolve_checkpoint("asset:teacher")
    assert (teacher / "model.safetensors").exists() and model_name(teacher) == "teacher"
    with pytest.raises(CheckpointError, match=r"no shipped part 'teach'.* only language-large, .*teacher"):
        resolve_checkpoint("asset:teach")


def test_paths_are_not_asked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_reference("runs/student")
    (tmp_path / "runs").mkdir()
    for name in ("runs/student", "student", "./owner/model", "/owner/model", "a/b/c", "", tmp_path / "nothing"):
        assert not is_reference(name)
        with pytest.raises(CheckpointError, match="There is no model folder"):
            resolve_checkpoint(name or "nothing")


def test_names_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "models--someone--small-vlm" / "snapshots" / HASH
    assert [model_name(folder) for folder in (tmp_path / "student", cache)] == ["student", "small-vlm"]
    assert model_name(cache.relative_to(tmp_path).joinpath("../../..")) == tmp_path.name
