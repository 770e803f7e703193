"""The real configurations of the public parts this method is used with, and their shrunken forms for tests and trials."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from switchkd.errors import SkdError

# Smallest sizes that keep a shape's structure (ratio of heads, tied or untied, number of rows).
_SHRUNK_LAYERS = 3
_SHRUNK_HEAD_DIM = 16
_SHRUNK_GRID = 4
_ROW_DIVISOR = 128


def shape_names() -> list[str]:
    """Names of the shapes that ship with the package."""
    folder = resources.files("switchkd.models") / "shapes"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_shape(name: str, *, shrink: bool = False) -> dict[str, Any]:
    """The configuration of a public part as plain JSON, as its model card publishes it.

    Raises:
        SkdError: the name isn't one of `shape_names()`.
    """
    if name not in shape_names():
        raise SkdError(f"There is no built-in shape '{name}'; known shapes: {', '.join(shape_names())}.")
    shape = json.loads((resources.files("switchkd.models") / "shapes" / f"{name}.json").read_text())
    return shrink_shape(shape) if shrink else shape


def shrink_shape(shape: dict[str, Any]) -> dict[str, Any]:
    """The same architecture a few thousand times smaller: equal ratios of heads to key-value heads and of feed-forward
    to width, untied where it was untied, rows of the vocabulary divided by 128."""
    heads, kv_heads = shape["num_attention_heads"], shape.get("num_key_value_heads")
    small_kv = 2 if kv_heads in (None, heads) else 1
    small_heads = small_kv * heads // (kv_heads or heads)
    width = small_heads * _SHRUNK_HEAD_DIM
    small = {
        **shape,
        "num_attention_heads": small_heads,
        "hidden_size": width,
        "num_hidden_layers": _SHRUNK_LAYERS,
        "intermediate_size": 4 * round(width * shape["intermediate_size"] / shape["hidden_size"] / 4),
    }
    if kv_heads:
        small["num_key_value_heads"] = small_kv
        small["vocab_size"] = -(-shape["vocab_size"] // _ROW_DIVISOR)
        small["max_position_embeddings"] = 2048
        if "head_dim" in shape:
            # Wider heads than the width has room for stay so.
            small["head_dim"] = shape["head_dim"] * heads * _SHRUNK_HEAD_DIM // shape["hidden_size"]
    else:
        small["image_size"] = _SHRUNK_GRID * shape["patch_size"]
    return small
