"""Folders of every layout through the command line; logits next to arithmetic that is written out on the foreign tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.foreign import (
    CLIP,
    LLAMA,
    MOBILE,
    QWEN,
    SIGLIP,
    random_model,
    write_factory,
    write_factory_training,
    write_hub,
    write_llava,
    write_mindvl,
    write_tower,
)
from support.literal_llava import literal_logits
from support.llava_models import picture
from support.tokenizers import small_tokenizer

from switchkd.architecture.architecture import Architecture
from switchkd.cli.main import main
from switchkd.models.tokenizer import save_tokenizer
from switchkd.models.vlm import load_vlm
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many cars ?"}]}]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["import", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def words(tmp_path) -> Path:
    """Qwen2's tokenizer in a folder of its own."""
    save_tokenizer(small_tokenizer(), tmp_path / "words")
    return tmp_path / "words"


def check(target: Path, model, *, tokens: int, skip: int = 1, layer: int = -2) -> ChatPrompt:
    """The written folder's logits are those of the foreign tensors, at every position."""
    prompt, preprocess = ChatPrompt.load(target), Preprocess.load(target)
    assert Architecture.read(target).image_tokens == tokens
    prompt.require_answer_marks()
    ids = prompt.encode(QUESTION, image_tokens=tokens, add_generation_prompt=True).ids
    start = ids.index(prompt.image_token_id)
    pixels = torch.from_numpy(preprocess(picture(1)))
    expected = literal_logits(model, ids[:start], pixels, ids[start + tokens :], layer, skip)
    with torch.inference_mode():
        given = load_vlm(target).eval()(input_ids=torch.tensor([ids]), pixel_values=pixels[None]).logits[0]
    rows = model.text["vocab_size"]
    assert given.shape[1] >= rows
    error = (given[:, :rows].double() - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    return prompt


def stored(target: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(target / "model.safetensors")


def test_tinyllava_factory(tmp_path, words):
    model = random_model(SIGLIP, QWEN)
    source = write_factory(tmp_path / "source", model)
    told = run(source, tmp_path / "target", "--tokenizer", words)
    prompt = check(tmp_path / "target", model, tokens=728)
    assert "TinyLLaVA Factory" in told and "728" in told and "a spare row" in told and "stretched to 384 × 384" in told
    # One token more, in a row that was there: every row is as it was, and no head appears.
    tensors = stored(tmp_path / "target")
    assert prompt.image_token == "<image>" and prompt.image_token_id == small_tokenizer().get_vocab_size()
    embedding = tensors.pop("language_model.model.embed_tokens.weight")
    assert torch.equal(embedding, model.language["model.embed_tokens.weight"])
    assert not any("lm_head" in name for name in tensors)
    assert prompt.render(QUESTION, True)[0].endswith("USER: <image>\nhow many cars ? ASSISTANT:")
    generation = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == small_tokenizer().token_to_id("<|im_end|>")


def test_llava_kd_is_the_same_under_another_name(tmp_path, words):
    model = random_model(SIGLIP, QWEN | {"tie_word_embeddings": False})
    names = {"architectures": ["LlavaKDForConditionalGeneration"], "model_type": "llava_kd"}
    source = write_factory(tmp_path / "source", model, **names)
    run(source, tmp_path / "target", "--tokenizer", words, "--end-token", "<|endoftext|>")
    prompt = check(tmp_path / "target", model, tokens=728)
    assert prompt.learned_ends == {prompt.tokenizer.token_to_id("<|endoftext|>")}


def test_factorys_training_output_is_three_folders_of_pickles(tmp_path):
    model = random_model(CLIP, QWEN)
    changes = {"image_aspect_ratio": "pad", "vision_feature_select_strategy": "cls_patch", "vision_feature_layer": -1}
    source = write_factory_training(tmp_path / "source", model, **changes)
    told = run(source, tmp_path / "target")
    check(tmp_path / "target", model, tokens=577, skip=0, layer=-1)
    assert "pasted on a square" in told and Preprocess.load(tmp_path / "target").pad


def test_factory_with_a_llama(tmp_path):
    from support.sentencepiece_model import small_sentencepiece

    model = random_model(SIGLIP, LLAMA)
    source = write_factory(tmp_path / "source", model, llm_model_name_or_path="TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    (source / "tokenizer.model").write_bytes(small_sentencepiece())
    told = run(source, tmp_path / "target")
    prompt = check(tmp_path / "target", model, tokens=728)
    assert "a new row" in told and prompt.render(QUESTION)[0].startswith("<s>A chat between a curious user")
    tensors = stored(tmp_path / "target")
    for name, own in (("language_model.model.embed_tokens.weight", "model.embed_tokens.weight"),
                      ("language_model.lm_head.weight", "lm_head.weight")):  # fmt: skip
        assert len(tensors[name]) == 421 and torch.equal(tensors[name][:420], model.language[own])
        torch.testing.assert_close(tensors[name][420], model.language[own].mean(0))


@pytest.mark.parametrize("pickled", [False, True])
def test_llava_with_its_tower_inside(pickled, tmp_path):
    model = random_model(CLIP, LLAMA)
    source = write_llava(tmp_path / "source", model, pickled=pickled)
    told = run(source, tmp_path / "target", "--vision", write_tower(tmp_path / "tower", model))
    check(tmp_path / "target", model, tokens=576)
    assert "LLaVA-1.5" in told and "pasted on a square" in told and "vicuna" in told


@pytest.mark.parametrize("whole", [False, True])
def test_llava_with_its_tower_elsewhere(whole, tmp_path):
    model = random_model(CLIP, LLAMA)
    source = write_llava(tmp_path / "source", model, tower=False)
    run(source, tmp_path / "target", "--vision", write_tower(tmp_path / "tower", model, whole=whole))
    check(tmp_path / "target", model, tokens=576)


def test_a_known_tower_needs_no_folder(tmp_path, monkeypatch):
    """What the tower's name says is enough where its weights are inside."""
    from switchkd.importing.layouts import original

    monkeypatch.setattr(original, "load_shape", lambda name: {"clip-vit-large-patch14-336": CLIP}[name])
    model = random_model(CLIP, LLAMA)
    run(write_llava(tmp_path / "source", model), tmp_path / "target")
    check(tmp_path / "target", model, tokens=576)


def test_mobilevlm(tmp_path):
    model = random_model(CLIP, LLAMA, "ldpnetv2")
    source = write_llava(tmp_path / "source", model, pickled=True, **MOBILE)
    told = run(source, tmp_path / "target", "--vision", write_tower(tmp_path / "tower", model))
    check(tmp_path / "target", model, tokens=144)
    assert "MobileVLM" in told and "ldpnetv2" in told


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"language": "language.", "vision": "vit.", "projector": "mm.projector."},
        {"language": "", "vision": "model.visual_encoder.", "projector": "model.proj."},
    ],
)
@pytest.mark.parametrize("inner", [("mlp.mlp.0", "mlp.mlp.2", "peg.peg.0"), ("net.0", "net.2", "position")])
def test_mindvl(names, inner, tmp_path):
    """Whatever its parts and the projector's layers are called."""
    from dataclasses import replace

    model = random_model(CLIP, QWEN, "ldpnetv2")
    places = dict(zip(("mlp.mlp.0", "mlp.mlp.2", "peg.peg.0"), inner, strict=True))
    renamed = {f"{places[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": t for n, t in model.projector.items()}
    source = write_mindvl(tmp_path / "source", replace(model, projector=renamed), **names)
    run(source, tmp_path / "target")
    prompt = check(tmp_path / "target", model, tokens=144)
    assert prompt.render(QUESTION)[0].startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>")
    assert Preprocess.load(tmp_path / "target").pad


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(("vision", "tied", "tokens"), [(SIGLIP, True, 729), (CLIP, False, 576)])
def test_llava_hf_of_any_version(version, vision, tied, tokens, tmp_path):
    model = random_model(vision, QWEN | {"tie_word_embeddings": tied})
    source = write_hub(tmp_path / "source", model, version=version)
    (source / "chat_template.jinja").write_text("{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}")
    run(source, tmp_path / "target")
    prompt = check(tmp_path / "target", model, tokens=tokens, skip=int(vision is CLIP))
    assert prompt.image_token == "<|image_pad|>"
    assert json.loads((tmp_path / "target" / "config.json").read_text()).get("model_type") == "llava"


@pytest.mark.parametrize("connector", ["linear", "mlp1x_gelu", "mlp3x_gelu"])
def test_other_connectors(connector, tmp_path, words):
    model = random_model(SIGLIP, QWEN, connector)
    run(write_factory(tmp_path / "source", model), tmp_path / "target", "--tokenizer", words)
    check(tmp_path / "target", model, tokens=728)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_precision_is_kept(dtype, tmp_path, words):
    from dataclasses import replace

    model = random_model(SIGLIP, QWEN)
    parts = {
        part: {name: tensor.to(dtype) for name, tensor in getattr(model, part).items()}
        for part in ("tower", "projector", "language")
    }
    low = replace(model, **parts)
    told = run(write_factory(tmp_path / "source", low), tmp_path / "target", "--tokenizer", words)
    check(tmp_path / "target", low, tokens=728)
    assert str(dtype).removeprefix("torch.") in told
    assert {tensor.dtype for tensor in stored(tmp_path / "target").values()} == {dtype}
    assert json.loads((tmp_path / "target" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_a_template_of_your_choice(tmp_path, words):
    model = random_model(SIGLIP, QWEN)
    source = write_factory(tmp_path / "source", model)
    told = run(source, tmp_path / "target", "--tokenizer", words, "--template", "chatml")
    assert "chatml: asked for" in told
    assert ChatPrompt.load(tmp_path / "target").render(QUESTION)[0].startswith("<|im_start|>user\n<image>\n")
