"""Whole exports of small real architectures: complete folders, proved, or nothing at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from support.answers import LIMITS, assert_says_the_same, mean_divergence
from support.llava_models import picture

from switchkd.chat_template import inference_template
from switchkd.errors import CheckpointError, MissingDependencyError, SkdError
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf import parts as gguf_parts
from switchkd.export.parity import ParityError
from switchkd.export.samples import synthetic_samples
from switchkd.manifest import Manifest
from switchkd.runtime.engines.opening import open_engine

SHAPES = {
    "siglip-tied": {"tied": True, "feature_layer": -2},
    "siglip-untied": {"tied": False, "feature_layer": -1},
    "clip-untied": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -2},
    "clip-tied-first": {"vision": "clip-vit-large-patch14-336", "tied": True, "feature_layer": 1},
}


@pytest.fixture(scope="module")
def checkpoints(shelf):
    return {name: shelf.checkpoint(**shape) for name, shape in SHAPES.items()}


@pytest.fixture
def checkpoint(checkpoints):
    return checkpoints["siglip-tied"]


def export(checkpoint, out, **settings):
    return run_export(ExportRequest(checkpoint, out, threads=1, **settings))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quant", ["f32", "f16"])
def test_unquantized_exports_are_the_checkpoint(checkpoints, tmp_path, shape, quant):
    manifest = export(checkpoints[shape], tmp_path / "out", quant=quant)
    errors = manifest.parity["stages"]["error"]
    assert list(errors) == ["pixels", "features", "projected", "logits"]
    assert errors["pixels"] < 1e-6 and max(errors.values()) < (2e-3 if quant == "f32" else 5e-3)
    assert manifest.parity["loss"]["kl_max"] < 1e-4
    assert (manifest.quant, manifest.vision_quant) == (quant, quant)
    with open_engine(checkpoints[shape], threads=1) as reference, open_engine(tmp_path / "out", threads=1) as engine:
        for seed in range(3):
            assert_says_the_same(engine, reference, picture(seed), error=1e-2)


@pytest.mark.parametrize(
    ("quant", "shape"),
    [
        *((quant, shape) for quant in ("q4_mixed", "q8") for shape in SHAPES),
        ("q4", "siglip-tied"),
        ("q4", "clip-untied"),
    ],
)
def test_quantized_exports_stay_close(checkpoints, tmp_path, shape, quant):
    manifest = export(checkpoints[shape], tmp_path / "out", quant=quant)
    loss = manifest.parity["loss"]
    assert 0 < loss["kl_mean"] <= loss["kl_max"] and loss["kl_p99"] is None  # of too few positions
    limit = LIMITS[quant[:2]]
    assert loss["kl_mean"] < limit
    types = manifest.files["language.gguf"].tensor_types
    # The feed-forward width of 160 can't be cut into K-blocks: Q5_K falls back to Q5_1.
    mixed = {"Q5_0", "Q5_1", "F32"} | (set() if SHAPES[shape]["tied"] else {"Q4_0"})
    assert set(types) == {"q8": {"Q8_0", "F32"}, "q4": {"Q5_1", "Q8_0", "F32"}, "q4_mixed": mixed}[quant]
    with open_engine(checkpoints[shape], threads=1) as reference, open_engine(tmp_path / "out", threads=1) as engine:
        assert 0 < mean_divergence(engine, reference, picture()) < limit


def test_the_folder_is_complete_and_says_what_it_is(checkpoint, tmp_path):
    manifest = export(checkpoint, tmp_path / "out", quant="q4", vision_quant="q8_0")
    assert Manifest.load(tmp_path / "out") == manifest
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*manifest.files, "manifest.json"}
    companions = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"}
    companions |= {"preprocessor_config.json", "generation_config.json", "language.gguf", "mmproj.gguf"}
    assert companions <= set(manifest.files)
    assert (manifest.quant, manifest.vision_quant, manifest.image.tokens) == ("q5_mixed", "q8_0", 16)
    assert manifest.image.token == "<|image_pad|>" and "im_start" in manifest.prompt_template
    assert set(manifest.tools) == {"skd", "gguf", "llama-cpp-python"}
    for role in ("language", "vision"):
        entry = manifest.files[manifest.file_of(role)]
        reader = GGUFReader(tmp_path / "out" / manifest.file_of(role))
        assert sum(types.count for types in entry.tensor_types.values()) == len(reader.tensors)
        assert sum(types.bytes for types in entry.tensor_types.values()) == sum(int(t.n_bytes) for t in reader.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_checkpoints_have_other_hashes(checkpoints, tmp_path):
    first = export(checkpoints["siglip-tied"], tmp_path / "a", quant="f16")
    second = export(checkpoints["siglip-untied"], tmp_path / "b", quant="f16")
    assert first.source.sha256 != second.source.sha256


def test_the_file_carries_the_tokenizer(checkpoint, tmp_path):
    """For other llama.cpp programs, which tokenize themselves."""
    from switchkd.prompt import ChatPrompt
    from switchkd.runtime.engines.llama.engine import LlamaModel

    export(checkpoint, tmp_path / "out", quant="f16")
    prompt = ChatPrompt.load(checkpoint)
    model = LlamaModel(tmp_path / "out" / "language.gguf")
    for text in ("<|im_start|>user\n<|image_pad|>How many?<|im_end|>\n", "Straße 12,34 — 信号", " \n\n\tx"):
        assert model.tokenize(text) == prompt.tokenizer.encode(text, add_special_tokens=False).ids
    model.close()
    fields = GGUFReader(tmp_path / "out" / "language.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens.data) == 410 and bytes(tokens.parts[tokens.data[-1]]) == b"[PAD409]"
    assert fields["tokenizer.chat_template"].contents() == inference_template(prompt.template)


def test_an_existing_folder_is_kept_unless_forced(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(SkdError, match="--force"):
        export(checkpoint, out, quant="f16")
    assert (out / "precious").read_text() == "mine"
    (out / "precious").unlink()
    export(checkpoint, out, quant="f16", force=True)
    (out / "older").touch()
    export(checkpoint, out, quant="f16", force=True)
    assert not (out / "older").exists() and Manifest.load(out)


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("v.blk.1.attn_q.weight", "features"),
        ("mm.0.weight", "projected"),
        ("blk.0.ffn_down.weight", "logits"),
        ("token_embd.weight", "logits"),
    ],
)
def test_a_wrong_tensor_fails_the_export_and_leaves_nothing(checkpoint, tmp_path, monkeypatch, tensor, stage):
    """As if the writer had taken a tensor for another: the stage is named, and an older export stays."""
    out = tmp_path / "exports" / "out"
    export(checkpoint, out, quant="f16")
    before = Manifest.load(out)
    name = "write_vision" if tensor.startswith(("v.", "mm.")) else "write_language"
    write = getattr(gguf_parts, name)

    def write_wrongly(checkpoint, path, precision):
        write(checkpoint, path, precision)
        spoil(path, tensor)

    monkeypatch.setattr(gguf_parts, name, write_wrongly)
    with pytest.raises(ParityError, match=f"first in its {stage}"):
        export(checkpoint, out, quant="q4", force=True)
    assert Manifest.load(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def spoil(path: Path, tensor: str) -> None:
    """Turns a tensor's rows around, in the file."""
    found = next(entry for entry in GGUFReader(path, "r+").tensors if entry.name == tensor)
    rows = found.data.reshape(-1, found.data.shape[-1])
    rows[:] = rows[::-1].copy()
    found.data.base.flush()


def test_too_coarse_a_quantization_fails_and_is_told_what_passes(checkpoint, tmp_path, monkeypatch):
    """The named one was tried, after coarser ones that don't pass either; what `q4` means is tried by its own name."""
    for quant in gguf_parts.MAX_DIVERGENCE:
        monkeypatch.setitem(gguf_parts.MAX_DIVERGENCE, quant, 0.05 if quant == "q8_0" else 1e-9)
    told, collect, collected = [], gguf_parts.collect, []
    monkeypatch.setattr(gguf_parts, "collect", lambda *given: collected.append(1) or collect(*given))
    with pytest.raises(
        ParityError, match=r"Quantized to q4_0, .* own words, allowed .* Take --quant q8, which was tried"
    ):
        run_export(ExportRequest(checkpoint, tmp_path / "out", quant="q4_0", threads=1), progress=told.append)
    tried = [line.rpartition("trying ")[2] for line in told if "trying " in line]
    assert tried == ["q4_mixed", "q4_k_m", "q5_mixed", "q5_k_m", "q8"] and not any("trying f" in line for line in told)
    assert len(collected) == 1  # what weights read doesn't depend on the precision
    assert not any(tmp_path.iterdir())


def test_importance_matrix_is_kept_used_again_and_taken_where_it_wins(checkpoint, tmp_path, monkeypatch):
    samples = synthetic_samples(3, seed=5)
    first = export(checkpoint, tmp_path / "a", quant="q4", calibration=samples)
    tried = first.parity["candidates"]
    assert set(tried) == {"without importance matrix", "with importance matrix"}
    assert first.parity["chosen"] == min(tried, key=lambda note: max(tried[note].values()))
    judged = {name: verdict["kl_mean"] for name, verdict in first.parity["judged"].items()}
    assert judged == tried[first.parity["chosen"]]
    (kept,) = tmp_path.glob("*.npz")
    with np.load(kept) as importance:
        assert importance["blk.0.attn_q.weight"].shape == (64,) and importance["blk.2.ffn_down.weight"].shape == (160,)
        assert all((values >= 0).all() and values.any() for values in importance.values())
    monkeypatch.setattr(gguf_parts, "collect", None)  # not needed a second time
    again = export(checkpoint, tmp_path / "b", quant="q4", calibration=samples)
    assert again.parity["candidates"] == tried
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(SkdError, match="delete it to have it made again"):
        export(checkpoint, tmp_path / "c", quant="q4", calibration=samples)
    assert not (tmp_path / "c").exists()


def test_truncated_weights_leave_nothing(checkpoint, tmp_path):
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="is truncated"):
        export(broken, tmp_path / "exports" / "out")
    assert not (tmp_path / "exports").exists()


def test_values_that_are_not_finite(checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    for value, reason in ((np.nan, "aren't finite"), (1e6, "too large for f16")):
        weights[name][3, 4] = value
        save_file(weights, broken / "model.safetensors")
        with pytest.raises(SkdError, match=reason):
            export(broken, tmp_path / "exports" / "out", quant="f16")
        assert not any((tmp_path / "exports").iterdir())


@pytest.mark.parametrize("moment", ["running", "comparing", "measuring", "hashing"])
def test_an_interrupted_export_leaves_what_was_there(checkpoint, tmp_path, moment):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("export")

    def interrupt(doing):
        if doing.startswith(moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_export(ExportRequest(checkpoint, out, threads=1, force=True), interrupt)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "manifest.json"]


def test_a_place_that_cannot_be_written(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SkdError, match="can't be written"):
        export(checkpoint, tmp_path / "file" / "out", quant="f16")


def test_a_full_disk_leaves_nothing(checkpoint, tmp_path):
    """A limit on file sizes stands for it: writing fails in the middle, in Python and then in llama.cpp."""
    out = tmp_path / "exports" / "out"
    code = f"""
import resource, signal
from pathlib import Path
from switchkd.errors import SkdError
from switchkd.export.gguf import parts as gguf_parts
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.folder import ExportRequest, run_export

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def attempt(quant):
    try:
        run_export(ExportRequest(Path({str(checkpoint)!r}), Path({str(out)!r}), quant=quant, threads=1))
    except SkdError as error:
        print(error)

limit(150_000)
attempt("f16")
limit(resource.RLIM_INFINITY)
quantize = gguf_parts.quantize
def quantize_with_little_room(*arguments, **options):
    limit(50_000)
    quantize(*arguments, **options)
gguf_parts.quantize = quantize_with_little_room
attempt("q8")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    writing, quantizing = result.stdout.splitlines()
    assert "out can't be written" in writing and "llama.cpp couldn't quantize language.gguf" in quantizing
    assert not any(out.parent.iterdir())


@pytest.mark.parametrize("package", ["gguf", "llama_cpp"])
def test_missing_packages_are_named_before_any_work(checkpoint, tmp_path, monkeypatch, package):
    from switchkd.runtime.engines.llama import library as llama_library

    llama_library.library.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'switchkd\[gguf\]'"):
        export(checkpoint, tmp_path / "out")
    llama_library.library.cache_clear()
    assert not any(tmp_path.iterdir())


def test_older_names_and_newer_names_export_alike(checkpoint, tmp_path):
    """As transformers 5 itself writes a LLaVA folder."""
    from switchkd.models.vlm import load_vlm

    newer = shutil.copytree(checkpoint, tmp_path / "newer")
    (newer / "model.safetensors").unlink()
    load_vlm(checkpoint).save_pretrained(newer)
    config = json.loads((newer / "config.json").read_text())
    assert "rope_theta" not in config["text_config"]
    export(checkpoint, tmp_path / "a", quant="f16")
    export(newer, tmp_path / "b", quant="f16")
    for name in ("language.gguf", "mmproj.gguf"):
        first, second = (
            {t.name: t.data for t in GGUFReader(tmp_path / folder / name).tensors} for folder in ("a", "b")
        )
        assert first.keys() == second.keys()
        for tensor in first:
            np.testing.assert_array_equal(first[tensor], second[tensor])
