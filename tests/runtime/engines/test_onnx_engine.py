"""The ONNX engine: its cache in place, its batches, and what it says to damaged, foreign and hostile files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from support.llava_models import make_checkpoint, picture, question

from switchkd.cli.chat import chat_command
from switchkd.cli.doctor import doctor_command
from switchkd.cli.export import export_command
from switchkd.errors import DataError, MissingDependencyError, SkdError
from switchkd.manifest import FILE_NAME, ManifestError
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("engine") / "student", tied=False, seed=4)
    out = checkpoint.with_name("out")
    options = ["--format", "onnx", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(export_command, [str(checkpoint), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "onnx/decoder_model_merged_q4.onnx" in result.output and "INT4" in result.output
    return out


@pytest.fixture
def engine(exported):
    with open_engine(exported, threads=1) as engine:
        engine.end_tokens = frozenset()
        yield engine


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported, tmp_path / "student-onnx-q4")


def request_of(engine, text="how many cars ?", seed=0, before=""):
    return engine.encode_prompt(question(text, before)), engine.encode_image(picture(seed))


def test_a_prompt_at_once_and_token_by_token(engine):
    ids, features = request_of(engine)
    answer = list(engine.tokens(ids, features, max_new_tokens=6))
    rows = engine.language.prefill([*ids, *answer], features, every=True)
    assert rows.shape == (len(ids) + 6, 410)
    # Activations are rounded to 8 bits in blocks, so sums differ by how a prompt is cut.
    np.testing.assert_allclose(engine.prefill(ids, features), rows[len(ids) - 1], atol=0.05)
    for position, token in enumerate(answer):
        np.testing.assert_allclose(engine.next_token(token), rows[len(ids) + position], atol=0.05)


def test_the_cache_grows_in_place(engine):
    ids, features = request_of(engine)
    engine.prefill(ids, features)
    cache, count = list(engine.language._cache.values()), len(ids)
    assert len(cache) == 2 * 3 and cache[0].shape == (1, 2, 2048, 16)
    before = [buffer.copy() for buffer in cache]
    engine.next_token(5)
    for old, new in zip(before, cache, strict=True):
        np.testing.assert_array_equal(new[:, :, :count], old[:, :, :count])
        assert new[:, :, count].any() and not old[:, :, count].any() and not new[:, :, count + 1 :].any()


def test_alternating_pictures_give_what_fresh_engines_give(exported, engine):
    """No stale picture: to the last bit, whatever was asked before."""
    requests = [("is it red ?", index % 3, "look :" * (index % 4)) for index in range(8)]
    for text, seed, before in requests:
        own = engine.prefill(*request_of(engine, text, seed, before)), engine.next_token(7)
        with open_engine(exported, threads=1, verify=False) as fresh:
            np.testing.assert_array_equal(own[0], fresh.prefill(*request_of(fresh, text, seed, before)))
            np.testing.assert_array_equal(own[1], fresh.next_token(7))


def test_text_alone(engine):
    assert engine.answer([{"role": "user", "content": "is it red ?"}], max_new_tokens=4)


def test_prompts_longer_than_the_context(exported):
    with open_engine(exported, threads=1, context=40) as engine:
        with pytest.raises(DataError, match="more than the context of 40"):
            engine.encode_prompt(question("how many cars ? " * 9))
        ids, features = request_of(engine, "?")
        engine.end_tokens = frozenset()
        assert len(list(engine.tokens(ids, features))) == 40 - len(ids)
        engine.next_token(5)  # the answer's last, which nobody needed to read
        with pytest.raises(DataError, match="41 tokens are more than the context of 40"):
            engine.next_token(5)
        with pytest.raises(DataError, match="more than the context of 40"):
            engine.language.prefill([5] * 41)


def test_bytes_that_changed_are_caught_first(folder):
    path = folder / "onnx" / "decoder_model_merged_q4.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="isn't the file that was exported"):
        open_engine(folder, threads=1)
    path.write_bytes(content[:-1000])
    with pytest.raises(ManifestError, match=r"has \d+ bytes instead of"):
        open_engine(folder, threads=1)
    path.unlink()
    with pytest.raises(ManifestError, match="is missing"):
        open_engine(folder, threads=1)


def replaced(folder, name, content: bytes):
    """Puts other content into the folder, with a manifest that says it belongs there."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / FILE_NAME).read_text())
    manifest["files"][name]["bytes"] = len(content)
    (folder / FILE_NAME).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["vision_encoder_quantized", "embed_tokens_q4", "decoder_model_merged_q4"])
def test_files_that_onnx_runtime_refuses(folder, name, capfd):
    path = f"onnx/{name}.onnx"
    whole = (folder / path).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"GGUF" + bytes(100)):
        replaced(folder, path, content)
        with pytest.raises(SkdError, match=f"ONNX Runtime can't read .*{name}") as error:
            open_engine(folder, threads=1, verify=False)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("location", ["../../secret", "{secret}", "link", "nowhere"])
def test_weights_outside_the_folder_are_not_read(folder, tmp_path, location):
    """A graph may say where its weights lie; elsewhere than in its own folder is refused."""
    rows = np.ones((410, 64), np.uint8)
    secret = tmp_path / "secret"
    secret.write_bytes(rows.tobytes())
    (folder / "onnx" / "link").symlink_to(secret)
    model = onnx.load(folder / "onnx" / "embed_tokens_q4.onnx")
    for entry in model.graph.initializer:
        if entry.name.endswith("_Q4"):
            onnx.external_data_helper.set_external_data(entry, location.format(secret=secret), 0, 410 * 32)
            entry.ClearField("raw_data")
    replaced(folder, "onnx/embed_tokens_q4.onnx", model.SerializeToString())
    with pytest.raises(SkdError, match=r"ONNX Runtime can't read .*embed_tokens"):
        open_engine(folder, threads=1, verify=False)


def test_devices(folder, exported, monkeypatch):
    with pytest.raises(SkdError, match="ONNX Runtime has no device 'xnnpack' here, only cpu"):
        open_engine(folder, threads=1, device="xnnpack")
    with pytest.raises(SkdError, match="don't run on 'cuda' yet"):
        open_engine(folder, threads=1, device="cuda")
    with pytest.raises(SkdError, match="only ONNX exports run on 'cuda'"):
        open_engine(exported.with_name("student"), threads=1, device="cuda")
    providers = [f"{name}ExecutionProvider" for name in ("CUDA", "Xnnpack", "Azure", "CPU")]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert "--device of ONNX exports: xnnpack, cpu" in CliRunner().invoke(doctor_command).output


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif("XnnpackExecutionProvider" in onnxruntime.get_available_providers(), reason="it may load here")
def test_a_device_whose_libraries_are_missing(folder, monkeypatch):
    """ONNX Runtime itself would go on with the processor."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["XnnpackExecutionProvider"])
    with pytest.raises(SkdError, match="can't use 'xnnpack' here: XnnpackExecutionProvider doesn't load"):
        open_engine(folder, threads=1, device="xnnpack")


def test_missing_onnx_runtime_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'switchkd\[onnx\]'"):
        open_engine(folder, threads=1)


def test_chat_without_torch(exported, tmp_path):
    """The command line's chat, in a process where nothing that trains or exports can be imported."""
    picture().save(tmp_path / "scene.png")
    with open_engine(exported, threads=1) as engine:
        expected = engine.answer(question("is it red ?"), picture(), max_new_tokens=9)
    options = ["--image", str(tmp_path / "scene.png"), "--prompt", "is it red ?", "--max-tokens", "9", "--threads", "1"]
    shown = CliRunner().invoke(chat_command, [str(exported), *options]).output
    assert expected and shown.strip() == expected
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "transformers", "safetensors", "onnx", "onnx_ir", "onnxruntime_genai"}}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
from switchkd.cli.chat import chat_command
chat_command({[str(exported), *options]!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.strip() == expected
