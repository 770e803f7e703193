"""Projectors written out slowly, token by token, from their papers; and the settings by which tests make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CLIP = "clip-vit-large-patch14-336"
# Name → the settings of `make_checkpoint`; the shrunken towers have 4 × 4 patches.
PROJECTORS: dict[str, dict[str, Any]] = {
    "mlp": {"projector": "mlp"},
    "mlp1": {"projector": "mlp1"},
    "mlp3": {"projector": "mlp3", "vision": CLIP},
    "ldpv2": {"projector": "ldpv2", "vision": CLIP},
    "shuffle": {"projector": "pixel_shuffle"},
    "shuffle by 3": {"projector": "pixel_shuffle", "projector_settings": {"projector_factor": 3}, "image_size": 6 * 14},
    "shuffle by 4, two layers": {
        "projector": "pixel_shuffle",
        "projector_settings": {"projector_factor": 4, "projector_layers": 2},
        "vision": CLIP,
    },
    "average": {"projector": "average_pool", "vision": CLIP},
    "average of 3": {"projector": "average_pool", "projector_settings": {"projector_factor": 3}, "image_size": 9 * 14},
}
TOKENS = {"ldpv2": 4, "shuffle": 4, "shuffle by 3": 4, "shuffle by 4, two layers": 1, "average": 4, "average of 3": 9}


def literal(name: str, weights: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Features [I, P, F] → tokens [I, made, W], of a projector out of `PROJECTORS` with these weights."""
    factor = PROJECTORS[name].get("projector_settings", {}).get("projector_factor", 2)
    return torch.stack([_one(name.split()[0], dict(weights), tokens, factor) for tokens in features])


def _one(kind: str, weights: dict[str, Tensor], tokens: Tensor, factor: int) -> Tensor:
    if kind == "ldpv2":
        return _ldpv2(weights, tokens)
    squares = _squares(tokens, factor)  # [made, factor², F], rows of a square one after the other
    if kind == "shuffle":
        tokens = torch.stack([torch.cat(list(square)) for square in squares])
    if kind == "average":
        tokens = torch.stack([sum(square) / len(square) for square in squares])
    return torch.stack([_layers(weights, token) for token in tokens])


def _layers(weights: dict[str, Tensor], token: Tensor) -> Tensor:
    number = 1
    while f"linear_{number}.weight" in weights:
        token = token if number == 1 else _gelu(token)
        token = weights[f"linear_{number}.weight"] @ token + weights.get(f"linear_{number}.bias", 0)
        number += 1
    return token


def _gelu(value: Tensor) -> Tensor:
    return value * (1 + torch.erf(value / 2**0.5)) / 2


def _squares(tokens: Tensor, factor: int) -> list[Tensor]:
    side = round(len(tokens) ** 0.5)
    starts = range(0, side - factor + 1, factor)
    return [
        torch.stack([tokens[(y + row) * side + x + column] for row in range(factor) for column in range(factor)])
        for y in starts
        for x in starts
    ]


def _ldpv2(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """MobileVLM V2 (arXiv 2402.03766), section 3.3: two layers, a mean of four, and the filter of each channel beside it."""
    first, second = (f"mlp.mlp.{number}" for number in (0, 2))
    inner = [_gelu(weights[f"{first}.weight"] @ token + weights[f"{first}.bias"]) for token in tokens]
    made = torch.stack([weights[f"{second}.weight"] @ token + weights[f"{second}.bias"] for token in inner])
    pooled = [square.mean(0) for square in _squares(made, 2)]
    side = round(len(pooled) ** 0.5)
    tokens = []
    for y in range(side):
        for x in range(side):
            filtered = weights["peg.peg.0.bias"]
            for row in range(3):
                for column in range(3):
                    above, left = y + row - 1, x + column - 1
                    if 0 <= above < side and 0 <= left < side:
                        filtered = (
                            filtered + weights["peg.peg.0.weight"][:, 0, row, column] * pooled[above * side + left]
                        )
            tokens.append(pooled[y * side + x] + filtered)
    return torch.stack(tokens)
