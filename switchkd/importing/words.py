"""A source's tokenizer as tokenizer.json, with a token in a picture's place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from switchkd.errors import CheckpointError
from switchkd.files import read_json
from switchkd.importing.sentencepiece import read_tokenizer_model
from switchkd.models.llava_processor import load_tokenizer
from switchkd.prompt_files import read_special_tokens, read_tokenizer

IMAGE = "<image>"
_MAX_LENGTH = 1 << 20  # what is longer says that nobody has set it
_USUAL_LENGTH = 2048


@dataclass(frozen=True)
class Words:
    """A tokenizer and what it calls its tokens."""

    tokenizer: Tokenizer
    special: dict[str, str] = field(default_factory=dict)  # "eos_token" → "</s>"
    max_length: int = _USUAL_LENGTH
    origin: str = ""  # the file that it was made of, for people

    @property
    def length(self) -> int:
        """The highest id, plus one."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def save(self, folder: Path) -> None:
        """tokenizer.json and tokenizer_config.json, in the class that takes a tokenizer as it stands."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special,
            "model_max_length": self.max_length,
            "clean_up_tokenization_spaces": False,
        }
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def read_words(folder: Path, end_token: str | None = None) -> Words:
    """A folder's tokenizer: tokenizer.json, SentencePiece's tokenizer.model, or vocab.json with merges.txt, in this order.

    Args:
        end_token: what ends an answer, where the tokenizer says otherwise or nothing.

    Raises:
        CheckpointError: there is none of these, or one is torn; nothing says how an answer ends.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no tokenizer folder {folder}.")
    tokenizer, special, origin = _read(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special |= read_special_tokens(folder)
    if end_token is not None:
        special["eos_token"] = end_token
    if "eos_token" not in special:
        raise CheckpointError(f"{folder} doesn't say which token ends an answer; give it with --end-token.")
    # Nobody learns to write padding: where there is none the unknown token takes its place, as in these layouts' own code.
    special.setdefault("pad_token", special.get("unk_token", special["eos_token"]))
    for name, token in special.items():
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{folder}: the tokenizer has no token {token!r}, which is its {name}.")
    return Words(tokenizer, special, _max_length(folder), origin)


def _read(folder: Path) -> tuple[Tokenizer, dict[str, str], str]:
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder), {}, "tokenizer.json"
    if (folder / "tokenizer.model").is_file():
        tokenizer, special = read_tokenizer_model(folder / "tokenizer.model")
        return _with_added(tokenizer, folder), special, "tokenizer.model"
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend = getattr(load_tokenizer(folder), "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            return Tokenizer.from_str(backend.to_str()), {}, "vocab.json and merges.txt"
    raise CheckpointError(
        f"{folder} brings no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt); give the language "
        "model's with --tokenizer."
    )


def _with_added(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The tokens that were added later, under their own ids."""
    try:
        added = read_json(folder / "added_tokens.json", CheckpointError)
    except FileNotFoundError:
        return tokenizer
    if not isinstance(added, dict) or not all(isinstance(number, int) for number in added.values()):
        raise CheckpointError(f"{folder / 'added_tokens.json'} isn't a list of tokens with their numbers.")
    for token, number in sorted(added.items(), key=lambda entry: entry[1]):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        if tokenizer.token_to_id(token) != number:
            raise CheckpointError(f"{folder / 'added_tokens.json'} leaves a gap before {token!r} ({number}).")
    return tokenizer


def _max_length(folder: Path) -> int:
    try:
        value = read_json(folder / "tokenizer_config.json", CheckpointError).get("model_max_length")
    except (FileNotFoundError, AttributeError):
        value = None
    return value if isinstance(value, int) and 0 < value < _MAX_LENGTH else _USUAL_LENGTH


def add_image_token(words: Words, known: int | None) -> int:
    """The id of the token in a picture's place: the source's own, else `<image>`, which is added where it isn't there.

    Raises:
        CheckpointError: the tokenizer lacks the source's.
    """
    if known is not None:
        if words.tokenizer.id_to_token(known) is None:
            raise CheckpointError(f"The tokenizer has no token {known}, which config.json takes as image token.")
        return known
    if words.tokenizer.token_to_id(IMAGE) is None:
        words.tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    number = words.tokenizer.token_to_id(IMAGE)
    assert number is not None
    return number
