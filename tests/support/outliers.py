"""Outliers as real models have them, in small random models: the function stays, what its products read doesn't.

A norm's channel times f against the columns that read it, values against the output projection's columns, rows of
up_proj against columns of down_proj, all by powers of two, so that float32 computes the very same. A real Qwen2.5-0.5B
has norms whose products lose up to a tenth when their input is rounded to 8 bits by tensor, and a few down_proj that lose
half of their result: the first token's value in one unit is 500 times the others'.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from support.llava_models import picture, question

NORM = 16.0  # rms of an outlying channel behind a norm, or of values, over the others'
UNIT = 500.0  # the first token's outlying value between up_proj and down_proj over the others' rms


def with_outliers(folder: Path, target: Path) -> Path:
    """A copy of a checkpoint folder with outliers in its tower and its language model; the same function."""
    from switchkd.models.vlm import load_vlm, save_vlm

    vlm = load_vlm(folder)
    read = product_inputs(vlm, folder)
    for block in vlm.model.vision_tower.encoder.layers:
        attention, mlp = block.self_attn, block.mlp
        _scale_norm(block.layer_norm1, [attention.q_proj, attention.k_proj, attention.v_proj], read)
        _scale_norm(block.layer_norm2, [mlp.fc1], read)
        _scale_values(attention.v_proj, attention.out_proj, attention.head_dim, read)
    blocks = vlm.model.language_model.layers
    for number, block in enumerate(blocks):
        attention, mlp = block.self_attn, block.mlp
        _scale_norm(block.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj], read)
        _scale_norm(block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj], read)
        _scale_values(attention.v_proj, attention.o_proj, attention.head_dim, read)
        if number in (0, len(blocks) - 1):  # the first blocks and the last, as in the real one
            _scale_unit(mlp.up_proj, mlp.down_proj, read)
    save_vlm(vlm, target, folder)
    return target


def product_inputs(vlm: Any, folder: Path) -> dict[nn.Linear, Tensor]:
    """What every linear layer reads [tokens, width] while the model answers a question about a picture."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    text = processor.apply_chat_template(question(), add_generation_prompt=True)
    inputs = processor(images=picture(), text=text, return_tensors="pt")
    read: dict[nn.Linear, Tensor] = {}

    def keep(module: nn.Linear, arguments: tuple[Tensor, ...]) -> None:
        read[module] = arguments[0].detach().flatten(0, -2)

    hooks = [m.register_forward_pre_hook(keep) for m in vlm.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        vlm.eval()(**inputs)
    for hook in hooks:
        hook.remove()
    return read


def peak(read: Tensor) -> float:
    """The largest value of [tokens, width] over a usual channel's rms."""
    return float(read.abs().max() / _usual(read))


def rounding_error(layer: nn.Linear, read: Tensor) -> float:
    """Relative error of a product, the mean over tokens, when its input is rounded to 8 bits with one scale for all."""
    low, high = min(float(read.min()), 0.0), max(float(read.max()), 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    rounded = ((read / step).round().clamp(-zero, 255 - zero)) * step
    weight = layer.weight.detach()
    exact = read @ weight.T
    return float((((rounded - read) @ weight.T).norm(dim=1) / exact.norm(dim=1)).mean())


def _usual(read: Tensor) -> Tensor:
    return read.square().mean(0).sqrt().median()


def _power_of_two(factor: float) -> float:
    return 2.0 ** round(math.log2(factor))


def _scale_norm(norm: nn.Module, readers: list[nn.Linear], read: dict[nn.Linear, Tensor]) -> None:
    """The channel that already reaches farthest, up to NORM times a usual one."""
    before = read[readers[0]]
    channel = int(before.abs().max(0).values.argmax())
    factor = _power_of_two(float(NORM * _usual(before) / before[:, channel].square().mean().sqrt()))
    norm.weight.data[channel] *= factor
    if getattr(norm, "bias", None) is not None:
        norm.bias.data[channel] *= factor
    for reader in readers:
        reader.weight.data[:, channel] /= factor


def _scale_values(values: nn.Linear, output: nn.Linear, head: int, read: dict[nn.Linear, Tensor]) -> None:
    """One channel of one head's values; query heads that share these keys and values read it too."""
    before = read[output]
    groups = output.in_features // values.out_features
    row = int(before.abs().max(0).values.argmax()) // head // groups * head  # the head that reaches farthest
    columns = [row * groups + query * head for query in range(groups)]
    factor = _power_of_two(float(NORM * _usual(before) / before[:, columns].square().mean().sqrt()))
    values.weight.data[row] *= factor
    if values.bias is not None:
        values.bias.data[row] *= factor
    output.weight.data[:, columns] /= factor


def _scale_unit(up: nn.Linear, down: nn.Linear, read: dict[nn.Linear, Tensor]) -> None:
    """The unit that speaks most for the first token alone, which every prompt begins with and which sees no other."""
    before = read[down]
    unit = int((before[0].abs() / before[1:].abs().max(0).values).argmax())
    factor = _power_of_two(float(UNIT * _usual(before) / before[0, unit].abs()))
    up.weight.data[unit] *= factor
    down.weight.data[:, unit] /= factor
