"""The bytes that a token stands for. A token may be half a character, so that it has no text of its own."""

from __future__ import annotations

import json
import re
from functools import cached_property

from tokenizers import Tokenizer

_ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's name of it
_SPACE = "\u2581"  # SentencePiece's


class TokenBytes:
    """Token ids to bytes, for tokenizers of bytes (GPT-2's kind) and SentencePiece's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getitem__(self, token: int) -> bytes:
        """A token's bytes; empty for an id that is none."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token) or ""
        if self._of_bytes:
            return bytes(_BYTES[letter] for letter in piece if letter in _BYTES)
        if one := _ONE_BYTE.fullmatch(piece):
            return bytes([int(one[1], 16)])
        return piece.replace(_SPACE, " ").encode()

    @cached_property
    def _added(self) -> dict[int, str]:
        return {token: added.content for token, added in self._tokenizer.get_added_tokens_decoder().items()}

    @cached_property
    def _of_bytes(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str())["decoder"])


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_letters()
