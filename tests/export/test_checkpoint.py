"""Checkpoints in every spelling are read alike; unsupported ones are refused by their reason."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.llava_models import make_checkpoint

from switchkd.architecture.names import plain_name
from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import exporter_for
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf.mixtures import default_mixture
from switchkd.models.vlm import load_vlm


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("models") / "student", tied=False)


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "student")


def edit(folder, **values):
    """Sets entries of config.json; "part.name" reaches into a part, None removes."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in values.items():
        *parts, last = name.split(".")
        target = config
        for part in parts:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value
    path.write_text(json.dumps(config))


def rename(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")


def plan(folder, quant="f16"):
    return exporter_for("gguf").plan(Checkpoint(folder), quant, None)


def newest(name):
    """transformers 5's names on disk."""
    return name.replace("vision_tower.vision_model.", "vision_tower.").replace("language_model.lm_head", "lm_head")


def state_dict(name):
    """A model's own names."""
    name = newest(name).replace("language_model.model.", "language_model.")
    return name if name.startswith("lm_head") else f"model.{name}"


@pytest.mark.parametrize("spelling", [newest, state_dict])
def test_every_spelling_is_read_alike(folder, original, spelling):
    expected = Checkpoint(original)
    rename(folder, spelling)
    found = Checkpoint(folder)
    assert set(found.tensors) == set(expected.tensors)
    for name in expected.tensors:
        np.testing.assert_array_equal(found.read(name), expected.read(name))
    plan(folder)


def test_names_are_those_of_the_model(original):
    """Nothing is lost on the way from the state dict, apart from what no answer depends on."""
    names = {plain_name(name) for name in load_vlm(original).state_dict()}
    assert names - set(Checkpoint(original).tensors) == {
        "vision_tower.post_layernorm.weight",
        "vision_tower.post_layernorm.bias",
    }


def test_defaults_that_config_leaves_out(folder):
    edit(
        folder, **{"text_config.rms_norm_eps": None, "vision_config.layer_norm_eps": None, "projector_hidden_act": None}
    )
    checkpoint = Checkpoint(folder)
    assert checkpoint.text["rms_norm_eps"] == checkpoint.vision["layer_norm_eps"] == 1e-6
    assert checkpoint.text["rope_theta"] == 1e6


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "qwen2_vl"}, "not a LLaVA model"),
        ({"vision_config.model_type": "dinov2"}, "supported are clip_vision_model, siglip_vision_model"),
        ({"text_config.model_type": "gemma"}, "supported are llama, qwen2, qwen3"),
        ({"vision_feature_layer": [1, 2]}, "several feature layers"),
        ({"vision_feature_layer": 0}, "student: Feature layer 0 can't be read: the tower has the layers 1 to 3"),
        ({"vision_feature_layer": -4}, "Feature layer -4"),
        ({"projector_hidden_act": "relu"}, "only gelu is supported"),
        ({"multimodal_projector_bias": False}, "no biases"),
        ({"vision_config.intermediate_size": 96}, "intermediate_size = hidden_size = 96"),
        ({"vision_config.hidden_act": "relu"}, "activation 'relu'"),
        ({"vision_config.image_size": 70}, "its tower takes 70"),
        ({"text_config.hidden_act": "gelu"}, "not silu"),
        ({"text_config.use_sliding_window": True}, "sliding window"),
        ({"text_config.rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
        ({"text_config.vocab_size": 100}, "the model only 100 rows"),
        ({"text_config.num_attention_heads": 5}, "isn't a multiple of its attention heads"),
        ({"text_config.intermediate_size": 128}, "its config.json means"),
        ({"text_config.num_hidden_layers": 2}, "unexpected tensors"),
        ({"text_config.num_hidden_layers": 4}, "lacks tensors"),
        ({"vision_config": None}, "no vision_config"),
        ({"tie_word_embeddings": True}, "its lm_head differs"),
    ],
)
def test_refusals_name_the_reason(folder, values, reason):
    edit(folder, **values)
    with pytest.raises(CheckpointError, match=reason) as error:
        plan(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("quant", ["q4", "q8", "q4_k_m"])
def test_widths_that_no_block_fits(tmp_path, quant):
    odd = make_checkpoint(tmp_path / "odd", width=56)
    with pytest.raises(CheckpointError, match="isn't a multiple of 32"):
        plan(odd, quant)
    assert plan(odd, "f16").is_unquantized


def test_q4_goes_by_the_width(original, tmp_path):
    assert plan(original, "q4").quant == "q5_mixed"
    assert default_mixture(576) == "q5_mixed" and default_mixture(896) == "q4_mixed"
    assert plan(make_checkpoint(tmp_path / "wide", width=256), "q4").quant == "q4_k_m"


def test_a_missing_a_surplus_and_a_doubled_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    name = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias"
    bias = weights.pop(name)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"lacks tensors: 1, first vision_tower\.encoder\.layers\.1\.mlp\.fc1\.bias"
    ):
        plan(folder)
    save_file({**weights, name: bias, "language_model.model.layers.0.adapter": bias}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected tensors: 1, first language_model\.layers\.0\.adapter"):
        plan(folder)
    save_file({**weights, name: bias, newest(name): bias}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="twice"):
        plan(folder)


def test_missing_and_torn_files(folder):
    for name, reason in (("tokenizer.json", "missing"), ("config.json", "missing"), ("processor_config.json", None)):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:50])
        with pytest.raises(CheckpointError):
            Checkpoint(folder)
        path.unlink()
        if reason:
            with pytest.raises(CheckpointError, match=reason):
                Checkpoint(folder)
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no model folder"):
        Checkpoint(folder / "nowhere")


def test_tokenizers_that_llama_cpp_would_split_otherwise(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\s+|[^\w\s]+"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(
        CheckpointError, match=r"splits text in a way that .* there are gpt-2, llama-bpe, qwen2, smollm"
    ):
        plan(folder)


def test_heads_of_their_own_width(tmp_path):
    """What llama.cpp's graph of a family takes for granted is refused there alone."""
    wide = make_checkpoint(tmp_path / "wide", text={"head_dim": 32})
    with pytest.raises(CheckpointError, match="heads of 32, and llama"):
        plan(wide)
    assert exporter_for("onnx").plan(Checkpoint(wide), "q8", None).quant == "q8"


@pytest.mark.slow
def test_heads_of_their_own_width_are_exported(tmp_path):
    wide = make_checkpoint(tmp_path / "wide", text={"head_dim": 32}, feature_layer=-2)
    run_export(ExportRequest(wide, tmp_path / "export", format="onnx", quant="q8", threads=1))  # proves its logits
