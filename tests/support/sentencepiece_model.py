"""A small SentencePiece model as Llama's is: byte-pair encoding with byte fallback, nothing normalized."""

from __future__ import annotations

import functools
import io

import pytest

SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: ASSISTANT:",
    "a red car is on the left", "how many cars ? two", "is the light green ? yes", "Straße 12, naïve",
    "What is in the picture? A red car stands beside two lorries.",
] * 20  # fmt: skip


@functools.cache
def small_sentencepiece(rows: int = 420) -> bytes:
    """tokenizer.model's content; skips the test where the package sentencepiece isn't installed."""
    package = pytest.importorskip("sentencepiece")
    stream = io.BytesIO()
    package.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=stream,
        model_type="bpe",
        vocab_size=rows,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    return stream.getvalue()
