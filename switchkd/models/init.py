"""Where the two parts of a new LLaVA model come from: checkpoints, or configurations with random weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlavaForConditionalGeneration, LlavaProcessor

from switchkd.architecture.references import resolve_checkpoint
from switchkd.architecture.weights import refuse_other_kinds
from switchkd.data.roadscenes import corpus
from switchkd.errors import CheckpointError
from switchkd.models.llava_processor import load_image_processor, load_tokenizer
from switchkd.models.shapes import load_shape, shape_names, shrink_shape
from switchkd.models.tokenizer import save_tokenizer, train_tokenizer
from switchkd.models.vlm import assemble, load_language, load_vision

_SENTENCES, _ROWS = 2000, 512

Assembled = tuple[LlavaForConditionalGeneration, LlavaProcessor]


def from_checkpoints(
    vision: str, language: str, tokenizer: str | None = None, *, seed: int = 0, **settings: Any
) -> Assembled:
    """A LLaVA model of two trained parts; only the projector is new. `settings` are those of `assemble`."""
    vision_folder, language_folder = resolve_checkpoint(vision), resolve_checkpoint(language)
    for folder in (vision_folder, language_folder):
        refuse_other_kinds(folder)
    words = load_tokenizer(language_folder if tokenizer is None else resolve_checkpoint(tokenizer))
    torch.manual_seed(seed)
    parts = load_vision(vision_folder), load_language(language_folder)
    return assemble(*parts, words, load_image_processor(vision_folder), **settings)


def from_shapes(
    vision: str, language: str, tokenizer: str | None = None, *, shrink: bool = False, seed: int = 0, **settings: Any
) -> Assembled:
    """A LLaVA model with random weights in a known or given configuration. `settings` are those of `assemble`.

    Without a tokenizer of yours, a small one learned from the built-in task's sentences is used; the embedding keeps the
    configuration's number of rows.
    """
    configs = _config(vision, shrink), _config(language, shrink)
    torch.manual_seed(seed)
    words = _small_tokenizer() if tokenizer is None else load_tokenizer(resolve_checkpoint(tokenizer))
    return assemble(*configs, words, **settings)


def _small_tokenizer() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(train_tokenizer(corpus(0, _SENTENCES), _ROWS), Path(folder))
        return load_tokenizer(Path(folder))


def _config(name: str, shrink: bool) -> Any:
    if name in shape_names():
        return AutoConfig.for_model(**load_shape(name, shrink=shrink))
    try:
        shape = json.loads((resolve_checkpoint(name) / "config.json").read_text(encoding="utf-8"))
    except (CheckpointError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{name}' is neither a known shape ({', '.join(shape_names())}) nor a folder with a config.json."
        ) from error
    shape = shape.get("vision_config", shape)
    return AutoConfig.for_model(**(shrink_shape(shape) if shrink else shape))
