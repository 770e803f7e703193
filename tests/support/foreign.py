"""Models in other projects' layouts, small and random: names, entries and files as those projects write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from support.sentencepiece_model import small_sentencepiece
from support.tokenizers import small_tokenizer
from switchkd.models.tokenizer import save_tokenizer

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 384,
    "patch_size": 14,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 16,
}
QWEN = {
    "model_type": "qwen2",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 440,
    "max_position_embeddings": 2048,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
LLAMA = {
    **QWEN,
    "model_type": "llama",
    "num_key_value_heads": 4,
    "vocab_size": 420,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Random:
    """A random model's parts, by the names of transformers' classes of them."""

    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    connector: str
    tower: Mapping[str, Tensor]  # without "vision_model."
    projector: Mapping[str, Tensor]  # as a Sequential names its layers
    language: Mapping[str, Tensor]  # "model.…", and "lm_head.weight" where it isn't the embedding


def random_model(vision: Mapping[str, Any], text: Mapping[str, Any], connector: str = "mlp2x_gelu") -> Random:
    """One with none of its weights and biases zero."""
    import transformers
    from transformers import AutoConfig

    torch.manual_seed(3)
    configs = [AutoConfig.for_model(**part) for part in (vision, text)]
    towers = {"siglip_vision_model": transformers.SiglipVisionModel, "clip_vision_model": transformers.CLIPVisionModel}
    languages = {"qwen2": transformers.Qwen2ForCausalLM, "llama": transformers.LlamaForCausalLM}
    tower = towers[vision["model_type"]](configs[0]).state_dict()
    language = languages[text["model_type"]](configs[1]).state_dict()
    tower = {name.removeprefix("vision_model."): tensor for name, tensor in tower.items() if tensor.is_floating_point()}
    if text["tie_word_embeddings"]:
        del language["lm_head.weight"]
    projector = _projector(connector, vision["hidden_size"], text["hidden_size"])
    return Random(vision, text, connector, *(map_random(part) for part in (tower, projector, language)))


def map_random(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: torch.randn(tensor.shape) * 0.2 if tensor.ndim > 1 else 1 + 0.1 * torch.randn(tensor.shape)
        for name, tensor in tensors.items()
    }


def _projector(connector: str, features: int, width: int) -> dict[str, Tensor]:
    if connector == "ldpnetv2":
        layers = {"mlp.mlp.0": (width, features), "mlp.mlp.2": (width, width), "peg.peg.0": (width, 1, 3, 3)}
    else:
        count = 1 if connector == "linear" else int(connector[3])
        layers = {str(2 * place): (width, width if place else features) for place in range(count)}
    made = {}
    for name, shape in layers.items():
        dot = "" if connector == "linear" else f"{name}."
        made |= {f"{dot}weight": torch.empty(shape), f"{dot}bias": torch.empty(shape[0])}
    return made


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def factory_config(model: Random, **changes: Any) -> dict[str, Any]:
    """TinyLLaVA Factory's: of the language model only what differs from its defaults."""
    from transformers import AutoConfig

    text = AutoConfig.for_model(**model.text).to_diff_dict()
    return {
        "architectures": ["TinyLlavaForConditionalGeneration"],
        "model_type": "tinyllava",
        "connector_type": model.connector,
        "hidden_size": model.text["hidden_size"],
        "image_aspect_ratio": "square",
        "image_token_index": -200,
        "ignore_index": -100,
        "llm_model_name_or_path": "Qwen/Qwen2.5-0.5B",
        "tokenizer_name_or_path": "Qwen/Qwen2.5-0.5B",
        "tokenizer_model_max_length": 2048,
        "vision_model_name_or_path": "google/siglip-so400m-patch14-384",
        "vision_model_name_or_path2": "",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "patch",
        "vision_hidden_size": model.vision["hidden_size"],
        "text_config": {**text, "model_type": model.text["model_type"]},
        "vision_config": {**model.vision, "model_name_or_path": "google/siglip-so400m-patch14-384"},
        **changes,
    }


def factory_tensors(model: Random) -> dict[str, Tensor]:
    return {
        **prefixed("language_model.", model.language),
        **prefixed("vision_tower._vision_tower.vision_model.", model.tower),
        **prefixed("connector._connector.", model.projector),
    }


def write_factory(folder: Path, model: Random, **changes: Any) -> Path:
    """A whole folder of TinyLLaVA Factory."""
    write_config(folder, factory_config(model, **changes))
    save_file(factory_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_factory_training(folder: Path, model: Random, **changes: Any) -> Path:
    """What Factory's training leaves: three folders with pickles, and the tokenizer's files."""
    write_config(folder, factory_config(model, **changes))
    save_tokenizer(small_tokenizer(), folder)
    parts = {
        "language_model": model.language,
        "vision_tower": prefixed("vision_model.", model.tower),
        "connector": prefixed("_connector.", model.projector),
    }
    for name, tensors in parts.items():
        (folder / name).mkdir()
        torch.save(tensors, folder / name / "pytorch_model.bin")
    return folder


def llava_config(model: Random, **changes: Any) -> dict[str, Any]:
    """LLaVA-1.5's: the language model's with entries among its own."""
    return {
        **model.text,
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": model.vision["hidden_size"],
        "mm_projector_type": model.connector,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        **changes,
    }


def write_llava(folder: Path, model: Random, *, tower: bool = True, pickled: bool = False, **changes: Any) -> Path:
    """A folder of LLaVA's own code or MobileVLM's, with SentencePiece's tokenizer.model."""
    write_config(folder, llava_config(model, **changes))
    tensors = {**model.language, **prefixed("model.mm_projector.", model.projector)}
    if tower:
        tensors |= prefixed("model.vision_tower.vision_tower.vision_model.", model.tower)
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.model").write_bytes(small_sentencepiece())
    return folder


MOBILE = {
    "architectures": ["MobileLlamaForCausalLM"],
    "model_type": "mobilevlm",
    "vision_tower_type": "clip",
    "mm_use_im_patch_token": True,
}


def write_tower(folder: Path, model: Random, *, whole: bool = False) -> Path:
    """CLIP's tower as a checkpoint of its own, or out of a whole two-tower one."""
    from transformers import CLIPImageProcessor

    side = model.vision["image_size"]
    own = {**model.vision, "architectures": ["CLIPVisionModel"]}
    write_config(folder, {"model_type": "clip", "vision_config": model.vision, "text_config": {}} if whole else own)
    more = {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.ones(1)} if whole else {}
    tensors = {**prefixed("vision_model.", model.tower), **more}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def write_mindvl(folder: Path, model: Random, **names: str) -> Path:
    """The authors' folder as it probably is: parts under three names, settings in parts of config.json."""
    prefixes = {"language": "llm.", "vision": "visual_encoder.vision_model.", "projector": "projector."} | names
    config = {
        "architectures": ["MindVLForConditionalGeneration"],
        "model_type": "mindvl",
        "llm_config": dict(model.text),
        "visual_encoder_config": dict(model.vision),
    }
    write_config(folder, config)
    tensors = {
        **prefixed(prefixes["language"], model.language),
        **prefixed(prefixes["vision"], model.tower),
        **prefixed(prefixes["projector"], model.projector),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(small_tokenizer(), folder)
    return folder


def write_hub(folder: Path, model: Random, *, version: int, **changes: Any) -> Path:
    """A llava-hf folder with the names of transformers 4 or 5."""
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    full = model.vision["model_type"] == "siglip_vision_model"
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": small_tokenizer().token_to_id("<|image_pad|>"),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full" if full else "default",
        "text_config": {**model.text, "_name_or_path": "somebody/somewhere"},
        "vision_config": dict(model.vision),
        "tie_word_embeddings": model.text["tie_word_embeddings"],
        **changes,
    }
    write_config(folder, config)
    places = {"0.": "linear_1.", "2.": "linear_2."}
    projector = {places[name[:2]] + name[2:]: tensor for name, tensor in model.projector.items()}
    inner = {name.removeprefix("model."): tensor for name, tensor in model.language.items()}
    head = {"weight": inner.pop("lm_head.weight")} if "lm_head.weight" in inner else {}
    if version == 4:
        prefixes = (
            "vision_tower.vision_model.",
            "multi_modal_projector.",
            "language_model.model.",
            "language_model.lm_head.",
        )
    else:
        prefixes = ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.", "lm_head.")
    tensors: dict[str, Tensor] = {}
    for prefix, part in zip(prefixes, (model.tower, projector, inner, head), strict=True):
        tensors |= prefixed(prefix, part)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(small_tokenizer(), folder)
    side = model.vision["image_size"]
    processor = (
        SiglipImageProcessor(size={"height": side, "width": side})
        if full
        else CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    )
    processor.save_pretrained(folder)
    return folder
