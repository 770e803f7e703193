"""Where a model looks: attention from the answer's first position to the image tokens (paper, figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from switchkd.analysis.figures import caption, save_figure
from switchkd.architecture.architecture import Architecture
from switchkd.data.questions import Question
from switchkd.errors import SkdError
from switchkd.models.answerer import Answerer
from switchkd.pictures import open_image


@dataclass(frozen=True)
class AttendedAnswer:
    """One model's answer to a question, and where it looked for it."""

    answer: str  # greedy
    attention: NDArray[np.float64]  # [rows, columns] of the patch grid, sums to 1
    seen: NDArray[np.uint8]  # [height, width, 3] the picture as this model's preprocessing cuts and scales it


def attend(model: Answerer | Path, image: Path, prompt: str, layer: int | None = None) -> AttendedAnswer:
    """Answers a question about a picture and keeps where the model looked.

    The attention is that of the prompt's last token, which the answer's first token is read from, to the image tokens in
    the language model: averaged over heads, and over layers unless `layer` picks one (negative from the last).

    Raises:
        CheckpointError: no LLaVA folder.
        DataError: no picture.
        SkdError: the language model has no such layer.
    """
    answerer = model if isinstance(model, Answerer) else Answerer(model)
    picture = open_image(image)
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    ]
    pixels = torch.from_numpy(answerer.preprocess(picture)).to(answerer.device, answerer.vlm.dtype)  # [3, H, W]
    tokens = Architecture.of(answerer.vlm.config.to_dict()).image_tokens
    ids = answerer.prompt.encode(messages, image_tokens=tokens, add_generation_prompt=True).ids
    weights = image_attention(
        answerer.vlm, torch.tensor([ids], device=answerer.device), pixels[None], answerer.prompt.image_token_id
    )  # [L, heads, rows, columns]
    layers = len(weights)
    if layer is not None and not -layers <= layer < layers:
        raise SkdError(f"There is no layer {layer}: this language model has {layers}, numbered 0 to {layers - 1}.")
    chosen = weights if layer is None else weights[layer : layer + 1 or None]
    mean = chosen.double().mean(dim=(0, 1)).cpu().numpy()
    (answer,) = answerer.answer([Question("", "all", (image,), messages, "")])
    return AttendedAnswer(answer, mean / mean.sum(), answerer.preprocess.resize(picture))


@torch.inference_mode()
def image_attention(vlm: Any, input_ids: torch.Tensor, pixel_values: torch.Tensor, image_token_id: int) -> torch.Tensor:
    """Attention of the last token to the picture in every layer and head, as the softmax gives it.

    The tokens before it are read by the fast attention, the last one alone by the implementation that returns weights: a
    row of T weights for each head instead of T × T.

    Args:
        input_ids: [1, T], the placeholders of one picture among them.
        pixel_values: [1, 3, H, W].

    Returns:
        [L, heads, rows, columns] of the grid that the picture's tokens stand on; a class token that the language model is shown
        is left out, a patch that it isn't shown gets nothing.

    Raises:
        SkdError: the tokens stand on no square grid.
    """
    before = vlm(input_ids=input_ids[:, :-1], pixel_values=pixel_values, use_cache=True, logits_to_keep=1)
    with _returning_weights(vlm.model.language_model):
        last = vlm(input_ids=input_ids[:, -1:], past_key_values=before.past_key_values, output_attentions=True)
    weights = torch.cat(last.attentions)[:, :, 0]  # [L, heads, T]
    weights = weights[:, :, input_ids[0] == image_token_id]  # [L, heads, P]
    tokens = weights.shape[-1]
    side = round(tokens**0.5)
    if abs(side**2 - tokens) > 1:
        raise SkdError(f"The {tokens} tokens of a picture stand on no square grid, so their attention can't be drawn.")
    grid = torch.nn.functional.pad(weights, (side**2 - tokens, 0))  # a negative number cuts
    return grid.unflatten(-1, (side, side))


@contextmanager
def _returning_weights(language: Any) -> Iterator[None]:
    """Only the eager implementation returns attention weights."""
    usual = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        yield
    finally:
        language.set_attn_implementation(usual)


def draw_attention(attended: Mapping[str, AttendedAnswer], prompt: str, path: Path) -> None:
    """The picture, and beside it each model's attention as a heat map over what the model sees; one scale for all.

    Raises:
        SkdError: the file can't be written.
    """
    from matplotlib.figure import Figure

    # As multiples of even attention, so that models with other patch grids compare.
    density = {name: each.attention * each.attention.size for name, each in attended.items()}
    top = max(values.max() for values in density.values())
    figure = Figure(figsize=(2.7 * (len(attended) + 1) + 0.6, 3.4), layout="constrained")
    first, *panels = figure.subplots(1, len(attended) + 1)
    first.imshow(next(iter(attended.values())).seen)
    first.set_title("picture", fontsize=10)
    for axes, (name, each) in zip(panels, attended.items(), strict=True):
        height, width, _ = each.seen.shape
        extent = (0, width, height, 0)
        axes.imshow(each.seen.mean(axis=-1), extent=extent, cmap="gray", vmin=0, vmax=255)
        heat = axes.imshow(density[name], extent=extent, cmap="inferno", vmin=0, vmax=top, alpha=0.55)
        axes.set_title(f"{name}: {caption(each.answer, 60) or '(nothing)'}", fontsize=10, wrap=True, parse_math=False)
    for axes in (first, *panels):
        axes.set_axis_off()
    figure.colorbar(heat, ax=panels, label="× even attention", shrink=0.75)
    figure.suptitle(caption(prompt, 120), fontsize=11, parse_math=False)
    save_figure(figure, path)
