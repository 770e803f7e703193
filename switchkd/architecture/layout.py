"""What a LLaVA folder's config.json says of the way from a picture to tokens. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from switchkd.architecture.config_json import read_config_json
from switchkd.errors import CheckpointError

# What transformers assumes where a tower's configuration says nothing.
_WIDTH, _SIDE, _PATCH = 768, 224, {"clip_vision_model": 32}


def read_layout(folder: Path) -> dict[str, Any]:
    """config.json of a LLaVA folder. Raises CheckpointError as `read_config_json`."""
    return read_config_json(folder)


def feature_width(config: dict[str, Any]) -> int:
    """Width of the features that the projector reads."""
    layers = config.get("vision_feature_layer", -2)
    return config["vision_config"].get("hidden_size", _WIDTH) * (1 if isinstance(layers, int) else len(layers))


def used_blocks(layer: int | Sequence[int], blocks: int, folder: Path | None = None) -> int:
    """How many of a tower's blocks the features pass through, counted from its input.

    Args:
        layer: the hidden layer that is read, or several; N is what block N made, −1 what the last one made.
        blocks: how many the tower has.
        folder: the model's, for the error.

    Raises:
        CheckpointError: a layer that the tower doesn't have, or only layer 0, which no block has seen.
    """
    chosen = [layer] if isinstance(layer, int) else [*layer]
    deepest = max((each % (blocks + 1) for each in chosen), default=0)
    if deepest == 0 or not all(-blocks - 1 <= each <= blocks for each in chosen):
        place = f"{folder}: " if folder else ""
        raise CheckpointError(
            f"{place}Feature layer {layer} can't be read: the tower has the layers 1 to {blocks}, "
            f"or counted from its end -1 to -{blocks}."
        )
    return deepest


def image_tokens(config: dict[str, Any]) -> int:
    """How many tokens one picture becomes."""
    vision = config["vision_config"]
    kind = vision.get("model_type")
    patches = (vision.get("image_size", _SIDE) // vision.get("patch_size", _PATCH.get(kind, 16))) ** 2
    class_token = kind == "clip_vision_model"
    return patches + class_token - (config.get("vision_feature_select_strategy", "default") == "default")
