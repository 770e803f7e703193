"""Hybrid exports, vision in ONNX and language in GGUF: proved as one model, in one folder, or nothing at all."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir
import pytest
from click.testing import CliRunner
from support.answers import assert_says_the_same, first_tokens
from support.llava_models import make_checkpoint, picture, question

from switchkd.cli.export import export_command
from switchkd.errors import MissingDependencyError, SkdError
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf import parts as gguf_parts
from switchkd.export.onnx import parts as onnx_parts
from switchkd.export.parity import ParityError
from switchkd.export.samples import synthetic_samples
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.runtime.engines.opening import open_engine

SHAPES = {
    "siglip-tied": {"tied": True, "feature_layer": -2},
    "clip-untied": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -2},
}
VISION = "onnx/vision_encoder_quantized.onnx"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    return {name: make_checkpoint(folder / name, **shape) for name, shape in SHAPES.items()}


@pytest.fixture
def checkpoint(checkpoints):
    return checkpoints["siglip-tied"]


@pytest.fixture(scope="module")
def exported(checkpoints):
    """q4 with an int8 tower, made by the command line."""
    out = checkpoints["siglip-tied"].with_name("student-hybrid-q4")
    options = ["--format", "hybrid", "--quant", "q4", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(export_command, [str(checkpoints["siglip-tied"]), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in (VISION, "language.gguf", "Q5_1", "INT8", "skd bench"))
    return out


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported, tmp_path / "student-hybrid-q4")


def export(checkpoint, out, quant="q4", **settings):
    return run_export(ExportRequest(checkpoint, out, format="hybrid", quant=quant, threads=1, **settings))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_exports_are_the_checkpoint(checkpoints, tmp_path, shape):
    manifest = export(checkpoints[shape], tmp_path / "out", "f32", vision_quant="fp32")
    errors = manifest.parity["stages"]["error"]
    assert list(errors) == ["pixels", "features", "projected", "logits"]
    assert max(errors[stage] for stage in ("pixels", "features", "projected")) < 1e-5 and errors["logits"] < 2e-3
    assert manifest.parity["loss"]["kl_max"] < 1e-4
    with open_engine(checkpoints[shape], threads=1) as reference, open_engine(tmp_path / "out", threads=1) as engine:
        for seed in range(3):
            assert_says_the_same(engine, reference, picture(seed), error=1e-2)


def test_the_folder_is_complete_and_says_what_it_is(exported):
    manifest = Manifest.load(exported)
    assert (manifest.format, manifest.quant, manifest.vision_quant) == ("hybrid", "q5_mixed", "q8")
    assert (manifest.file_of("vision"), manifest.file_of("language")) == (VISION, "language.gguf")
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert found == {*manifest.files, FILE_NAME} and {"config.json", "tokenizer.json"} <= found
    assert "INT8" in manifest.files[VISION].tensor_types
    assert next(iter(manifest.files["language.gguf"].tensor_types)) == "Q5_1"
    assert {"gguf", "llama-cpp-python", "torch", "onnxruntime"} < set(manifest.tools)
    onnx.checker.check_model(str(exported / VISION))
    assert 0 < manifest.parity["loss"]["kl_mean"] < 0.1


@pytest.mark.slow
def test_the_parts_are_those_of_the_other_formats(checkpoint, exported, tmp_path):
    """The same weights as in a GGUF and in an ONNX export; features and logits to the last bit."""
    run_export(ExportRequest(checkpoint, tmp_path / "gguf", quant="q4", threads=1))
    run_export(ExportRequest(checkpoint, tmp_path / "onnx", format="onnx", quant="q4", threads=1))
    with (
        open_engine(exported, threads=1) as hybrid,
        open_engine(tmp_path / "gguf", threads=1) as gguf,
        open_engine(tmp_path / "onnx", threads=1) as onnx_engine,
    ):
        ids, features = hybrid.encode_prompt(question()), hybrid.encode_image(picture())
        np.testing.assert_array_equal(features, onnx_engine.encode_image(picture()))
        np.testing.assert_array_equal(hybrid.prefill(ids, features), gguf.prefill(ids, features))
        np.testing.assert_array_equal(hybrid.next_token(5), gguf.next_token(5))


def test_an_importance_matrix_is_tried(checkpoint, tmp_path):
    manifest = export(checkpoint, tmp_path / "out", calibration=synthetic_samples(2))
    assert set(manifest.parity["candidates"]) == {"without importance matrix", "with importance matrix"}
    assert len(list(tmp_path.glob("*-importance-*.npz"))) == 1


def test_a_tower_that_llama_cpp_mistakes(tmp_path):
    """intermediate_size = hidden_size is refused by GGUF alone, because of its vision file."""
    odd = make_checkpoint(tmp_path / "odd", intermediate_size=96)
    with pytest.raises(SkdError, match="takes the two feed-forward matrices for one"):
        run_export(ExportRequest(odd, tmp_path / "gguf", threads=1))
    assert export(odd, tmp_path / "out").parity["loss"]["kl_mean"] < 0.1


def test_a_wrong_export_fails_and_names_the_first_stage(checkpoint, exported, tmp_path, monkeypatch):
    out = tmp_path / "exports" / "out"
    write_vision, write_language = onnx_parts.write_vision, gguf_parts.write_language

    def write_vision_wrongly(checkpoint, path):
        write_vision(checkpoint, path)
        model = onnx_ir.load(path)
        value = model.graph.initializers["vlm.model.multi_modal_projector.linear_1.bias"]
        value.const_value = onnx_ir.tensor(value.const_value.numpy()[::-1].copy(), name=value.name)
        onnx_ir.save(model, path)

    def write_language_wrongly(checkpoint, path, precision):
        checkpoint.text["rope_theta"] *= 3
        write_language(checkpoint, path, precision)

    for module, name, wrong, stage in (
        (onnx_parts, "write_vision", write_vision_wrongly, "projected"),
        (gguf_parts, "write_language", write_language_wrongly, "logits"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, wrong)
            with pytest.raises(ParityError, match=f"first in its {stage}"):
                export(checkpoint, out)
        assert not any(out.parent.iterdir())


def test_what_is_refused_before_any_work(checkpoint, exported, tmp_path, monkeypatch):
    with pytest.raises(SkdError, match="GGUF has no precision 'q3'"):
        export(checkpoint, tmp_path / "out", "q3")
    with pytest.raises(SkdError, match="ONNX has no precision 'q4_k_m' for the vision file; there are q8, fp16, fp32"):
        export(checkpoint, tmp_path / "out", vision_quant="q4_k_m")
    with pytest.raises(SkdError, match="hybrid export, which runs on the processor"):
        open_engine(exported, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'switchkd\[onnx-export\]'"):
        export(checkpoint, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_damaged_files_are_one_line(folder):
    manifest = json.loads((folder / FILE_NAME).read_text())
    for name, whose in (
        (VISION, "ONNX Runtime can't read .*vision_encoder"),
        ("language.gguf", "llama.cpp can't read"),
    ):
        whole = (folder / name).read_bytes()
        for content in (whole[: len(whole) // 2] if name == VISION else b"GGUF", b""):
            (folder / name).write_bytes(content)
            with pytest.raises(SkdError, match="bytes instead of"):
                open_engine(folder, threads=1)
            changed = {**manifest["files"], name: {**manifest["files"][name], "bytes": len(content)}}
            (folder / FILE_NAME).write_text(json.dumps({**manifest, "files": changed}))
            with pytest.raises(SkdError, match=whose) as error:
                open_engine(folder, threads=1, verify=False)
            assert "\n" not in str(error.value)
            (folder / FILE_NAME).write_text(json.dumps(manifest))
        (folder / name).write_bytes(whole)
    with open_engine(folder, threads=1) as engine:
        assert len(first_tokens(engine, picture())) == 8


def test_chat_without_torch(exported, tmp_path):
    """The command line's chat, in a process where nothing that trains or exports can be imported."""
    picture().save(tmp_path / "scene.png")
    with open_engine(exported, threads=1) as engine:
        expected = engine.answer(question("is it red ?"), picture(), max_new_tokens=9)
    options = ["--image", str(tmp_path / "scene.png"), "--prompt", "is it red ?", "--max-tokens", "9", "--threads", "1"]
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "transformers", "safetensors", "onnx", "onnx_ir", "gguf"}}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
from switchkd.cli.chat import chat_command
chat_command({[str(exported), *options]!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert expected and result.stdout.strip() == expected
