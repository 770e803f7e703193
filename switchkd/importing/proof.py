"""An imported folder held against its source: logits of the one and of the other, on a picture and a question.

The source's side is its own way of computing, put together here from transformers' classes of the parts and the source's tensors
under the source's names: the features of a layer, the projector layer by layer, the picture's rows between the words' rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from switchkd.architecture.family import Family
from switchkd.errors import CheckpointError
from switchkd.importing.layout import HEAD, LANGUAGE, PROJECTOR, VISION
from switchkd.importing.model import Model
from switchkd.importing.stored import Stored
from switchkd.models.vlm import load_vlm
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

_QUESTION = "What is in this picture?"
_TOLERANCE = 1e-4  # of the largest logit: float32's rounding


@dataclass(frozen=True)
class Proof:
    """How far an imported folder's logits are from its source's."""

    error: float  # the largest difference, as a part of the largest logit
    positions: int


@torch.inference_mode()
def prove(model: Model, folder: Path) -> Proof:
    """Compares a written folder with its source.

    Raises:
        CheckpointError: the logits differ by more than rounding.
    """
    prompt, preprocess = ChatPrompt.load(folder), Preprocess.load(folder)
    pixels = torch.from_numpy(preprocess(_picture(preprocess)))[None]  # [1, 3, H, W]
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]}
    tokens = model.architecture.image_tokens
    ids = prompt.encode([message], image_tokens=tokens, add_generation_prompt=True).ids
    features = _features(model, pixels)  # [P, width]
    if len(features) != tokens:
        raise CheckpointError(f"The source makes {len(features)} tokens of a picture, the folder would make {tokens}.")
    expected = _answer(model, ids, prompt.image_token_id, features)  # [T, rows]
    vlm = _widening(load_vlm(folder, model.dtype))
    given = vlm(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, :, : expected.shape[1]]
    error = float((given - expected).abs().max() / expected.abs().max())
    if not error <= _TOLERANCE:  # nan too
        raise CheckpointError(
            f"The imported model isn't its source: their logits differ by {error:.1e} of the largest."
        )
    return Proof(error, len(ids))


def _picture(preprocess: Preprocess) -> Image.Image:
    """Noise, wider than high, so that the way pictures are cut matters."""
    size = (preprocess.height, preprocess.width * 4 // 3, 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))


def _features(model: Model, pixels: Tensor) -> Tensor:
    """What the source's projector makes of a picture: [P, width]."""
    tower = _module(model.architecture.tower, model.vision, model.parts[VISION], model.dtype)
    states = tower(pixels, output_hidden_states=True).hidden_states
    layers = model.foreign.feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    features = torch.cat(chosen, dim=-1)  # [1, positions, features]
    if not model.foreign.first_token:
        features = features[:, 1:]
    weights = {name: stored.load().float() for name, stored in model.parts[PROJECTOR].items()}
    return (_lightweight if "peg.peg.0.weight" in weights else _layered)(weights, features)[0]


def _layered(weights: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Linear layers in their names' order, GELU between them."""
    names = sorted(name.removesuffix("weight") for name in weights if name.endswith("weight"))
    for place, name in enumerate(names):
        features = functional.gelu(features) if place else features
        features = functional.linear(features, weights[f"{name}weight"], weights.get(f"{name}bias"))
    return features


def _lightweight(weights: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """LDPv2: two layers, the grid's means two by two, a depthwise convolution that is added."""
    mlp = {name.removeprefix("mlp.mlp."): tensor for name, tensor in weights.items() if name.startswith("mlp.mlp.")}
    rows = _layered(mlp, features)  # [1, P, width]
    side = round(rows.shape[1] ** 0.5)
    grid = rows.transpose(1, 2).reshape(1, -1, side, side)
    grid = functional.avg_pool2d(grid, 2)
    kernel, bias = weights["peg.peg.0.weight"], weights["peg.peg.0.bias"]
    grid = grid + functional.conv2d(grid, kernel, bias, padding=1, groups=grid.shape[1])
    return grid.flatten(2).transpose(1, 2)


def _answer(model: Model, ids: list[int], image: int, features: Tensor) -> Tensor:
    """The source's logits: [T, rows]."""
    tensors = {f"model.{name}": stored for name, stored in model.parts[LANGUAGE].items()}
    tensors |= {f"lm_head.{name}": stored for name, stored in model.parts[HEAD].items()}
    language = _module(model.architecture.language, model.text, tensors, model.dtype)
    start, end = ids.index(image), len(ids) - ids[::-1].index(image)
    embed = language.get_input_embeddings()
    before, behind = (embed(torch.tensor(part, dtype=torch.long)) for part in (ids[:start], ids[end:]))
    return language(inputs_embeds=torch.cat([before, features, behind])[None]).logits[0]


def _module(family: Family, config: Any, tensors: Mapping[str, Stored], dtype: torch.dtype) -> Any:
    """transformers' model of a part, with the source's tensors."""
    weights = {name: stored.load().to(dtype) for name, stored in tensors.items()}  # taken as they are: not copied again
    model_class = getattr(transformers, family.model_class)  # type: ignore[attr-defined]
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
    )
    if missing := report["missing_keys"] or report["mismatched_keys"]:
        raise CheckpointError(f"The source lacks {min(map(str, missing))} for its own {family.title}.")
    return _widening(model)


def _widening(model: Any) -> Any:
    """The model, which from now on computes in float32 while its weights stay as they are: each layer's are widened while it
    works. So a large model takes its own size of memory, and processors without arithmetic of 16 bits don't take hours."""

    def widen(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        kept[layer] = [weight.data for weight in layer.parameters()]
        for weight in layer.parameters():
            weight.data = weight.data.float()
        return tuple(each.float() if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs)

    def narrow(layer: nn.Module, *_: Any) -> None:
        for weight, data in zip(layer.parameters(), kept.pop(layer), strict=True):
            weight.data = data

    kept: dict[nn.Module, list[Tensor]] = {}
    for layer in model.modules():
        if next(layer.children(), None) is None and next(layer.parameters(), None) is not None:
            layer.register_forward_pre_hook(widen)
            layer.register_forward_hook(narrow)
    return model.eval()
