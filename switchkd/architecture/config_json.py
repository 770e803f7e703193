"""config.json of a LLaVA folder, read with a look at the types of all that anybody goes by. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchkd.architecture.weights import refuse_other_kinds
from switchkd.errors import CheckpointError
from switchkd.files import read_json

_SIDES = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size", "num_channels")
_COUNTS = (*_SIDES, "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim")
LLAVA, OWN = (
    "llava",
    "switchkd_llava",
)  # `model_type`: transformers' own class, and ours for projectors that it can't hold
_LARGEST, _DEEPEST = 1 << 30, 10_000  # beyond any model; layers are gone through one by one
_FRACTIONS = ("rms_norm_eps", "layer_norm_eps", "rope_theta")
_SCALED = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")  # by rope_type llama3
_WORDS = ("model_type", "hidden_act")
_OWN_WORDS = ("projector_hidden_act", "projector_type", "vision_feature_select_strategy")
_TOKENS = ("image_token_index", "image_token_id")


def read_config_json(folder: Path) -> dict[str, Any]:
    """The configuration, its parts `vision_config` and `text_config` there, its sizes whole numbers above zero.

    Raises:
        CheckpointError: it is missing, torn or not LLaVA's; an entry is of another type or size than it can be; the folder
            holds an adapter or quantized weights.
    """
    refuse_other_kinds(folder)
    path = folder / "config.json"
    try:
        config = read_json(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; give a model folder.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in (LLAVA, OWN):
        raise CheckpointError(
            f"{folder} holds a '{kind}', not a LLaVA model; put one together with `skd init`, or bring one of another layout in "
            "with `skd import`."
        )
    check_entries(config, path)
    return config


def check_entries(config: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError, naming the file, for a missing part or an entry of another type or size than it can be."""
    for part in ("vision_config", "text_config"):
        if not isinstance(config.get(part), dict):
            raise CheckpointError(f"{path} has no {part}.")
        _check_entries(config[part], f"{path}: {part}")
    _check_own_entries(config, path)


def _check_entries(part: Mapping[str, Any], where: str) -> None:
    for name in _COUNTS:
        if name in part and not _is_count(part[name], 1, _LARGEST) and not (name == "head_dim" and part[name] is None):
            raise CheckpointError(f"{where}.{name} is {part[name]!r}, not a whole number above zero.")
    layers = part.get("num_hidden_layers", 1)
    if not _is_count(layers, 1, _DEEPEST):
        raise CheckpointError(f"{where}.num_hidden_layers is {layers!r}, not 1 to {_DEEPEST}.")
    rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{where}.rope_parameters isn't an object.")
    scaled = _SCALED if rope.get("rope_type", rope.get("type")) == "llama3" else ()
    if missing := [name for name in scaled if name not in rope]:
        raise CheckpointError(f"{where}.rope_parameters says llama3 and has no {missing[0]}.")
    for name, value in (*part.items(), *rope.items()):
        if name in (*_FRACTIONS, *scaled) and not (
            isinstance(value, int | float) and value > 0 and math.isfinite(value)
        ):
            raise CheckpointError(f"{where}.{name} is {value!r}, not a number above zero.")
        if name in _WORDS and not isinstance(value, str):
            raise CheckpointError(f"{where}.{name} is {value!r}, not a name.")
    if part.get("image_size", 1) < (part.get("patch_size", 1) if "image_size" in part else 1):
        raise CheckpointError(f"{where}.image_size {part['image_size']} is smaller than one patch.")


def _check_own_entries(config: Mapping[str, Any], path: Path) -> None:
    for name in _OWN_WORDS:
        if name in config and not isinstance(config[name], str):
            raise CheckpointError(f"{path}: {name} is {config[name]!r}, not a name.")
    for name in _TOKENS:
        if config.get(name) is not None and not _is_count(config[name], 0, _LARGEST):
            raise CheckpointError(f"{path}: {name} is {config[name]!r}, not a token's number.")
    layers = config.get("vision_feature_layer", -2)
    listed = layers if isinstance(layers, list) else [layers]
    if not listed or not all(_is_count(layer, -_DEEPEST, _DEEPEST) for layer in listed):
        raise CheckpointError(f"{path}: vision_feature_layer is {layers!r}, not the number of a layer.")


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
