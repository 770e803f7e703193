"""The language model's GGUF file: architecture `qwen2`, as llama.cpp names and reads it.

Keys and tensor names: github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from switchkd.chat_template import inference_template
from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.writer import Placed, new_writer, write_tensors

# Splits of text into words that llama.cpp knows by name (its src/llama-vocab.cpp).
_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2"
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # gguf.TokenType


def language_tensors(checkpoint: Checkpoint) -> dict[str, Placed]:
    """Where every tensor of the language model goes: name in the file → tensor of the checkpoint."""
    text = checkpoint.text
    width, ffn = text["hidden_size"], text["intermediate_size"]
    kv_width = width // text["num_attention_heads"] * text["num_key_value_heads"]
    rows = (text["vocab_size"], width)
    placed = {"token_embd.weight": Placed("language_model.embed_tokens.weight", rows)}
    for layer in range(text["num_hidden_layers"]):
        source, target = f"language_model.layers.{layer}.", f"blk.{layer}."
        placed[f"{target}attn_norm.weight"] = Placed(f"{source}input_layernorm.weight", (width,), exact=True)
        for short, out in (("q", width), ("k", kv_width), ("v", kv_width)):
            attention = f"{source}self_attn.{short}_proj."
            placed[f"{target}attn_{short}.weight"] = Placed(f"{attention}weight", (out, width))
            placed[f"{target}attn_{short}.bias"] = Placed(f"{attention}bias", (out,), exact=True)
        placed[f"{target}attn_output.weight"] = Placed(f"{source}self_attn.o_proj.weight", (width, width))
        placed[f"{target}ffn_norm.weight"] = Placed(f"{source}post_attention_layernorm.weight", (width,), exact=True)
        for short, shape in (("gate", (ffn, width)), ("up", (ffn, width)), ("down", (width, ffn))):
            placed[f"{target}ffn_{short}.weight"] = Placed(f"{source}mlp.{short}_proj.weight", shape)
    placed["output_norm.weight"] = Placed("language_model.norm.weight", (width,), exact=True)
    if not checkpoint.tied:
        placed["output.weight"] = Placed("lm_head.weight", rows)
    return placed


def write_language(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Writes the language model with its tokenizer in `precision` f16 or f32."""
    text = checkpoint.text
    writer = new_writer(path, "qwen2", checkpoint.folder.name, precision)
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    _add_tokenizer(writer, checkpoint)
    write_tensors(writer, checkpoint, language_tensors(checkpoint), precision)


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
    if len(patterns) != 1 or patterns[0] not in _SPLITS or not any(step.get("type") == "ByteLevel" for step in steps):
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} doesn't split text as Qwen2's does; GGUF needs that."
        )
    return _SPLITS[patterns[0]]


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
