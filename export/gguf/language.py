"""The language model's GGUF file, as llama.cpp names and reads its family.

Keys and tensor names: github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.tokenizer import add_tokenizer
from switchkd.export.gguf.writer import new_writer, write_tensors


def write_language(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Writes the language model with its tokenizer in `precision` f16 or f32."""
    text, architecture = checkpoint.text, checkpoint.architecture
    writer = new_writer(path, architecture.language.gguf_architecture, checkpoint.folder.name, precision)
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    if architecture.head_width * text["num_attention_heads"] != text["hidden_size"]:
        writer.add_key_length(architecture.head_width)
        writer.add_value_length(architecture.head_width)
    add_tokenizer(writer, checkpoint)
    made = _position_factors(text, architecture.head_width)
    write_tensors(writer, checkpoint, checkpoint.language_tensors, precision, made)


def _position_factors(text: Mapping[str, Any], head: int) -> dict[str, NDArray[np.float32]]:
    """By what the turn of each pair of a head's rows is slowed, where positions are scaled as in Llama 3.1.

    Waves shorter than a part of the original context stay, longer ones are divided by `factor`, and between the two
    it goes smoothly (transformers' modeling_rope_utils.py).
    """
    if text["rope_type"] != "llama3":
        return {}
    rope = text.get("rope_parameters") or text["rope_scaling"]
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = rope["original_max_position_embeddings"] / (
        2 * np.pi * text["rope_theta"] ** (np.arange(0, head, 2) / head)
    )  # of each wave in the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors = 1 / ((1 - smooth) / factor + smooth)
    return {"rope_freqs.weight": factors.astype(np.float32)}
