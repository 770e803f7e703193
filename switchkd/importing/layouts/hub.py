"""transformers' own LLaVA folders (llava-hf), with the names of any version: only names and templates have changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError
from switchkd.importing.connectors import OWN
from switchkd.importing.layout import HEAD, LANGUAGE, PROJECTOR, VISION, Config, Foreign, Layout, Source
from switchkd.importing.settings import feature_choice
from switchkd.importing.stored import stored_tensors
from switchkd.prompt_files import read_template

PREFIXES = (
    ("vision_tower.vision_model.", VISION),  # transformers 4 …
    ("vision_tower.", VISION),
    ("multi_modal_projector.", PROJECTOR),
    ("language_model.lm_head.", HEAD),
    ("language_model.model.", LANGUAGE),
    ("model.vision_tower.vision_model.", VISION),  # … and 5
    ("model.vision_tower.", VISION),
    ("model.multi_modal_projector.", PROJECTOR),
    ("model.language_model.", LANGUAGE),
    ("lm_head.", HEAD),
)
# What older files leave out is as transformers assumes it.
_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}


def _found(folder: Path, config: Config) -> bool:
    return config.get("model_type") == "llava" and isinstance(config.get("text_config"), dict)


def _read(source: Source) -> Foreign:
    config, where = source.config, str(source.folder)
    layer, first_token = feature_choice({"vision_feature_select_strategy": "default", **config}, where)
    token = config.get("image_token_index", config.get("image_token_id"))
    if config.get("projector_hidden_act", "gelu") != "gelu" or config.get("multimodal_projector_bias") is False:
        raise CheckpointError(f"{where} has a projector without biases or with another activation than gelu.")
    text = _settings(config, "text_config", {"model_type": "llama"})
    template, reason = _template(source.folder, text)
    return Foreign(
        layout="transformers' LLaVA (llava-hf)",
        tensors=stored_tensors(source.folder),
        prefixes=PREFIXES,
        vision=_settings(config, "vision_config", _VISION),
        text=text,
        connector=OWN,
        feature_layer=layer,
        first_token=first_token,
        pads=None,
        template=template,
        template_reason=reason,
        preprocessor=source.folder,
        image_token=token if isinstance(token, int) else None,
    )


def _settings(config: Config, part: str, usual: dict[str, Any]) -> dict[str, Any]:
    """A part's, told from its kind's usual ones where its kind isn't said."""
    given = config.get(part)
    given = given if isinstance(given, dict) else {}
    whole = given if "model_type" in given else {**usual, **given}
    return {name: value for name, value in whole.items() if name != "_name_or_path"}


def _template(folder: Path, text: Mapping[str, Any]) -> tuple[str, str]:
    """The template that asks in the words of the folder's own, which marks no answers."""
    usual = "vicuna" if text["model_type"] == "llama" else "chatml"
    try:
        own = read_template(folder)
    except CheckpointError:
        return usual, "what goes with the language model; the folder brings no template"
    if "<|im_start|>" in own:
        system = "You are a helpful assistant" in own
        return "chatml-system" if system else "chatml", "the words of the folder's own template"
    if "ASSISTANT:" in own:
        return "vicuna", "LLaVA-1.5's words, which the folder's own template has without their opening sentence"
    return usual, "what goes with the language model; the folder's own template isn't known"


LAYOUT = Layout("transformers' LLaVA (llava-hf)", _found, _read)
