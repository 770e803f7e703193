"""`tokenizer.model`, SentencePiece's file of byte-pair encoding, as a tokenizer that writes tokenizer.json. No torch.

The file is a protocol buffer (sentencepiece_model.proto): pieces with a score and a type, and how text is normalized. A merge's
rank isn't in it: pieces are joined in the order of the scores of what they become.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from switchkd.errors import CheckpointError

_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6  # SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType
_SPACE = "▁"
_FIXED = {1: 8, 5: 4}  # wire type → bytes


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: int  # SentencePiece.Type


def read_tokenizer_model(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer, which opens a text with its `<s>` where it has one, and its special tokens by their names.

    Raises:
        CheckpointError: it can't be read, isn't byte-pair encoding, or normalizes text.
    """
    try:
        sections = [*_fields(path.read_bytes())]
        pieces = [_piece(value) for number, value in sections if number == 1]
        trainer = {number: value for name, value in sections if name == 2 for number, value in _fields(value)}
        rules = {number: value for name, value in sections if name == 3 for number, value in _fields(value)}
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, IndexError, KeyError, struct.error) as error:
        raise CheckpointError(f"{path} is torn: it is no SentencePiece model; copy it again.") from error
    if not pieces or trainer.get(3, 1) != _BPE:
        raise CheckpointError(f"{path} isn't byte-pair encoding; give a tokenizer with --tokenizer.")
    if rules.get(2) or rules.get(4, 1):
        raise CheckpointError(f"{path} changes text before it is cut; give a tokenizer with --tokenizer.")
    return _tokenizer(pieces, prefix=bool(rules.get(3, 1))), _special(pieces, trainer)


def _tokenizer(pieces: list[Piece], *, prefix: bool) -> Tokenizer:
    bytes_too = any(piece.kind == _BYTE for piece in pieces)
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, _merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=bytes_too)
    tokenizer = Tokenizer(model)
    # Between two special tokens a text opens with a space too, as SentencePiece reads it.
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    ends: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    for piece in pieces:
        if piece.kind in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(piece.text, special=True, normalized=False)])
        elif piece.kind == _USER:
            tokenizer.add_tokens([AddedToken(piece.text, normalized=False)])
    start = tokenizer.token_to_id("<s>")
    if start is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", start)]
        )
    return tokenizer


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every pair of pieces that is a piece, the best score first."""
    known = {piece.text for piece in pieces if piece.kind == _NORMAL}
    ordered = sorted((piece for piece in pieces if piece.kind == _NORMAL), key=lambda piece: -piece.score)
    return [
        (left, right)
        for piece in ordered
        for cut in range(1, len(piece.text))
        if (left := piece.text[:cut]) in known and (right := piece.text[cut:]) in known
    ]


def _special(pieces: list[Piece], trainer: dict[int, int | bytes]) -> dict[str, str]:
    places = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2)}
    found = {}
    for name, (number, usual) in places.items():
        place = trainer.get(number, usual)
        if isinstance(place, int) and place < len(pieces):  # −1, for none, is a very large number here
            found[name] = pieces[place].text
    return found


def _piece(data: int | bytes) -> Piece:
    fields = dict(_fields(data))
    text, score = fields[1], fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("no piece")
    return Piece(text.decode(), struct.unpack("<f", score)[0], int(fields.get(3, _NORMAL)))


def _fields(data: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """A message's fields: number and value, a whole number or bytes. Raises ValueError or IndexError for a torn one."""
    if isinstance(data, int):
        raise ValueError("no message")
    place = 0
    while place < len(data):
        key, place = _number(data, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _number(data, place)
            yield number, value
            continue
        length, place = _number(data, place) if wire == 2 else (_FIXED.get(wire, -1), place)
        if length < 0 or place + length > len(data):
            raise ValueError("torn")
        yield number, data[place : place + length]
        place += length


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A variable-length whole number and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("torn")
