"""Every family of language models as GGUF and as ONNX: the checkpoint's own logits and words, whatever its tokenizer."""

import json
import shutil

import numpy as np
import pytest
from gguf import GGUFReader
from support.answers import assert_says_the_same
from support.languages import LANGUAGES, make_student
from support.llava_models import picture

from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf.tokenizer import check_tokenizer
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def student(shelf):
    return lambda name: shelf.once(f"language-{name}", lambda folder: make_student(folder, name, feature_layer=-2))


# Rounding may cost the logits so much: float32, and 8 or 4 bits on these models (support/answers.py).
ERRORS = {"f32": 1e-2, "fp32": 1e-3, "q8": 0.1, "q4": 0.6}
ALWAYS = [
    *(("gguf", "f32", name) for name in LANGUAGES),
    *(("gguf", "q8", name) for name in ("vicuna", "qwen3")),
    *(("onnx", "fp32", name) for name in ("tinyllama", "qwen3")),
]
MORE = [
    *(("onnx", "fp32", name) for name in ("vicuna", "smollm2", "llama3", "qwen3-untied")),
    *(("gguf", "q4", name) for name in LANGUAGES),
    *(("onnx", quant, name) for quant in ("q8", "q4") for name in LANGUAGES),
]


@pytest.mark.parametrize(
    ("format", "quant", "name"), [*ALWAYS, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)]
)
def test_exports_say_what_the_checkpoint_says(student, tmp_path, name, format, quant):
    out = tmp_path / "out"
    manifest = run_export(ExportRequest(student(name), out, format=format, quant=quant, threads=1))
    assert set(manifest.parity["stages"]["error"]) == {"pixels", "features", "projected", "logits"}  # the proof ran
    with open_engine(student(name), threads=1) as reference, open_engine(out, threads=1) as engine:
        for seed in range(2):
            assert_says_the_same(engine, reference, picture(seed), error=ERRORS[quant])


def test_queries_and_keys_lie_in_pairs_in_llamas_files(student, tmp_path):
    """Row i of a head's first half is followed by row i of its second half; values stay as they are."""
    out = tmp_path / "out"
    run_export(ExportRequest(student("tinyllama"), out, format="gguf", quant="f32", threads=1))
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(out / "language.gguf").tensors}
    checkpoint = Checkpoint(student("tinyllama"))
    for name, theirs in (("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v")):
        ours = checkpoint.read(f"language_model.layers.0.self_attn.{name}_proj.weight")
        order = [32 * head + place for head in range(len(ours) // 32) for row in range(16) for place in (row, row + 16)]
        np.testing.assert_array_equal(tensors[f"blk.0.{theirs}.weight"], ours if name == "v" else ours[order])


def test_scaled_positions_are_transformers_own(student, tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    out = tmp_path / "out"
    run_export(ExportRequest(student("llama3"), out, format="gguf", quant="f32", threads=1))
    (factors,) = (tensor.data for tensor in GGUFReader(out / "language.gguf").tensors if "rope" in tensor.name)
    config = LlamaConfig(**json.loads((student("llama3") / "config.json").read_text())["text_config"])
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500.0 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-6)
    assert len(set(np.round(factors, 4))) > 2  # some waves are slowed whole, some in part, some not at all


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rope: rope.pop("factor"), "says llama3 and has no factor"),
        (lambda rope: rope.update(factor="x"), "factor is 'x', not a number above zero"),
        (lambda rope: rope.update(low_freq_factor=0), "low_freq_factor is 0, not a number above zero"),
    ],
)
def test_scaled_positions_without_sense_are_one_line(student, tmp_path, change, message):
    folder = shutil.copytree(student("llama3"), tmp_path / "other")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["text_config"].pop("rope_scaling", None)
    change(content["text_config"]["rope_parameters"])
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        run_export(ExportRequest(folder, tmp_path / "out", format="gguf", quant="f32", threads=1))


@pytest.mark.parametrize(
    ("name", "names", "split"),
    [("vicuna", "llama", "default"), ("smollm2", "gpt2", "smollm"), ("qwen3", "gpt2", "qwen2")],
)
def test_tokenizers_have_llama_cpps_names(student, name, names, split):
    vocabulary = check_tokenizer(Checkpoint(student(name)))
    assert (vocabulary.model, vocabulary.split, vocabulary.space) == (names, split, name == "vicuna")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "splits text in a way"),
        (lambda content: content.update(normalizer={"type": "Lowercase"}), None),
    ],
)
def test_other_tokenizers_are_refused(student, tmp_path, change, message):
    folder = tmp_path / "other"
    shutil.copytree(student("smollm2"), folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message or "reads the tokenizer of .* differently"):
        run_export(ExportRequest(folder, tmp_path / "out", format="gguf", quant="f32", threads=1))
    assert not (tmp_path / "out").exists()
