"""The language model's GGUF file, as llama.cpp names and reads its family.

Keys and tensor names: github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from switchkd.chat_template import inference_template
from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.writer import new_writer, write_tensors

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # gguf.TokenType


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
    _add_tokenizer(writer, checkpoint)
    write_tensors(writer, checkpoint, checkpoint.language_tensors, precision)


def check_tokenizer(checkpoint: Checkpoint) -> str:
    """llama.cpp's name of the tokenizer's split into words.

    Raises:
        CheckpointError: it isn't byte-level BPE, or splits text in a way that llama.cpp has no name for here.
    """
    tokenizer = json.loads(checkpoint.prompt.tokenizer.to_str())
    if tokenizer["model"]["type"] != "BPE":
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} is of the kind {tokenizer['model']['type']}, not BPE."
        )
    splitter = tokenizer.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [splitter])
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    family = checkpoint.architecture.language
    split = family.gguf_splits.get(patterns[0]) if len(patterns) == 1 else None
    if split is None or not any(step.get("type") == "ByteLevel" for step in steps):
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} doesn't split text as {family.title}'s does; GGUF needs that."
        )
    return split


def _add_tokenizer(writer: Any, checkpoint: Checkpoint) -> None:
    prompt = checkpoint.prompt
    model = json.loads(prompt.tokenizer.to_str())["model"]
    rows = checkpoint.text["vocab_size"]
    # Rows beyond the tokenizer have no token, but the file needs a name for each.
    tokens, kinds = [f"[PAD{index}]" for index in range(rows)], [_UNUSED] * rows
    for token, index in model["vocab"].items():
        tokens[index], kinds[index] = token, _NORMAL
    for index, added in prompt.tokenizer.get_added_tokens_decoder().items():
        tokens[index], kinds[index] = added.content, _CONTROL if added.special else _USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(check_tokenizer(checkpoint))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    end = prompt.token_id("eos_token")
    pad = prompt.token_id("pad_token")
    if end is not None:
        writer.add_eos_token_id(end)
        # llama.cpp invents a beginning-of-text token where none is named.
        writer.add_bos_token_id(end if pad is None else pad)
    if pad is not None:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(False)
    writer.add_chat_template(inference_template(prompt.template))
