"""Small tokenizers of Qwen2's, Llama's and SmolLM2's kinds and the checkpoint files around them, for tests."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from switchkd.chat_template import shipped_template
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


def sentencepiece_tokenizer(
    sentences: Iterable[str] = SENTENCES, rows: int = 420, *, prepend: bool = True
) -> Tokenizer:
    """Llama 2's form: <unk>, <s>, </s>, 256 bytes and pieces in which "▁" stands for a space."""
    steps = [normalizers.Prepend("▁")] * prepend + [normalizers.Replace(" ", "▁")]
    normalizer = normalizers.Sequence(steps)
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=rows - len(first), show_progress=False)
    # Words apart, so that no piece holds several.
    words = (f"▁{word}" for sentence in sentences for word in sentence.split())
    learned.train_from_iterator(words, trainer)
    model = json.loads(learned.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {token: index for index, token in enumerate([*first, *pieces])}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in first[:3]])
    return tokenizer


def smollm_tokenizer(sentences: Iterable[str] = SENTENCES, rows: int = 420) -> Tokenizer:
    """SmolLM2's form: bytes, digits one by one, GPT-2's words, and ChatML's tokens in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=rows,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def save_words(tokenizer: Tokenizer, folder: Path, **named: str) -> Path:
    """A folder from which transformers reads a tokenizer, with its named special tokens."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_prompt_files(folder: Path) -> Path:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja and a config.json naming the image token."""
    tokenizer = small_tokenizer()
    save_tokenizer(tokenizer, folder)
    (folder / "chat_template.jinja").write_text(shipped_template("chatml"))
    (folder / "config.json").write_text(json.dumps({"image_token_index": tokenizer.token_to_id(IMAGE_PAD)}))
    return folder


def small_prompt() -> ChatPrompt:
    """The project's ChatML template on the small tokenizer."""
    tokenizer = small_tokenizer()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return ChatPrompt(tokenizer, shipped_template("chatml"), tokenizer.token_to_id(IMAGE_PAD), special)
