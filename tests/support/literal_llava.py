"""A LLaVA model's arithmetic written out on bare tensors, from the papers: no class of transformers, no code of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def linear(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(x: Tensor, w: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """[heads, T, D] each."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if causal:
        scores = scores + torch.full(scores.shape[1:], -torch.inf).triu(1)
    return torch.softmax(scores, -1) @ v


def heads(x: Tensor, count: int) -> Tensor:
    return x.view(len(x), count, -1).transpose(0, 1)


def tower_features(w: Mapping[str, Tensor], vision: Mapping[str, Any], pixels: Tensor, layer: int) -> Tensor:
    """[positions, width]: what block `layer` made of [3, H, W], counted from the input, or from the end."""
    clip = vision["model_type"] == "clip_vision_model"
    eps, patch = (1e-5, 1e-6)[not clip], vision["patch_size"]
    blocks = pixels.unfold(1, patch, patch).unfold(2, patch, patch)  # [3, rows, columns, patch, patch]
    kernel = w["embeddings.patch_embedding.weight"].flatten(1)
    x = blocks.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1) @ kernel.T
    x = torch.cat([w["embeddings.class_embedding"][None], x]) if clip else x + w["embeddings.patch_embedding.bias"]
    x = x + w["embeddings.position_embedding.weight"]
    if clip:
        x = layer_norm(x, w, "pre_layrnorm", eps)
    states = [x]
    for number in range(vision["num_hidden_layers"]):
        at = f"encoder.layers.{number}"
        y = layer_norm(x, w, f"{at}.layer_norm1", eps)
        q, k, v = (heads(linear(y, w, f"{at}.self_attn.{n}_proj"), vision["num_attention_heads"]) for n in "qkv")
        mixed = attend(q, k, v, causal=False).transpose(0, 1).flatten(1)
        x = x + linear(mixed, w, f"{at}.self_attn.out_proj")
        y = linear(layer_norm(x, w, f"{at}.layer_norm2", eps), w, f"{at}.mlp.fc1")
        y = y * torch.sigmoid(1.702 * y) if clip else tanh_gelu(y)
        x = x + linear(y, w, f"{at}.mlp.fc2")
        states.append(x)
    return states[layer]


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def project(w: Mapping[str, Tensor], features: Tensor, connector: str) -> Tensor:
    """[tokens, width]."""
    if connector == "linear":
        return features @ w["weight"].T + w["bias"]
    if connector == "ldpnetv2":
        x = linear(gelu(linear(features, w, "mlp.mlp.0")), w, "mlp.mlp.2")
        side = round(len(x) ** 0.5)
        grid = x.view(side // 2, 2, side // 2, 2, -1).mean((1, 3))  # [12, 12, width]
        padded = torch.zeros(side // 2 + 2, side // 2 + 2, grid.shape[-1])
        padded[1:-1, 1:-1] = grid
        kernel, around = w["peg.peg.0.weight"], torch.zeros_like(grid)
        for row in range(3):
            for column in range(3):
                stretch = padded[row : row + side // 2, column : column + side // 2]
                around = around + stretch * kernel[:, 0, row, column]
        return (around + w["peg.peg.0.bias"] + grid).flatten(0, 1)
    x = linear(features, w, "0")
    for place in range(1, int(connector[3])):
        x = linear(gelu(x), w, str(2 * place))
    return x


def language_logits(w: Mapping[str, Tensor], text: Mapping[str, Any], x: Tensor) -> Tensor:
    """[T, rows] of the embeddings [T, width]."""
    count, keys = text["num_attention_heads"], text["num_key_value_heads"]
    for number in range(text["num_hidden_layers"]):
        at = f"model.layers.{number}"
        y = rms_norm(x, w[f"{at}.input_layernorm.weight"], text["rms_norm_eps"])
        q, k, v = (
            heads(linear(y, w, f"{at}.self_attn.{n}_proj"), each)
            for n, each in (("q", count), ("k", keys), ("v", keys))
        )
        q, k = rotate(q, text["rope_theta"]), rotate(k, text["rope_theta"])
        k, v = (each.repeat_interleave(count // keys, 0) for each in (k, v))
        x = x + linear(attend(q, k, v, causal=True).transpose(0, 1).flatten(1), w, f"{at}.self_attn.o_proj")
        y = rms_norm(x, w[f"{at}.post_attention_layernorm.weight"], text["rms_norm_eps"])
        gate = linear(y, w, f"{at}.mlp.gate_proj")
        x = x + linear(gate * torch.sigmoid(gate) * linear(y, w, f"{at}.mlp.up_proj"), w, f"{at}.mlp.down_proj")
    x = rms_norm(x, w["model.norm.weight"], text["rms_norm_eps"])
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary positions on [heads, T, D]: pairs are an entry and the one half the width behind it."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def literal_logits(
    model: Any, before: list[int], pixels: Tensor, behind: list[int], layer: int = -2, skip: int = 1
) -> Tensor:
    """[T, rows] of a `support.foreign.Random`: words, a picture without the first `skip` tokens of it, words.

    In float64, so that rounding is the other side's.
    """
    tower, projector, language = (
        {name: tensor.double() for name, tensor in part.items()}
        for part in (model.tower, model.projector, model.language)
    )
    torch.set_default_dtype(torch.float64)
    try:
        features = tower_features(tower, model.vision, pixels.double(), layer)[skip:]
        embedding = language["model.embed_tokens.weight"]
        x = torch.cat([embedding[before], project(projector, features, model.connector), embedding[behind]])
        return language_logits(language, model.text, x)
    finally:
        torch.set_default_dtype(torch.float32)
