"""Model folders: what is written is read back, by transformers too; what is broken is refused."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from support.llava_models import make_model
from support.tokenizers import save_words, sentencepiece_tokenizer
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionModel,
)

from switchkd.errors import CheckpointError
from switchkd.models.init import from_checkpoints, from_shapes
from switchkd.models.llava_processor import load_tokenizer
from switchkd.models.shapes import load_shape
from switchkd.models.tokenizer import IMAGE_PAD, save_tokenizer, train_tokenizer
from switchkd.models.vlm import assemble, load_language, load_vision, load_vlm, portable_state_dict, save_part, save_vlm
from switchkd.preprocess import Preprocess

SENTENCES = ["is there a red car ?", "the truck is blue", "no"] * 20


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(train_tokenizer(SENTENCES, 300), tmp_path / "tokenizer")
    return load_tokenizer(tmp_path / "tokenizer")


def config(name):
    return AutoConfig.for_model(**load_shape(name, shrink=True))


def test_folder_loads_with_the_auto_classes(student_folder):
    model, report = AutoModelForImageTextToText.from_pretrained(student_folder, output_loading_info=True)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, tensor in load_vlm(student_folder).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    processor = AutoProcessor.from_pretrained(student_folder)
    assert processor.image_token == IMAGE_PAD
    assert processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD) == model.config.image_token_id


@pytest.mark.parametrize(("language", "tied"), [("qwen2.5-0.5b", True), ("qwen2.5-7b", False)])
def test_names_on_disk_are_those_of_older_transformers(tmp_path, language, tied):
    """4.57 knows `vision_tower.vision_model.`, `language_model.model.` and `language_model.lm_head.` only."""
    folder = make_model(tmp_path / "m", "siglip-so400m-patch14-384", language)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    allowed = ("vision_tower.vision_model.", "multi_modal_projector.linear_", "language_model.model.")
    others = {name for name in names if not name.startswith(allowed)}
    assert others == (set() if tied else {"language_model.lm_head.weight"})
    written = json.loads((folder / "config.json").read_text())
    assert written["text_config"]["rope_theta"] == 1000000.0
    assert written["architectures"] == ["LlavaForConditionalGeneration"]
    assert (folder / "preprocessor_config.json").exists()
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_parts_come_apart_and_together_again(tmp_path, student_folder, tokenizer):
    vlm = load_vlm(student_folder)
    for part in ("vision", "language"):
        save_part(vlm, part, tmp_path / part, student_folder)
    again, _ = assemble(
        load_vision(tmp_path / "vision"), load_language(tmp_path / "language"), load_tokenizer(tmp_path / "language")
    )
    save_vlm(again, tmp_path / "again", student_folder)
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text(), (
        "places of this computer are published"
    )
    before, after = portable_state_dict(vlm), portable_state_dict(again)
    assert before.keys() == after.keys()
    for name in before:
        if not name.startswith("multi_modal_projector"):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_a_full_two_tower_checkpoint_gives_its_tower(tmp_path, tokenizer):
    tower = SiglipVisionModel(config("siglip-base-patch16-384"))
    tower.save_pretrained(tmp_path / "tower")
    assert any("head" in name for name in tower.state_dict())
    vlm, _ = assemble(load_vision(tmp_path / "tower"), config("qwen2.5-0.5b"), tokenizer)
    assert not any("head" in name for name in vlm.model.vision_tower.state_dict())
    weight = vlm.model.vision_tower.embeddings.patch_embedding.weight
    torch.testing.assert_close(
        weight, load_vision(tmp_path / "tower").state_dict()[_find(tower, "patch_embedding.weight")]
    )


def _find(model, ending):
    return next(name for name in model.state_dict() if name.endswith(ending))


def test_the_image_token_needs_no_new_row_where_there_is_one(tokenizer):
    language = Qwen2ForCausalLM(config("qwen2.5-0.5b"))
    vlm, processor = assemble(config("siglip-so400m-patch14-384"), language, tokenizer)
    assert vlm.config.image_token_id == tokenizer.get_vocab()[IMAGE_PAD]
    assert vlm.get_input_embeddings().num_embeddings == 1187
    assert processor.image_token == IMAGE_PAD


def test_a_tokenizer_without_image_token_gets_one(tmp_path):
    plain = train_tokenizer(SENTENCES, 300)
    content = json.loads(plain.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] != IMAGE_PAD]
    save_tokenizer(plain, tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    rows = len(tokenizer)
    shape = load_shape("qwen2.5-0.5b", shrink=True)
    spare, _ = assemble(config("siglip-so400m-patch14-384"), AutoConfig.for_model(**shape), tokenizer)
    assert spare.config.image_token_id == rows and spare.get_input_embeddings().num_embeddings == 1187
    tight = AutoConfig.for_model(**{**shape, "vocab_size": rows})
    grown, _ = assemble(config("siglip-so400m-patch14-384"), tight, load_tokenizer(tmp_path))
    assert grown.get_input_embeddings().num_embeddings == rows + 1 == grown.config.text_config.vocab_size


@pytest.mark.parametrize("name", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_the_tokenizers_file_counts_whatever_class_it_names(tmp_path, name):
    """transformers' LlamaTokenizer would put no space behind a special token."""
    words = save_words(sentencepiece_tokenizer(), tmp_path / "words", bos_token="<s>", eos_token="</s>")
    path = words / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
    text = "<s>Three signs</s>and  one\nblue"
    expected = Tokenizer.from_file(str(words / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    folder = tmp_path / "model"
    vlm, processor = from_shapes("siglip-so400m-patch14-384", "tinyllama-1.1b", str(words), shrink=True)
    save_vlm(vlm, folder, processor)
    for kind in (load_tokenizer(words), load_tokenizer(folder), AutoProcessor.from_pretrained(folder).tokenizer):
        assert kind.encode(text, add_special_tokens=False) == expected
        assert (kind.bos_token, kind.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize("damage", ["torn", "missing", "foreign", "config"])
def test_damaged_weights_are_refused_in_one_line(tmp_path, student_folder, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(student_folder, folder)
    weights = folder / "model.safetensors"
    if damage == "torn":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "missing":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        del tensors["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "foreign":
        weights.rename(folder / "pytorch_model.bin")
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError) as error:
        load_vlm(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_unsupported_parts_are_named(tokenizer):
    with pytest.raises(CheckpointError, match="'gpt2'"):
        assemble(config("siglip-so400m-patch14-384"), AutoConfig.for_model("gpt2"), tokenizer)


def test_the_config_tells_the_weights_precision(tmp_path, student_folder):
    """Training in bfloat16 leaves the config that was loaded; who follows it would take twice the memory."""
    save_vlm(load_vlm(student_folder).to(torch.bfloat16), tmp_path / "half", student_folder)
    written = json.loads((tmp_path / "half" / "config.json").read_text())
    assert written["dtype"] == written["torch_dtype"] == written["text_config"]["dtype"] == "bfloat16"
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_siglip_2_of_fixed_size_is_siglip_with_its_own_filter(tmp_path, student_folder):
    """transformers: its fixed-size checkpoints are a SiglipModel with SiglipImageProcessor; the newer class is NaFlex alone."""
    tower = config("siglip-so400m-patch14-384")
    text = SiglipTextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    whole = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=tower.to_dict()))
    whole.save_pretrained(tmp_path / "siglip2")
    side = {"height": tower.image_size, "width": tower.image_size}
    SiglipImageProcessorPil(size=side, resample=2).save_pretrained(tmp_path / "siglip2")
    save_part(load_vlm(student_folder), "language", tmp_path / "language", student_folder)
    vlm, processor = from_checkpoints(str(tmp_path / "siglip2"), str(tmp_path / "language"))
    weight = "embeddings.patch_embedding.weight"
    torch.testing.assert_close(vlm.model.vision_tower.state_dict()[weight], whole.vision_model.state_dict()[weight])
    save_vlm(vlm, tmp_path / "student", processor)
    assert Preprocess.load(tmp_path / "student").resample == Preprocess.load(tmp_path / "siglip2").resample == 2
    assert Preprocess.load(student_folder).resample == 3
