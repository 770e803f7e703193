"""Students in TinyLLaVA Factory's layout, read as Factory reads them, and imported back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from support.languages import make_student
from support.llava_models import make_checkpoint, picture
from support.padding import with_padding

from switchkd.cli.main import main
from switchkd.models.vlm import load_vlm
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

LLMS = {"gemma": None, "openelm": None, "phi": None, "qwen2": "Qwen2", "stablelm": None, "tinyllama": "Llama"}
TOWERS = {"clip": "CLIP", "dinov2": None, "mof": None, "siglip": "Siglip"}


def skd(*arguments: object) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refuse(*arguments: object) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code != 0, result.output
    return result.output


def chosen(name: str, words: dict) -> str:
    """Factory's way of choosing a class: the last registered word that is anywhere in the name."""
    return [family for word, family in words.items() if word in name.lower()][-1]


def factory_logits(folder: Path, ids: list[int], image_token: int, image) -> torch.Tensor:
    """[T, rows], as Factory loads and runs a folder: parts' settings, tokenizer and processor by the names in config.json."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    config = json.loads((folder / "config.json").read_text())
    assert "lora" not in str(folder) and config["model_type"] == "tinyllava"
    llm, tower = config["llm_model_name_or_path"], config["vision_model_name_or_path"].split(":")[0]
    text = AutoConfig.from_pretrained(llm).from_dict(config["text_config"])
    vision = AutoConfig.from_pretrained(tower).from_dict(config["vision_config"])
    language = getattr(transformers, f"{chosen(llm, LLMS)}ForCausalLM")(text)
    family = chosen(tower, TOWERS)
    seeing = getattr(transformers, f"{family}VisionModel")(vision)
    processor = AutoImageProcessor.from_pretrained(tower, backend="pil")
    assert type(processor).__name__.startswith(f"{family}ImageProcessor")
    tokenizer = AutoTokenizer.from_pretrained(config["tokenizer_name_or_path"], use_fast=config["tokenizer_use_fast"])
    assert tokenizer.convert_tokens_to_ids(tokenizer.eos_token) is not None
    weights = load_file(folder / "model.safetensors")

    def part(prefix: str, drop: str = "") -> dict:
        inner = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        return {name.removeprefix(drop): each for name, each in inner.items()}

    language.load_state_dict(part("language_model."), strict=not config["tie_word_embeddings"])
    language.tie_weights()
    drop = "" if any(name.startswith("vision_model.") for name in seeing.state_dict()) else "vision_model."
    seeing.load_state_dict(part("vision_tower._vision_tower.", drop))
    depth = int(config["connector_type"][3])
    sizes = [config["vision_hidden_size"], *[config["hidden_size"]] * depth]
    layers: list[torch.nn.Module] = [torch.nn.Linear(*sizes[:2])]
    for _ in range(1, depth):
        layers += [torch.nn.GELU(), torch.nn.Linear(config["hidden_size"], config["hidden_size"])]
    connector = torch.nn.Sequential(*layers)
    connector.load_state_dict(part("connector._connector."))
    if config["image_aspect_ratio"] == "pad":
        from PIL import Image

        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in processor.image_mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    pixels = torch.as_tensor(processor(image, return_tensors="np")["pixel_values"])
    states = seeing.eval()(pixels, output_hidden_states=True).hidden_states[config["vision_feature_layer"]]
    features = connector(states[:, 1:] if config["vision_feature_select_strategy"] == "patch" else states)[0]
    place, embed = ids.index(image_token), language.get_input_embeddings()
    words = [embed(torch.tensor(each, dtype=torch.long)) for each in (ids[:place], ids[place + 1 :])]
    return language.eval()(inputs_embeds=torch.cat([words[0], features, words[1]])[None]).logits[0]


def with_template(folder: Path, name: str) -> Path:
    from switchkd.chat_template import shipped_template

    (folder / "chat_template.jinja").write_text(shipped_template(name))
    return folder


STUDENTS = {
    "siglip, every patch": ({"feature_layer": -2}, "chatml", "cls_patch", "none"),
    "siglip without the first": (
        {"feature_layer": -2, "feature_select": "default"},
        "tinyllava",
        "patch",
        "qwen2_instruct",
    ),
    "clip, untied": ({"vision": "clip-vit-large-patch14-336", "tied": False}, "tinyllava", "patch", "qwen2_instruct"),
    "one layer": ({"projector": "mlp1"}, "tinyllava", "cls_patch", "qwen2_instruct"),
    "three layers": ({"projector": "mlp3"}, "tinyllava", "cls_patch", "qwen2_instruct"),
}


@pytest.mark.parametrize("name", [*STUDENTS, "vicuna", "padded"])
@torch.inference_mode()
def test_factory_reads_it_and_it_comes_back(name, tmp_path):
    if name == "vicuna":
        made = make_student(tmp_path / "student", "vicuna", vision="clip-vit-large-patch14-336", feature_layer=-2)
        template, strategy, conversation = "vicuna", "patch", "llama"
    elif name == "padded":
        made = with_padding(make_checkpoint(tmp_path / "student", vision="clip-vit-large-patch14-336"))
        template, strategy, conversation = "tinyllava", "patch", "qwen2_instruct"
    else:
        settings, template, strategy, conversation = STUDENTS[name]
        made = make_checkpoint(tmp_path / "student", **settings)
    student, out = with_template(made, template), tmp_path / "out"
    told = skd("export", student, "--format", "tinyllava", "--out", out)
    assert strategy in told and conversation in told and ("pad" in told) == (name == "padded")

    prompt, preprocess, vlm = ChatPrompt.load(student), Preprocess.load(student), load_vlm(student).eval()
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many cars ?"}]}]
    once = prompt.encode(message, image_tokens=1, add_generation_prompt=True).ids
    ids = prompt.encode(message, image_tokens=vlm.config.image_seq_length, add_generation_prompt=True).ids
    image = picture(2)
    pixels = torch.from_numpy(preprocess(image))[None]
    expected = vlm(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    torch.testing.assert_close(factory_logits(out, once, prompt.image_token_id, image), expected, atol=1e-4, rtol=1e-4)

    skd(
        "import", out, tmp_path / "back", "--template", template
    )  # its tokenizer lies in a folder that config.json names
    before, after = load_file(student / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    rows = before["language_model.model.embed_tokens.weight"].shape[0]
    assert before.keys() == after.keys()
    for tensor, own in before.items():
        assert torch.equal(after[tensor][:rows] if after[tensor].shape[0] > rows else after[tensor], own), tensor
    assert Preprocess.load(tmp_path / "back") == preprocess


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"projector": "pixel_shuffle"}, "no connector pixel_shuffle"),
        ({"feature_layer": [-2, -1]}, "joins several feature layers"),
    ],
)
def test_what_factory_cannot_express(settings, words, tmp_path):
    from support.checkpoints import configure

    layer = settings.pop("feature_layer", -1)
    student = make_checkpoint(tmp_path / "student", **settings)
    if layer != -1:
        configure(student, vision_feature_layer=layer)
    assert words in refuse("export", student, "--format", "tinyllava", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_language_model_that_factory_has_not(tmp_path):
    student = make_student(tmp_path / "student", "qwen3")
    assert "has no Qwen3" in refuse("export", student, "--format", "tinyllava", "--out", tmp_path / "out")


@pytest.mark.parametrize("folder", ["sophia", "explora", "a:b", "mofs"])
def test_paths_by_which_factory_would_go_wrong(folder, tmp_path):
    student = make_checkpoint(tmp_path / "student")
    assert "in its path" in refuse("export", student, "--format", "tinyllava", "--out", tmp_path / folder / "out")


def test_options_and_targets(tmp_path):
    student, out = make_checkpoint(tmp_path / "student"), tmp_path / "out"
    assert "--quant has no meaning" in refuse("export", student, "--format", "tinyllava", "--quant", "q8")
    assert "holds the checkpoint itself" in refuse("export", student, "--format", "tinyllava", "--out", tmp_path)
    out.mkdir()
    (out / "letters").touch()
    assert "already there" in refuse("export", student, "--format", "tinyllava", "--out", out)
    assert "no export of this format" in refuse("export", student, "--format", "tinyllava", "--out", out, "--force")
    (out / "letters").unlink()
    skd("export", student, "--format", "tinyllava", "--out", out, "--force")
    skd("export", student, "--format", "tinyllava", "--out", out, "--force")
