"""The package's own text: two disjoint files, cut into pieces by any tokenizer without losing or reading anything into it."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizers import small_prompt, small_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from switchkd.passages import CALIBRATION, LONGEST, MOST, PROVING, passages, read_sections
from switchkd.prompt import ChatPrompt

SPLITS = (CALIBRATION, PROVING)
PROMPT = small_prompt()


def text_of(section) -> str:
    return section if isinstance(section, str) else "\n".join(message["content"] for message in section)


def bytes_prompt() -> ChatPrompt:
    """A tokenizer that knows every byte and nothing else: a file becomes as many tokens as it ever can."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate([*letters, "<image>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return ChatPrompt(tokenizer, "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", len(letters))


def test_what_is_proved_on_was_never_calibrated_on():
    words = {split: " ".join(map(text_of, read_sections(split))).split() for split in SPLITS}
    runs = {split: {tuple(words[split][at : at + 8]) for at in range(len(words[split]) - 7)} for split in SPLITS}
    assert len(runs[PROVING]) > 800 and len(runs[CALIBRATION]) > 3500
    assert not runs[PROVING] & runs[CALIBRATION]
    # Nor is a section a template of another: no run of words comes back but in code and tables.
    assert len(runs[CALIBRATION]) > 0.98 * (len(words[CALIBRATION]) - 7)


@pytest.mark.parametrize("split", SPLITS)
def test_chats_alternate_and_end_with_an_answer(split):
    chats = [section for section in read_sections(split) if not isinstance(section, str)]
    assert len(chats) >= 3
    for chat in chats:
        roles = [message["role"] for message in chat]
        assert roles[0] == "user" and roles[-1] == "assistant"
        assert all(one != two for one, two in pairwise(roles))
        assert all(message["content"] for message in chat)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("context", [7, 100, LONGEST, 4096])
def test_pieces_fit_and_are_of_about_the_same_length(split, context):
    prompt = bytes_prompt()
    pieces = passages(prompt, split, context=context)
    assert all(1 <= len(piece) <= min(LONGEST, context) for piece in pieces)
    assert 0.9 * MOST[split] < sum(map(len, pieces)) <= 1.1 * MOST[split]


def test_pieces_hold_the_whole_text(monkeypatch):
    monkeypatch.setitem(MOST, PROVING, 10**9)
    prompt = bytes_prompt()
    said = prompt.decode([token for piece in passages(prompt, PROVING, context=4096) for token in piece])
    written = [section if isinstance(section, str) else prompt.render(section)[0] for section in read_sections(PROVING)]
    assert said == unicodedata.normalize("NFC", "".join(written))


def test_a_file_that_is_too_long_is_used_from_all_over(monkeypatch):
    monkeypatch.setitem(MOST, PROVING, 10**9)
    whole = passages(bytes_prompt(), PROVING, context=4096)
    monkeypatch.setitem(MOST, PROVING, 1000)
    part = passages(bytes_prompt(), PROVING, context=4096)
    places = [whole.index(piece) for piece in part]
    assert places == sorted(places) and places[0] < len(whole) / 4 and places[-1] > 3 * len(whole) / 4


def test_chats_are_written_by_the_checkpoints_template():
    prompt = small_prompt()
    chat = next(section for section in read_sections(PROVING) if not isinstance(section, str))
    assert prompt.encode(chat, image_tokens=0).ids[:20] in [
        piece[:20] for piece in passages(prompt, PROVING, context=4096)
    ]


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_plain_text_is_what_the_tokenizer_reads(text):
    text = "".join(letter for letter in text if letter.isprintable())
    expected = small_tokenizer().encode(unicodedata.normalize("NFC", text), add_special_tokens=False).ids
    assert PROMPT.encode_text(text) == expected


@pytest.mark.parametrize("name", ["<|im_start|>", "<|im_end|>", "<|image_pad|>"])
def test_names_of_special_tokens_are_characters_in_plain_text(name):
    prompt = small_prompt()
    special = prompt.tokenizer.token_to_id(name)
    ids = prompt.encode_text(f"a {name} b")
    assert special not in ids
    assert prompt.decode(ids) == f"a {name} b"
