"""Small students of every family of language models, each with a tokenizer of the kind that its family comes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.llava_models import SENTENCES, make_checkpoint
from support.tokenizers import save_words, sentencepiece_tokenizer, smollm_tokenizer
from switchkd.models.tokenizer import save_tokenizer, train_tokenizer

_LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"original_max_position_embeddings": 64, "rope_theta": 500.0},
}
_UNTIED = {"tie_word_embeddings": False}
# Name → shape, further settings, kind of tokenizer. Between them: heads tied and not, as many for keys as for queries and
# fewer, wider than the width has room for, positions scaled and not.
LANGUAGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "vicuna": ("vicuna-7b", {**_UNTIED, "num_key_value_heads": 4}, "sentencepiece"),
    "tinyllama": ("tinyllama-1.1b", {**_UNTIED, "head_dim": 32}, "sentencepiece"),
    "smollm2": ("smollm2-135m", {"tie_word_embeddings": True}, "smollm"),
    "llama3": ("llama-3.2-1b", {"rope_scaling": None, "rope_parameters": _LLAMA3}, "qwen2"),
    "qwen3": ("qwen3-0.6b", {"head_dim": 32}, "qwen2"),
    "qwen3-untied": ("qwen3-1.7b", {**_UNTIED, "head_dim": 16}, "qwen2"),
}


def make_words(kind: str, folder: Path) -> Path:
    """A tokenizer's folder."""
    if kind == "sentencepiece":
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
        return save_words(sentencepiece_tokenizer(SENTENCES, 400), folder, **named)
    if kind == "smollm":
        named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
        return save_words(smollm_tokenizer(SENTENCES, 400), folder, **named)
    save_tokenizer(train_tokenizer(SENTENCES, 400), folder)
    return folder


def make_student(folder: Path, name: str, **settings: Any) -> Path:
    """One of `LANGUAGES`; `settings` as of `make_checkpoint`."""
    shape, text, kind = LANGUAGES[name]
    words = make_words(kind, folder.with_name(f"{folder.name}-words"))
    tied = text.get("tie_word_embeddings", True)
    return make_checkpoint(folder, language=shape, text=text, words=words, tied=tied, **settings)
