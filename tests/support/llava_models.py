"""Small LLaVA checkpoints with random, non-zero weights and biases, and a picture to show them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SENTENCES = ["a red car is on the left", "how many cars ? two", "is the light green ? yes", "Straße 12, naïve"] * 10

# Two shapes of both families, heads tied and not, which other formats' tests share.
SHAPES = {
    "siglip-tied": {"tied": True, "feature_layer": -2},
    "clip-untied": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -2},
}
SIGLIP = SHAPES["siglip-tied"]


def make_checkpoint(
    folder: Path,
    *,
    vision: str = "siglip-so400m-patch14-384",
    tied: bool = True,
    feature_layer: int = -1,
    width: int = 64,
    vision_width: int = 96,
    seed: int = 0,
    language: str = "qwen2.5-0.5b",
    text: Mapping[str, Any] | None = None,
    words: Path | None = None,
    feature_select: str | None = None,
    projector: str | None = None,
    projector_settings: Mapping[str, Any] | None = None,
    **vision_settings,
) -> Path:
    """A checkpoint in the real shapes' proportions, with widths that quantize: multiples of 32, heads of 16 and 24.

    `words` is a tokenizer's folder; without one it is of Qwen2's kind.
    """
    import torch
    from transformers import AutoConfig

    from switchkd.models.llava_processor import load_tokenizer
    from switchkd.models.shapes import load_shape
    from switchkd.models.tokenizer import save_tokenizer, train_tokenizer
    from switchkd.models.vlm import assemble, save_vlm

    if words is None:
        words = folder.with_name(f"{folder.name}-words")
        save_tokenizer(train_tokenizer(SENTENCES, 400), words)
    language_shape = {
        **load_shape(language, shrink=True),
        "hidden_size": width,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 410,
        "tie_word_embeddings": tied,
        **(text or {}),
    }
    tower = {
        **load_shape(vision, shrink=True),
        "hidden_size": vision_width,
        "intermediate_size": 176,
        "num_attention_heads": 4,
        **vision_settings,
    }
    torch.manual_seed(seed)
    configs = [AutoConfig.for_model(**settings) for settings in (tower, language_shape)]
    vlm, processor = assemble(
        *configs,
        load_tokenizer(words),
        feature_layer=feature_layer,
        feature_select=feature_select,
        projector=projector,
        projector_settings=projector_settings,
    )
    for parameter in vlm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    save_vlm(vlm, folder, processor)
    return folder


def picture(seed: int = 0, width: int = 90, height: int = 60) -> Image.Image:
    """A colourful picture, another for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def question(text: str = "how many cars ?", before: str = "") -> list[dict]:
    """One user turn about a picture."""
    parts = [{"type": "text", "text": before}] if before else []
    return [{"role": "user", "content": [*parts, {"type": "image"}, {"type": "text", "text": text}]}]


def make_model(folder: Path, vision: str, language: str, *, feature_layer: int = -1, seed: int = 0) -> Path:
    """A shrunken LLaVA folder with random weights and biases, none of them zero."""
    import torch

    from switchkd.models.init import from_shapes
    from switchkd.models.vlm import save_vlm

    vlm, processor = from_shapes(vision, language, feature_layer=feature_layer, shrink=True, seed=seed)
    torch.manual_seed(seed)
    for parameter in vlm.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    save_vlm(vlm, folder, processor)
    return folder
