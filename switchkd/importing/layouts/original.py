"""The folders of LLaVA's own code and of MobileVLM, which grew out of it: a language model's config.json with `mm_` entries.

The tower may be inside, under the language model's prefix, or only named (github.com/haotian-liu/LLaVA,
github.com/Meituan-AutoML/MobileVLM).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError
from switchkd.importing.layout import HEAD, LANGUAGE, PROJECTOR, VISION, Config, Foreign, Layout, Source
from switchkd.importing.settings import feature_choice, pasted_on_a_square, read_config
from switchkd.importing.stored import Stored, stored_tensors
from switchkd.models.shapes import load_shape, shape_names

PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", VISION),
    ("model.vision_tower.vision_tower.", VISION),
    ("model.mm_projector.", PROJECTOR),
    ("lm_head.", HEAD),
    ("model.", LANGUAGE),
)
_INSIDE = "model.vision_tower."


@dataclass(frozen=True)
class Kind:
    """One project's."""

    title: str
    architecture: str  # in config.json
    language: str  # `model_type` of the language model
    template: str = "vicuna"


KINDS = (
    Kind("LLaVA-1.5", "LlavaLlamaForCausalLM", "llama"),
    Kind("MobileVLM", "MobileLlamaForCausalLM", "llama"),
    Kind("TinyLLaVA before Factory", "TinyLlavaLlamaForCausalLM", "llama"),
)
# Entries with which the same code does something else → what.
_OTHERWISE = {
    "mm_use_im_start_end": "puts tokens around a picture",
    "s2": "shows pictures in several sizes",
}


def _kind(config: Config) -> Kind | None:
    named = config.get("architectures")
    return next((kind for kind in KINDS if isinstance(named, list) and kind.architecture in named), None)


def _found(folder: Path, config: Config) -> bool:
    return _kind(config) is not None


def _read(source: Source) -> Foreign:
    config, where, kind = source.config, str(source.folder), _kind(source.config)
    assert kind is not None
    for entry, what in _OTHERWISE.items():
        if config.get(entry):
            raise CheckpointError(f"{where} {what} ({entry}), which can't be imported.")
    tensors = stored_tensors(source.folder)
    vision = _tower_settings(source)
    if not any(name.startswith(_INSIDE) for name in tensors):
        tensors = {**tensors, **_tower_tensors(source)}
    layer, first_token = feature_choice(config, where, "mm_vision_select_layer", "mm_vision_select_feature")
    return Foreign(
        layout=kind.title,
        tensors=tensors,
        prefixes=PREFIXES,
        vision=vision,
        text=_text_settings(config, kind),
        connector=str(config.get("mm_projector_type", "linear")),
        feature_layer=layer,
        first_token=first_token,
        pads=pasted_on_a_square(config, where),
        template=kind.template,
        template_reason=f"{kind.title}'s conversation v1",
        preprocessor=source.vision,
        tower_name=_tower_name(config),
    )


def _text_settings(config: Config, kind: Kind) -> dict[str, Any]:
    """config.json is the language model's, with the other parts' entries among its own."""
    others = (
        "mm_",
        "image_",
        "tune_",
        "freeze_",
        "unfreeze_",
        "vision_",
        "tokenizer_",
        "use_mm_",
        "_name_or_path",
        "auto_map",
    )
    own = {name: value for name, value in config.items() if not name.startswith(others) and name != "architectures"}
    return own | {"model_type": kind.language}


def _tower_name(config: Config) -> str:
    value = config.get("mm_vision_tower") or config.get("vision_tower")
    return value if isinstance(value, str) else ""


def _tower_settings(source: Source) -> dict[str, Any]:
    """Of the tower that --vision gives, else of the known one that config.json names."""
    if source.vision is not None:
        found = read_config(source.vision)
        return dict(found.get("vision_config") or found)
    name = _tower_name(source.config)
    shape = name.rstrip("/").rpartition("/")[2]
    if shape in shape_names():
        return dict(load_shape(shape))
    raise CheckpointError(
        f"{source.folder} names its tower ({name or 'not at all'}) and doesn't say how it is made; give it with --vision."
    )


def _tower_tensors(source: Source) -> dict[str, Stored]:
    name = _tower_name(source.config)
    if source.vision is None:
        raise CheckpointError(
            f"{source.folder} holds no tower, only the name {name or '(none)'}; give it with --vision."
        )
    tensors = stored_tensors(source.vision)
    # A checkpoint of two towers, for pictures and for texts, has the one that is wanted under this name.
    begin = "vision_model."
    inner = {name: stored for name, stored in tensors.items() if name.startswith(begin)} or tensors
    return {f"{_INSIDE}vision_tower.{name}": stored for name, stored in inner.items()}


LAYOUT = Layout("LLaVA-1.5, MobileVLM", _found, _read)
