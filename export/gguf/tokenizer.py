"""A checkpoint's tokenizer as GGUF files name it: byte-level BPE, and SentencePiece's BPE as Llama 1 and 2 have it.

Names: llama.cpp's src/llama-vocab.cpp. Both kinds are a tokenizer.json of the kind BPE; they differ in what they cut into pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from switchkd.chat_template import inference_template
from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
_SPACE = "▁"  # SentencePiece's
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORTENED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Patterns that cut text into words, one after the other → llama.cpp's name of them.
_SPLITS = {
    (_SHORTENED + _LETTERS + _DIGIT + _REST,): "qwen2",
    (_SHORTENED + _LETTERS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_DIGIT, _GPT2): "smollm",
    (_GPT2,): "gpt-2",
}


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp has to be told of a tokenizer beside its tokens."""

    model: str  # "gpt2": byte-level BPE, "llama": SentencePiece's
    split: str  # its name of the cut into words
    space: bool = False  # a space is put before every piece of text


def check_tokenizer(checkpoint: Checkpoint) -> Vocabulary:
    """Which of llama.cpp's tokenizers a checkpoint's is.

    Raises:
        CheckpointError: it is of another kind, or splits text in a way that llama.cpp has no name for here.
    """
    tokenizer = json.loads(checkpoint.prompt.tokenizer.to_str())
    if tokenizer["model"]["type"] != "BPE":
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} is of the kind {tokenizer['model']['type']}, not BPE."
        )
    if tokenizer["model"].get("byte_fallback"):
        return _check_sentencepiece(tokenizer, checkpoint)
    steps = list(_steps(tokenizer.get("pre_tokenizer")))
    splits = {**_SPLITS, **checkpoint.architecture.language.gguf_splits}
    split = splits.get(tuple(pattern for step in steps for pattern in _patterns(step)))
    if split is None or not any(step["type"] == "ByteLevel" and not step.get("add_prefix_space") for step in steps):
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} splits text in a way that llama.cpp has no name for here; there are "
            f"{', '.join(sorted(set(splits.values())))} and SentencePiece's."
        )
    return Vocabulary("gpt2", split)


def add_tokenizer(writer: Any, checkpoint: Checkpoint) -> None:
    """Adds tokens, merges or scores, special tokens and the chat template to a file."""
    prompt, vocabulary = checkpoint.prompt, check_tokenizer(checkpoint)
    model = json.loads(prompt.tokenizer.to_str())["model"]
    tokens, kinds = _tokens(checkpoint, model)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(tokens)
    if vocabulary.model == "llama":
        scores = _scores(model)
        writer.add_token_scores([scores.get(token, 0.0) for token in tokens])
        writer.add_add_space_prefix(vocabulary.space)
    writer.add_token_types(kinds)
    if vocabulary.model == "gpt2":
        writer.add_token_merges([" ".join(pair) for pair in _merges(model)])
    _add_special_tokens(writer, checkpoint)
    writer.add_add_bos_token(False)  # the chat template writes what stands in front
    writer.add_chat_template(inference_template(prompt.template))


def _add_special_tokens(writer: Any, checkpoint: Checkpoint) -> None:
    begin, end, pad, unknown = (checkpoint.prompt.token_id(f"{name}_token") for name in ("bos", "eos", "pad", "unk"))
    if end is not None:
        writer.add_eos_token_id(end)
        # llama.cpp invents a beginning-of-text token where none is named.
        writer.add_bos_token_id(next(token for token in (begin, pad, end) if token is not None))
    if pad is not None:
        writer.add_pad_token_id(pad)
    if unknown is not None:
        writer.add_unk_token_id(unknown)


def _tokens(checkpoint: Checkpoint, model: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Every row's token and its type."""
    rows = checkpoint.text["vocab_size"]
    # Rows beyond the tokenizer have no token, but the file needs a name for each.
    tokens, kinds = [f"[PAD{index}]" for index in range(rows)], [_UNUSED] * rows
    for token, index in model["vocab"].items():
        tokens[index], kinds[index] = token, _NORMAL
    if model.get("byte_fallback"):
        for byte in range(256):
            kinds[model["vocab"][_byte_name(byte)]] = _BYTE
    for index, added in checkpoint.prompt.tokenizer.get_added_tokens_decoder().items():
        tokens[index], kinds[index] = added.content, _CONTROL if added.special else _USER_DEFINED
    unknown = model.get("unk_token")
    if unknown in model["vocab"]:
        kinds[model["vocab"][unknown]] = _UNKNOWN
    return tokens, kinds


def _merges(model: Mapping[str, Any]) -> list[list[str]]:
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]


def _scores(model: Mapping[str, Any]) -> dict[str, float]:
    """llama.cpp merges the neighbours whose token has the highest score: the earlier a merge, the higher."""
    scores: dict[str, float] = {}
    for rank, pair in enumerate(_merges(model)):
        scores.setdefault("".join(pair), -float(rank))
    return scores


def _check_sentencepiece(tokenizer: Mapping[str, Any], checkpoint: Checkpoint) -> Vocabulary:
    """Spaces become "▁" and what has no token becomes bytes; a word begins with a space, the first one too or not."""
    steps = [*_steps(tokenizer.get("normalizer"), "normalizers"), *_steps(tokenizer.get("pre_tokenizer"))]
    known = {"Prepend": lambda step: step["prepend"] == _SPACE, "Replace": _replaces_spaces, "Metaspace": _is_metaspace}
    vocabulary = tokenizer["model"]["vocab"]
    if not all(step["type"] in known and known[step["type"]](step) for step in steps) or not any(
        step["type"] in ("Replace", "Metaspace") for step in steps
    ):
        kinds = " and ".join(str(step["type"]) for step in steps) or "nothing"
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} falls back on bytes, but doesn't treat text as Llama's SentencePiece does "
            f"(it has {kinds}); GGUF needs that."
        )
    if missing := [name for name in map(_byte_name, range(256)) if name not in vocabulary]:
        raise CheckpointError(
            f"The tokenizer of {checkpoint.folder} falls back on bytes and has no token {missing[0]}."
        )
    space = any(step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in steps)
    return Vocabulary("llama", "default", space)


def _replaces_spaces(step: Mapping[str, Any]) -> bool:
    return step["pattern"] == {"String": " "} and step["content"] == _SPACE


def _is_metaspace(step: Mapping[str, Any]) -> bool:
    return step.get("replacement") == _SPACE and step.get("split") is False


def _byte_name(byte: int) -> str:
    return f"<0x{byte:02X}>"


def _steps(part: Mapping[str, Any] | None, listed: str = "pretokenizers") -> Iterator[Mapping[str, Any]]:
    """The steps of a tokenizer.json's part, which is one or a sequence of them."""
    if part is not None:
        yield from part.get(listed, [part])


def _patterns(step: Mapping[str, Any]) -> Iterator[str]:
    """The patterns by which a step cuts text into words."""
    if step["type"] == "Split":
        yield str(step["pattern"].get("Regex"))
    elif step["type"] == "Digits" and step.get("individual_digits"):
        yield _DIGIT
    elif step["type"] == "ByteLevel":
        if step.get("use_regex", True):
            yield _GPT2
    else:
        yield str(step["type"])  # of which llama.cpp has no name
