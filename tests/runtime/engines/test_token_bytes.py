"""Tokens' bytes put together are the text that they were made of, for every kind of tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from support.tokenizers import sentencepiece_tokenizer, small_tokenizer, smollm_tokenizer

from switchkd.runtime.engines.token_bytes import TokenBytes

MADE = {"bytes": small_tokenizer, "SentencePiece": sentencepiece_tokenizer, "SmolLM": smollm_tokenizer}


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=100, deadline=None)
@given(text=some.text("ab r 7\n\t.é漢😀\u00a0", max_size=20) | some.text(max_size=8))
def test_the_bytes_of_all_tokens_are_the_text(kind, text):
    tokenizer = MADE[kind]()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = b"".join(map(TokenBytes(tokenizer).__getitem__, ids))
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    assert whole == normal.replace("\u2581", " ").encode()


@pytest.mark.parametrize("kind", MADE)
def test_added_tokens_are_their_names_and_foreign_ids_nothing(kind):
    tokenizer = MADE[kind]()
    found = TokenBytes(tokenizer)
    for token, added in tokenizer.get_added_tokens_decoder().items():
        assert found[token] == added.content.encode()
    assert found[10**6] == b""
