"""A small tokenizer of Qwen2's kind and the checkpoint files around it, for tests."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tokenizers import Tokenizer

from switchkd.chat_template import chatml_template
from switchkd.models.tokenizer import IMAGE_PAD, save_tokenizer, train_tokenizer
from switchkd.prompt import ChatPrompt

SENTENCES = (
    "What is in the picture? A red car stands beside two lorries.",
    "user\nassistant\nsystem\nHow many signs can you see? Three, and one of them is blue.",
    "Grüße aus Köln, 你好世界, naïve café, 🚗🚦 and {\"key\": [1, 2]}",
)  # fmt: skip


@functools.cache
def _trained() -> str:
    return train_tokenizer(SENTENCES, rows=420).to_str()


def small_tokenizer() -> Tokenizer:
    """Byte-level BPE with NFC and the tokens <|endoftext|>, <|im_start|>, <|im_end|> and <|image_pad|>."""
    return Tokenizer.from_str(_trained())


def write_prompt_files(folder: Path) -> Path:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja and a config.json naming the image token."""
    tokenizer = small_tokenizer()
    save_tokenizer(tokenizer, folder)
    (folder / "chat_template.jinja").write_text(chatml_template())
    (folder / "config.json").write_text(json.dumps({"image_token_index": tokenizer.token_to_id(IMAGE_PAD)}))
    return folder


def small_prompt() -> ChatPrompt:
    """The project's ChatML template on the small tokenizer."""
    tokenizer = small_tokenizer()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return ChatPrompt(tokenizer, chatml_template(), tokenizer.token_to_id(IMAGE_PAD), special)
