"""tokenizer.model next to the package sentencepiece itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sentencepiece_model import small_sentencepiece

from switchkd.errors import CheckpointError
from switchkd.importing.sentencepiece import read_tokenizer_model

sentencepiece = pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    path.write_bytes(small_sentencepiece())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return read_tokenizer_model(path), reference


def test_special_tokens_and_sizes(both):
    (tokenizer, special), reference = both
    assert special == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.get_vocab_size() == reference.get_piece_size()
    assert all(tokenizer.id_to_token(number) == reference.id_to_piece(number) for number in range(len(reference)))
    assert tokenizer.encode("a red car").ids == [1, *reference.encode("a red car")]


WORDS = [
    "a red car",
    "  two  spaces",
    "Straße",
    "你好",
    "🚗",
    "\n",
    "USER: ",
    "answers'",
    "xyzxyz",
    "1234",
    "\t|",
    "ab",
]
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0<▁"), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(text=texts | st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join))
def test_texts_get_the_same_ids_and_come_back(both, text):
    (tokenizer, _), reference = both
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == reference.encode(text)
    assert tokenizer.decode(ids) == reference.decode(ids) == text


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, b"hello world, this is no model", b"\x0a\x05\x0a\x50abc"])
def test_what_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read_tokenizer_model(path)


def test_a_torn_one_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(small_sentencepiece()[:3000])
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read_tokenizer_model(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "unigram"}, "isn't byte-pair encoding"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes text"),
        ({"remove_extra_whitespaces": True}, "changes text"),
    ],
)
def test_other_kinds_are_refused(options, words, tmp_path):
    usual = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    with (tmp_path / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a red car", "two blue cars"] * 9),
            **{
                "model_writer": stream,
                "vocab_size": 20,
                "hard_vocab_limit": False,
                "minloglevel": 2,
                **usual,
                **options,
            },
        )
    with pytest.raises(CheckpointError, match=words):
        read_tokenizer_model(tmp_path / "tokenizer.model")


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 1 << 20), bytes_=st.binary(min_size=1, max_size=6), cut=st.booleans())
def test_damage_ends_in_one_line(tmp_path_factory, place, bytes_, cut):
    content = bytearray(small_sentencepiece())
    place %= len(content)
    content[place : place + len(bytes_)] = bytes_
    path = tmp_path_factory.getbasetemp() / "damaged.model"
    path.write_bytes(content[: place + 1] if cut else content)
    try:
        read_tokenizer_model(path)
    except CheckpointError as error:
        assert str(path) in str(error) and "\n" not in str(error)
