"""Opening folders: by name, by path; damaged ones end in one line; and all of it without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.llava_models import make_checkpoint, picture

from switchkd.errors import CheckpointError, MissingDependencyError, SkdError
from switchkd.manifest import FILE_NAME, ManifestError
from switchkd.runtime.engines.llama import engine as llama_engine
from switchkd.runtime.engines.llama import library as llama_library
from switchkd.runtime.engines.opening import find_variant, open_engine


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may damage."""
    import shutil

    return shutil.copytree(exported, tmp_path / "student-gguf-q4")


@pytest.fixture(scope="module")
def exported(shelf):
    return shelf.export("gguf", "q4_0")


def test_names_are_sought_among_the_newest_runs_exports(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SkdError, match="make one with `skd export`"):
        find_variant("nothing")
    exports = tmp_path / "runs" / "first" / "exports"
    exports.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("first")
    folder.rename(exports / "tiny-q4")
    assert find_variant("tiny-q4").resolve() == exports / "tiny-q4"
    with pytest.raises(SkdError, match="the newest run has tiny-q4"):
        find_variant("other")


@pytest.mark.parametrize("name", ["language.gguf", "mmproj.gguf", "tokenizer.json"])
def test_a_flipped_byte_is_caught_before_llama_cpp_sees_it(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=f"{name} isn't the file that was exported"):
        open_engine(folder, threads=1)


@pytest.mark.parametrize("rearranged", [True, False])
def test_rearranged_weights_are_in_memory_once(exported, monkeypatch, rearranged):
    """Copies for this processor's kernels make the mapped file superfluous, which would stay in memory too."""
    monkeypatch.setattr(llama_engine, "can_rearrange_weights", lambda: rearranged)
    with open_engine(exported, threads=1):
        mapped = "language.gguf" in Path("/proc/self/maps").read_text()
    assert mapped is not rearranged


def test_a_closed_engine_is_an_error(exported):
    """An answer that is read after the engine's end: llama.cpp would end the process."""
    with open_engine(exported, threads=1) as engine:
        answer = engine.generate([{"role": "user", "content": "is it red ?"}], max_new_tokens=4)
    for use in (lambda: list(answer), lambda: engine.encode_image(picture()), lambda: engine.next_token(1)):
        with pytest.raises(SkdError, match="is closed"):
            use()


def test_missing_files(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ManifestError, match=r"tokenizer\.json is missing"):
        open_engine(folder, threads=1)
    (folder / FILE_NAME).unlink()
    (folder / "config.json").unlink()
    with pytest.raises(SkdError, match="neither an export"):
        open_engine(folder, threads=1)


def test_files_that_llama_cpp_refuses(folder):
    for name in ("mmproj.gguf", "language.gguf"):
        (folder / name).write_bytes(b"GGUF" + bytes(100))
        manifest = json.loads((folder / FILE_NAME).read_text())
        manifest["files"][name]["bytes"] = 104
        (folder / FILE_NAME).write_text(json.dumps(manifest))
        with pytest.raises(SkdError, match=f"llama.cpp can't read .*{name}") as error:
            open_engine(folder, threads=1, verify=False)
        assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_tokenizer(exported, tmp_path):
    broken = make_checkpoint(tmp_path / "student")
    (broken / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        open_engine(broken, threads=1)


def test_formats_of_tomorrow(folder):
    manifest = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps({**manifest, "format": "hologram"}))
    with pytest.raises(SkdError, match="the format 'hologram'"):
        open_engine(folder, threads=1, verify=False)


def test_missing_extras_are_named(folder, monkeypatch):
    llama_library.library.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'switchkd\[gguf\]'"):
        open_engine(folder, threads=1)
    llama_library.library.cache_clear()


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "accelerate", "scipy"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_an_export_runs_without_torch(exported, tmp_path):
    """The command line's chat, in a process where torch and transformers can't be imported."""
    picture().save(tmp_path / "scene.png")
    code = f"""{BLOCKED}
from switchkd.cli.chat import chat_command
from switchkd.runtime.engines.opening import open_engine
with open_engine({str(exported)!r}, threads=1) as engine:
    print(len(engine.encode_image(__import__("PIL.Image").Image.open({str(tmp_path / "scene.png")!r}))))
chat_command([{str(exported)!r}, "--image", {str(tmp_path / "scene.png")!r}, "--prompt", "is it red ?",
              "--max-tokens", "6", "--threads", "1"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("16\n") and result.stderr == ""


def test_a_checkpoint_without_torch_is_one_line(shelf):
    code = f"""{BLOCKED}
from switchkd.errors import MissingDependencyError
from switchkd.runtime.engines.opening import open_engine
try:
    open_engine({str(shelf.checkpoint())!r})
except MissingDependencyError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "pip install 'switchkd[train]'" in result.stdout
