"""Damaged, half-known and unknown folders: one line that says what is wrong, and nothing is left."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from support.checkpoints import adapter, configure, shard
from support.foreign import (
    CLIP,
    LLAMA,
    MOBILE,
    QWEN,
    SIGLIP,
    random_model,
    write_config,
    write_factory,
    write_factory_training,
    write_hub,
    write_llava,
    write_mindvl,
)
from support.tokenizers import small_tokenizer

from switchkd.cli.main import main
from switchkd.models.tokenizer import save_tokenizer

WHOLE = "model.safetensors"


@pytest.fixture(scope="module")
def models():
    return {
        "qwen": random_model(SIGLIP, QWEN),
        "llama": random_model(CLIP, LLAMA),
        "ldp": random_model(CLIP, QWEN, "ldpnetv2"),
    }


def refuse(source: object, target: Path, *options: object) -> str:
    """The one line with which an import fails; nothing but the source lies there then."""
    before = sorted(target.parent.iterdir())
    result = CliRunner().invoke(main, ["import", str(source), str(target), *map(str, options)])
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.output
    assert sorted(target.parent.iterdir()) == before
    return lines[0]


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Puts tensors in, or takes those out that are None; `/` stands for a dot in a name."""
    held = load_file(folder / WHOLE)
    for name, tensor in tensors.items():
        if tensor is None:
            del held[name.replace("/", ".")]
        else:
            held[name.replace("/", ".")] = tensor
    save_file(held, folder / WHOLE, metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    file = folder / WHOLE
    file.write_bytes(file.read_bytes()[:-100])


def part(folder: Path, name: str, **entries: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    configure(folder, **{name: {**config[name], **entries}})


NAN = torch.full((48,), float("nan"))
Q = "language_model/model/layers/0/self_attn/q_proj/bias"
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (truncate, "torn"),
    (lambda f: (f / WHOLE).write_bytes(b"\xff" * 20), "truncated"),
    (lambda f: (f / WHOLE).unlink(), "no .safetensors weights"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    (lambda f: (f / "config.json").write_text("{"), "can't be read"),
    (lambda f: (f / "config.json").write_text("[]"), "isn't a JSON object"),
    (lambda f: change(f, **{Q: None}), "lacks tensors: language_model.layers.0.self_attn.q_proj.bias"),
    (lambda f: change(f, **{Q: torch.ones(47)}), r"q_proj.bias is \[47\], its settings mean \[48\]"),
    (lambda f: change(f, **{Q: NAN}), "aren't finite"),
    (lambda f: change(f, **{Q: torch.ones(48, dtype=torch.float64)}), "of type F64"),
    (
        lambda f: change(f, **{"language_model/model/layers/7/mlp/up_proj/weight": torch.ones(3, 3)}),
        "don't mean: .*layers.7",
    ),
    (lambda f: change(f, **{"image_newline": torch.ones(3)}), "no part knows: image_newline"),
    (lambda f: change(f, **{"language_model/lm_head/weight": torch.ones(440, 48)}), "is the embedding"),
    (lambda f: change(f, **{"base/lora_A/weight": torch.ones(3, 3)}), "LoRA adapter"),
    (lambda f: change(f, **{"connector/_connector/0/weight": torch.ones(48, 33)}), r"linear_1.weight is \[48, 33\]"),
    (lambda f: configure(f, connector_type="resampler"), "connector 'resampler', which can't be imported"),
    (lambda f: configure(f, connector_type="qformer"), "connector 'qformer'"),
    (lambda f: configure(f, connector_type="mof_mlp"), "connector 'mof_mlp'"),
    (lambda f: configure(f, connector_type=None), "connector 'None'"),
    (lambda f: configure(f, vision_model_name_or_path2="facebook/dinov2-large"), "two vision towers"),
    (lambda f: configure(f, image_aspect_ratio="anyres"), "several crops"),
    (lambda f: configure(f, vision_feature_select_strategy="cls"), "is 'cls'; known are patch"),
    (lambda f: configure(f, vision_feature_layer=-9), "Feature layer -9 can't be read"),
    (lambda f: configure(f, vision_feature_layer="last"), "not the number of a layer"),
    (lambda f: part(f, "text_config", model_type="phi"), "The language model of .* is a 'phi'"),
    (lambda f: part(f, "text_config", model_type="stablelm"), "is a 'stablelm'"),
    (lambda f: part(f, "text_config", model_type="openelm"), "is a 'openelm'"),
    (lambda f: part(f, "vision_config", model_type="dinov2"), "The tower of .* is a 'dinov2'"),
    (lambda f: part(f, "text_config", model_type=7), "no text_config that says its model_type"),
    (lambda f: part(f, "text_config", num_hidden_layers="many"), "num_hidden_layers"),
    (lambda f: part(f, "text_config", quantization_config={"quant_method": "gptq"}), "quantized by gptq"),
    (lambda f: configure(f, text_config=None), "no text_config"),
    (
        lambda f: configure(f, model_type="blip", connector_type=0, llm_model_name_or_path=None) or configure_out(f),
        "no layout",
    ),
]


def configure_out(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["connector_type"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_a_damaged_factory_folder(damage, words, models, tmp_path):
    import re

    source = write_factory(tmp_path / "source", models["qwen"])
    save_tokenizer(small_tokenizer(), source)
    damage(source)
    assert re.search(words, refuse(source, tmp_path / "target")), words


def test_a_source_without_tokenizer(models, tmp_path):
    source = write_factory(tmp_path / "source", models["qwen"])
    assert "give the language model's with --tokenizer" in refuse(source, tmp_path / "target")
    words = tmp_path / "words"
    save_tokenizer(small_tokenizer(), words)
    said = refuse(source, tmp_path / "target", "--tokenizer", words, "--end-token", "<stop>")
    assert "no token '<stop>', which is its eos_token" in said
    (words / "tokenizer_config.json").write_text("{}")
    assert "give it with --end-token" in refuse(source, tmp_path / "target", "--tokenizer", words)
    assert "no token that opens a text" in refuse(
        source, tmp_path / "target", "--tokenizer", words, "--end-token", "<|im_end|>", "--template", "vicuna"
    )
    assert "no template 'alpaca'" in refuse(source, tmp_path / "target", "--template", "alpaca")
    assert "There is no model folder" in refuse(source, tmp_path / "target", "--tokenizer", tmp_path / "nowhere")


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch opened",)


def test_a_pickle_with_code_in_it_is_not_opened(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_factory_training(tmp_path / "source", models["qwen"])
    for content in ({"_connector.0.weight": Evil()}, Evil()):
        torch.save(content, source / "connector" / "pytorch_model.bin")
        assert "holds more than weights, which could run code" in refuse(source, tmp_path / "target")
        (source / "connector" / "pytorch_model.bin").write_bytes(pickle.dumps(content))
        assert "pytorch_model.bin" in refuse(source, tmp_path / "target")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(3)], "something else than tensors by their names"),
        ({"_connector.0.weight": "text"}, "something else than tensors by their names"),
        ({"_connector.0.weight": torch.ones(3, dtype=torch.int8)}, "of type torch.int8"),
        ({"_connector.lora_A.weight": torch.ones(3)}, "LoRA adapter"),
    ],
)
def test_a_pickle_with_something_else_in_it(content, words, models, tmp_path):
    source = write_factory_training(tmp_path / "source", models["qwen"])
    torch.save(content, source / "connector" / "pytorch_model.bin")
    assert words in refuse(source, tmp_path / "target")


def test_a_torn_pickle(models, tmp_path):
    source = write_factory_training(tmp_path / "source", models["qwen"])
    file = source / "language_model" / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    assert "is torn, or no file of weights" in refuse(source, tmp_path / "target")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_paths_out_of_the_folder_are_refused(kind, models, tmp_path):
    source = write_factory(tmp_path / "source", models["qwen"])
    save_tokenizer(small_tokenizer(), source)
    (source / WHOLE).rename(tmp_path / f"secret.{kind}")
    index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
    (source / index).write_text(json.dumps({"weight_map": {"a": f"../secret.{kind}"}}))
    assert "names a file outside its folder" in refuse(source, tmp_path / "target")


def test_shards_of_which_one_is_missing(models, tmp_path):
    source = write_factory(tmp_path / "source", models["qwen"])
    (source / shard(source)[0]).unlink()
    assert "lacks model-00001-of-00002.safetensors" in refuse(source, tmp_path / "target")


def test_a_tower_that_is_only_named(models, tmp_path):
    source = write_llava(tmp_path / "source", models["llama"], tower=False)
    said = refuse(source, tmp_path / "target")
    assert "only the name openai/clip-vit-large-patch14-336; give it with --vision" in said
    configure(source, mm_vision_tower="somebody/tower")
    assert "somebody/tower" in refuse(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"mm_use_im_start_end": True}, "puts tokens around a picture"),
        ({"s2": True}, "several sizes"),
        ({"image_aspect_ratio": "anyres"}, "several crops"),
        ({"mm_projector_type": "ldpnet"}, "connector 'ldpnet', which can't be imported"),
        ({"mm_projector_type": "identity"}, "connector 'identity'"),
        (MOBILE | {"mm_projector_type": "qformer"}, "connector 'qformer'"),
    ],
)
def test_what_llavas_own_folders_may_ask_for(entries, words, models, tmp_path):
    source = write_llava(tmp_path / "source", models["llama"], **entries)
    assert words in refuse(source, tmp_path / "target")


def test_a_mindvl_that_is_made_otherwise(models, tmp_path):
    source = write_mindvl(tmp_path / "source", models["ldp"])
    change(source, **{"projector/peg/peg/0/bias": None})
    said = refuse(source, tmp_path / "target")
    assert "among its 5 tensors an LDPv2 projector can't be found; the first are projector." in said
    held = {name: tensor for name, tensor in load_file(source / WHOLE).items() if "gate_proj" not in name}
    save_file(held, source / WHOLE)
    assert f"among its {len(held)} tensors one language part can't be found" in refuse(source, tmp_path / "target")
    source = write_mindvl(tmp_path / "other", models["ldp"])
    configure(source, llm_config={"hidden_size": 48})
    assert "no settings of a known language model; its entries are architectures, llm_config" in refuse(
        source, tmp_path / "target"
    )


def test_a_hub_folder_with_another_projector(models, tmp_path):
    source = write_hub(tmp_path / "source", models["qwen"], version=5, multimodal_projector_bias=False)
    assert "without biases" in refuse(source, tmp_path / "target")
    source = write_hub(tmp_path / "other", models["qwen"], version=5, image_token_index=5000)
    assert "no token 5000" in refuse(source, tmp_path / "target")


def test_pictures_of_another_kind_or_size(models, tmp_path):
    source = write_hub(tmp_path / "source", models["qwen"], version=5)
    path = source / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "size": {"height": 224, "width": 224}}))
    assert "makes pictures of 224 × 224 pixels, but the tower takes 384" in refuse(source, tmp_path / "target")
    path.write_text(json.dumps({**settings, "image_processor_type": "ViTImageProcessor"}))
    assert "isn't supported, only" in refuse(source, tmp_path / "target")
    path.write_text("{")
    assert "no usable preprocessor_config.json" in refuse(source, tmp_path / "target")


def test_another_models_tokenizer(models, tmp_path):
    source = write_factory(tmp_path / "source", random_model(SIGLIP, QWEN | {"vocab_size": 300}))
    save_tokenizer(small_tokenizer(), source)
    assert "the model only 300 rows: it is another model's tokenizer" in refuse(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("llava_onevision", "several crops"), ("switchkd_llava", "needs no import"), ("qwen3_vl", "files config.json")],
)
def test_other_kinds_of_folders(kind, words, tmp_path):
    source = write_config(tmp_path / "source", {"model_type": kind, "text_config": {}})
    assert words in refuse(source, tmp_path / "target")


def test_an_adapter(tmp_path):
    source = adapter(tmp_path / "source")
    write_config(source, {"model_type": "tinyllava"})
    assert "LoRA adapter of owner/model" in refuse(source, tmp_path / "target")


def test_the_target(models, tmp_path):
    source = write_factory(tmp_path / "source", models["qwen"])
    save_tokenizer(small_tokenizer(), source)
    (tmp_path / "target").mkdir()
    assert "exists already" in refuse(source, tmp_path / "target")
    assert "holds the source itself" in refuse(source, tmp_path, "--force")
    (tmp_path / "target" / "letters").touch()
    assert "is no model folder" in refuse(source, tmp_path / "target", "--force")
    assert (tmp_path / "target" / "letters").exists()
    words = tmp_path / "target" / "words"
    save_tokenizer(small_tokenizer(), words)
    assert "holds the source itself" in refuse(source, tmp_path / "target", "--force", "--tokenizer", words)


def test_an_import_that_fails_late_leaves_the_older_folder(models, tmp_path, monkeypatch):
    from switchkd.importing import importer

    source = write_factory(tmp_path / "source", models["qwen"])
    save_tokenizer(small_tokenizer(), source)
    target = tmp_path / "target"
    assert CliRunner().invoke(main, ["import", str(source), str(target)]).exit_code == 0
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importer, "prove", interrupt)
    assert CliRunner().invoke(main, ["import", str(source), str(target), "--force"]).exit_code != 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_folder_that_is_not_its_source_is_not_kept(models, tmp_path, monkeypatch):
    """The proof sees a tensor that is written wrongly."""
    from switchkd.importing import model

    source = write_factory(tmp_path / "source", models["qwen"])
    save_tokenizer(small_tokenizer(), source)
    right = model.Model.entries

    def wrong(self: model.Model, rows: int) -> list:
        from dataclasses import replace

        return [
            replace(entry, load=lambda load=entry.load: load() * 1.01) if "linear_1.bias" in entry.name else entry
            for entry in right(self, rows)
        ]

    monkeypatch.setattr(model.Model, "entries", wrong)
    assert "isn't its source" in refuse(source, tmp_path / "target")
