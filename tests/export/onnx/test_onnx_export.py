"""Whole ONNX exports of small real architectures: proved, in the layout that others load, or nothing at all."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from support.answers import LIMITS, assert_says_the_same, mean_divergence, sure_picture
from support.llava_models import make_checkpoint, picture, question

from switchkd.errors import CheckpointError, MissingDependencyError, SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.onnx import graph as onnx_graph
from switchkd.export.onnx import parts as onnx_parts
from switchkd.export.onnx.language import write_decoder, write_embedding
from switchkd.export.parity import ParityError
from switchkd.export.samples import synthetic_samples
from switchkd.manifest import Manifest
from switchkd.runtime.engines.onnx import engine as onnx_engine
from switchkd.runtime.engines.opening import open_engine

SHAPES = {
    "siglip-tied": {"tied": True, "feature_layer": -2},
    "clip-untied": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -2},
}
FILES = {
    "q8": ("vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_quantized"),
    "q4": ("vision_encoder_quantized", "embed_tokens_q4", "decoder_model_merged_q4"),
    "fp16": ("vision_encoder_fp16", "embed_tokens_fp16", "decoder_model_merged_fp16"),
}
PAGE = Path(__file__).parents[3] / "docs" / "onnx.md"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return {name: make_checkpoint(folder / name, **shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def exports(checkpoints):
    """The float32 exports, each with its manifest as it was returned."""
    made = {}
    for name, checkpoint in checkpoints.items():
        out = checkpoint.with_name(f"{name}-fp32")
        made[name] = out, run_export(ExportRequest(checkpoint, out, format="onnx", quant="fp32", threads=1))
    return made


@pytest.fixture
def checkpoint(checkpoints):
    return checkpoints["siglip-tied"]


@pytest.fixture
def written(exports, monkeypatch):
    """Later exports of the same checkpoint start from the float32 graphs that were written once."""
    folder = exports["siglip-tied"][0] / "onnx"

    def copy(name):
        return lambda checkpoint, path: onnx_graph.save_graph(onnx_ir.load(folder / f"{name}.onnx"), path)

    monkeypatch.setattr(onnx_parts, "write_vision", copy("vision_encoder"))
    monkeypatch.setattr(onnx_parts, "write_decoder", copy("decoder_model_merged"))


def export(checkpoint, out, quant="q4", **settings):
    return run_export(ExportRequest(checkpoint, out, format="onnx", quant=quant, threads=1, **settings))


def sessions(folder):
    names = ("vision_encoder", "embed_tokens", "decoder_model_merged")
    return [onnxruntime.InferenceSession(next(folder.glob(f"onnx/{name}*.onnx"))) for name in names]


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_exports_are_the_checkpoint(checkpoints, exports, shape):
    folder, manifest = exports[shape]
    stages = manifest.parity["stages"]
    assert list(stages["error"]) == ["pixels", "features", "projected", "logits"]
    assert max(stages["error"].values()) < 1e-5 and manifest.parity["loss"]["kl_max"] < LIMITS["fp32"]
    with open_engine(checkpoints[shape], threads=1) as reference, open_engine(folder, threads=1) as engine:
        for seed in range(3):
            assert_says_the_same(engine, reference, picture(seed), error=1e-5)


def test_prompts_in_pieces(checkpoints, exports, monkeypatch):
    """However a prompt is cut, its logits are PyTorch's."""
    with open_engine(checkpoints["siglip-tied"], threads=1) as reference:
        ids, features = reference.encode_prompt(question()), reference.encode_image(picture())
        expected = reference.language.prefill(ids, features, every=True)
    with open_engine(exports["siglip-tied"][0], threads=1) as engine:
        for piece in (1, 5, len(ids) - 1, len(ids), 1000):
            monkeypatch.setattr(onnx_engine, "PIECE", piece)
            np.testing.assert_allclose(engine.language.prefill(ids, features, every=True), expected, atol=1e-4)
            np.testing.assert_allclose(engine.language.prefill(ids, features), expected[-1], atol=1e-4)


def test_several_pictures_at_once(exports):
    pixels = np.random.default_rng(0).standard_normal((3, 3, 56, 56)).astype(np.float32)
    for folder, _ in exports.values():
        vision = sessions(folder)[0]
        side = vision.get_inputs()[0].shape[-1]
        together = vision.run(None, {"pixel_values": pixels[:, :, :side, :side]})[0]
        for row in range(3):
            alone = vision.run(None, {"pixel_values": pixels[row : row + 1, :, :side, :side]})[0]
            np.testing.assert_allclose(together[row], alone[0], atol=1e-4)


@pytest.mark.parametrize("quant", FILES)
def test_smaller_variants_stay_close(checkpoint, written, tmp_path, quant):
    manifest = export(checkpoint, tmp_path / "out", quant)
    loss = manifest.parity["loss"]
    assert 0 < loss["kl_mean"] <= loss["kl_max"] and loss["kl_p99"] is None  # of too few positions
    assert loss["kl_mean"] < LIMITS[quant]
    vision, embedding, language = (f"onnx/{name}.onnx" for name in FILES[quant])
    assert [manifest.file_of(role) for role in ("vision", "embedding", "language")] == [vision, embedding, language]
    types = {role: manifest.files[manifest.file_of(role)].tensor_types for role in ("vision", "embedding", "language")}
    wanted = {"fp16": "FLOAT16", "q8": "INT8", "q4": "INT4"}[quant]
    assert wanted in types["language"] and {"fp16": "FLOAT16"}.get(quant, "INT8") in types["vision"]
    assert next(iter(types["embedding"])) == wanted
    matrices = 2 * 3 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 160) // 2 + 64 * 410
    if quant == "q8":
        assert types["language"]["INT8"].bytes == pytest.approx(matrices, rel=0.05)
    with open_engine(checkpoint, threads=1) as reference, open_engine(tmp_path / "out", threads=1) as engine:
        assert 0 < mean_divergence(engine, reference, picture()) < LIMITS[quant]


def test_every_graph_is_valid_onnx(exports, checkpoint, written, tmp_path):
    export(checkpoint, tmp_path / "q8", "q8")
    export(checkpoint, tmp_path / "q4", "q4", vision_quant="fp16")
    folders = [folder for folder, _ in exports.values()] + [tmp_path / "q8", tmp_path / "q4"]
    paths = [path for folder in folders for path in folder.glob("onnx/*.onnx")]
    assert len(paths) == 12
    for path in paths:
        onnx.checker.check_model(str(path), full_check=False)
        content = path.read_bytes()
        assert not any(each in content for each in (b"site-packages", str(tmp_path).encode(), b".py")), path
        domains = {node.domain for node in onnx.load(path).graph.node}
        assert domains <= {"", "com.microsoft"}
        if path.stem.startswith("embed_tokens"):
            assert domains == ({"", "com.microsoft"} if path.stem.endswith("_q4") else {""})
            onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_graphs_take(checkpoints, exports, shape):
    """Every input of the three; words are dynamic axes."""
    checkpoint = Checkpoint(checkpoints[shape])
    text, side = checkpoint.text, checkpoint.vision["image_size"]
    width, heads = text["hidden_size"], text["num_key_value_heads"]
    cache = ("batch_size", heads, "past_sequence_length", width // text["num_attention_heads"])
    taken = {
        value.name: tuple(value.shape) for session in sessions(exports[shape][0]) for value in session.get_inputs()
    }
    assert taken == {
        "pixel_values": ("batch_size", 3, side, side),
        "input_ids": ("batch_size", "sequence_length"),
        "inputs_embeds": ("batch_size", "sequence_length", width),
        "attention_mask": ("batch_size", "total_sequence_length"),
        "num_logits_to_keep": (),
        **{
            f"past_key_values.{layer}.{kind}": cache
            for kind in ("key", "value")
            for layer in range(text["num_hidden_layers"])
        },
    }


def test_the_folder_is_complete(exports):
    folder, manifest = exports["siglip-tied"]
    assert Manifest.load(folder) == manifest
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*manifest.files, "manifest.json"}
    companions = {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"}
    assert companions <= found and "onnxruntime-genai" in manifest.tools
    assert (manifest.format, manifest.quant, manifest.vision_quant) == ("onnx", "fp32", "fp32")


@pytest.mark.parametrize("quant", ["q4", "fp16"])
def test_the_script_in_readme(checkpoint, written, tmp_path, quant):
    """It says what the engine says, in a process that has neither this project nor PyTorch."""
    export(checkpoint, tmp_path / f"student-onnx-{quant}", quant)
    blocks = re.findall(r"<!-- run in the tests -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "import onnxruntime" in block]
    for shown, here in (
        ("runs/dry/exports/student-onnx-q8", f"student-onnx-{quant}"),
        ("dry/data/images/test/000000.png", "picture.png"),
        ("is it day or night ?", "how many cars ?"),
    ):
        assert shown in code
        code = code.replace(shown, here)
    with open_engine(tmp_path / f"student-onnx-{quant}", threads=1) as engine:
        shown = sure_picture(engine, 16)
        expected = engine.answer(question(), shown, max_new_tokens=16)
    assert expected
    shown.save(tmp_path / "picture.png")
    block = "import sys\nsys.modules.update(dict.fromkeys(('switchkd', 'torch', 'transformers', 'onnx')))\n"
    result = subprocess.run([sys.executable, "-c", block + code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == expected


def test_four_bit_rows_are_the_nearest(checkpoint, tmp_path):
    """Rows out of blocks of 32 with a scale and an offset each: no weight is further from its own than half a step."""
    source = Checkpoint(checkpoint)
    write_embedding(source, tmp_path / "rows.onnx", "q4")
    rows = source.read("language_model.embed_tokens.weight")
    session = onnxruntime.InferenceSession(tmp_path / "rows.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": np.arange(len(rows))[None]})
    blocks, found = (each.reshape(len(rows), -1, 32) for each in (rows, found[0]))
    step = (blocks.max(-1).clip(0) - blocks.min(-1).clip(max=0)) / 15
    assert (np.abs(found - blocks).max(-1) <= 4.6 * step).all()  # a range is cut by 30 % at most
    assert np.square(found - blocks).mean() < np.square(step).mean() / 9  # of a step's square, a twelfth
    assert all(len(np.unique(block)) <= 16 for block in found.reshape(-1, 32))


def test_eight_bit_rows_are_the_nearest(checkpoint, written, tmp_path):
    export(checkpoint, tmp_path / "out", "q8")
    rows = Checkpoint(checkpoint).read("language_model.embed_tokens.weight")
    ids = np.arange(len(rows))[None]
    found = sessions(tmp_path / "out")[1].run(None, {"input_ids": ids})[0][0]
    step = np.abs(rows).max(1, keepdims=True) / 127
    assert (np.abs(found - rows) <= step * 0.5001).all()


@pytest.mark.parametrize("quant", ["fp32", *FILES])
def test_weights_beside_the_graph(checkpoint, written, tmp_path, monkeypatch, quant):
    """As for models of more than 2 GB: the graphs refer to files beside them, which the manifest lists."""
    monkeypatch.setattr(onnx_graph, "ONE_FILE_LIMIT", 106_000)  # more than the largest embedding has
    out = tmp_path / "out"
    manifest = export(checkpoint, out, quant)
    beside = {path.relative_to(out).as_posix() for path in out.glob("onnx/*_data")}
    decoder = manifest.file_of("language")
    assert beside == {f"{decoder}_data", f"{manifest.file_of('vision')}_data"} and beside <= set(manifest.files)
    assert (out / decoder).stat().st_size < 100_000
    assert manifest.parity["stages"]["error"]["logits"] < 1e-5
    with open_engine(checkpoint, threads=1) as reference, open_engine(out, threads=1) as engine:
        assert mean_divergence(engine, reference, picture()) < LIMITS[quant]


SPOILT = {
    "vlm.model.vision_tower.encoder.layers.0.mlp.fc1.bias": "features",
    "vlm.model.multi_modal_projector.linear_1.bias": "projected",
    "model.layers.1.attn.qkv_proj.Add.bias": "logits",
}


@pytest.mark.parametrize("weight", SPOILT)
def test_a_wrong_export_fails_and_names_the_first_stage(checkpoint, exports, written, tmp_path, monkeypatch, weight):
    out = tmp_path / "exports" / "out"
    shutil.copytree(exports["siglip-tied"][0], out)
    before = Manifest.load(out)
    name = "write_vision" if weight.startswith("vlm") else "write_decoder"
    write = getattr(onnx_parts, name)

    def write_wrongly(checkpoint, path):
        write(checkpoint, path)
        model = onnx_ir.load(path)
        value = model.graph.initializers[weight]
        value.const_value = onnx_ir.tensor(value.const_value.numpy()[::-1].copy(), name=weight)
        onnx_ir.save(model, path)

    monkeypatch.setattr(onnx_parts, name, write_wrongly)
    with pytest.raises(ParityError, match=f"first in its {SPOILT[weight]}"):
        export(checkpoint, out, force=True)
    assert Manifest.load(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_too_coarse_a_quantization_fails(checkpoint, written, tmp_path, monkeypatch):
    for quant in ("fp16", "q8", "q4"):
        monkeypatch.setitem(onnx_parts.MAX_DIVERGENCE, quant, 1e-10)
    with pytest.raises(ParityError, match="Take --quant fp32, which was tried"):
        export(checkpoint, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_where_int8_loses_too_much_all_weights_are_in_blocks(shelf, checkpoint, written, tmp_path, monkeypatch):
    usual = Manifest.load(shelf.export("onnx", "q8", **SHAPES["siglip-tied"]))
    verdict = usual.parity["judged"]["own words"]
    limit = (
        onnx_parts.MAX_DIVERGENCE["q8"] * verdict["kl_mean"] / verdict["allowed"]
    )  # this model's loss, on that scale
    monkeypatch.setitem(onnx_parts.MAX_DIVERGENCE, "q8", 0.9 * limit)
    finer = export(checkpoint, tmp_path / "finer", "q8")
    assert (usual.parity["chosen"], finer.parity["chosen"]) == ("", "finer")
    losses = finer.parity["candidates"]
    assert losses["finer"]["own words"] < 0.9 * losses[""]["own words"] and set(losses) == {"", "finer"}
    graph = onnx_ir.load(tmp_path / "finer" / finer.file_of("language")).graph
    assert {node.op_type for node in graph} & {"MatMul", "MatMulIntegerToFloat", "MatMulNBits"} == {"MatMulNBits"}


def test_a_builder_that_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SkdError, match="builder couldn't write the decoder"):
        write_decoder(Checkpoint(checkpoint), tmp_path / "decoder.onnx")
    assert not any(tmp_path.iterdir())


def test_what_is_refused_before_any_work(checkpoint, tmp_path):
    with pytest.raises(SkdError, match="ONNX has no precision 'q5_k_m'; there are q4, q8, fp16, fp32"):
        export(checkpoint, tmp_path / "out", "q5_k_m")
    with pytest.raises(SkdError, match="leave --calibrate out"):
        export(checkpoint, tmp_path / "out", "fp16", calibration=synthetic_samples(1))
    assert not any(tmp_path.iterdir())
    for name, value, reason in (
        ("intermediate_size", 144, "intermediate_size 144 isn't a multiple of 32, the block of q4; take q8"),
        ("hidden_size", 80, "multiple of 16 wide"),
        ("num_key_value_heads", 3, "divide the others"),
    ):
        odd = shutil.copytree(checkpoint, tmp_path / name)
        config = json.loads((odd / "config.json").read_text())
        config["text_config"][name] = value
        (odd / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=reason):
            export(odd, tmp_path / "exports" / "out")
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime_genai"])
def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'switchkd\[onnx-export\]'"):
        export(checkpoint, tmp_path / "out")
    assert not any(tmp_path.iterdir())
