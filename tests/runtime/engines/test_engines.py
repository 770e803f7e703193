"""Both engines behind one protocol: the reference equals transformers, llama.cpp remembers what it may and no more."""

import unicodedata

import numpy as np
import pytest
import torch
from support.answers import sure_picture
from support.languages import make_student
from support.llava_models import picture, question

from switchkd.errors import DataError
from switchkd.models.vlm import load_vlm
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def checkpoint(shelf):
    return shelf.checkpoint()


@pytest.fixture(scope="module", params=["f16", "q4"])
def folder(request, shelf):
    return shelf.export("gguf", request.param)


@pytest.fixture
def engine(folder):
    with open_engine(folder, threads=1) as engine:
        yield engine


def test_the_reference_engine_is_transformers(checkpoint):
    vlm = load_vlm(checkpoint).eval()
    with open_engine(checkpoint, threads=1) as engine:
        engine.end_tokens = frozenset()
        shown = sure_picture(engine, 12)
        ids = engine.encode_prompt(question())
        pixels = torch.from_numpy(engine.preprocess(shown))[None]
        features = engine.encode_image(shown)
        with torch.inference_mode():
            plain = vlm(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].numpy()
            generated = vlm.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                pixel_values=pixels,
                do_sample=False,
                min_new_tokens=12,
                max_new_tokens=12,
                eos_token_id=None,
            )[0, len(ids) :]
        np.testing.assert_allclose(engine.language.prefill(ids, features, every=True), plain, atol=1e-5)
        assert list(engine.tokens(ids, features, max_new_tokens=12)) == generated.tolist()


def test_twenty_alternating_pictures_give_what_fresh_engines_give(folder):
    """No stale picture: to the last bit, whatever was asked before."""
    requests = [
        (question("is it red ?", before="look :" * (index // 6)), picture(index % 4))
        if index % 5
        else ([{"role": "user", "content": "is it red ?"}], None)
        for index in range(20)
    ]
    fresh = []
    for messages, image in requests:
        with open_engine(folder, threads=1, verify=False) as engine:
            fresh.append(ask(engine, messages, image))
    reused = []
    with open_engine(folder, threads=1) as engine:
        for (messages, image), expected in zip(requests, fresh, strict=True):
            np.testing.assert_array_equal(ask(engine, messages, image), expected)
            reused.append(engine.timings.reused_tokens)
    assert {count > 0 for count in reused} == {True, False}


@pytest.mark.parametrize("count", [1, 2, 9])
def test_following_an_answer_gives_the_rows_it_is_chosen_from(engine, count):
    engine.end_tokens = frozenset()
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
    said = list(engine.tokens(ids, features, max_new_tokens=count))
    rows = list(engine.follow(ids, said, features))
    assert [int(row.argmax()) for row in rows] == said
    other = [3, *said[1:]]  # it goes along with what it wouldn't say
    changed = list(engine.follow(ids, other, features))
    np.testing.assert_array_equal(changed[0], rows[0])
    assert count == 1 or not np.array_equal(changed[1], rows[1])
    assert list(engine.follow(ids, [], features)) == []


def ask(engine, messages, image):
    """Logits of the first tokens of an answer [A, V]."""
    features = None if image is None else engine.encode_image(image)
    rows = [engine.prefill(engine.encode_prompt(messages), features)]
    for _ in range(3):
        rows.append(engine.next_token(int(rows[-1].argmax())))
    return np.stack(rows)


def test_pictures_matter(engine):
    first, second = (ask(engine, question(), picture(seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3


def test_only_an_equal_prefix_is_used_again(engine):
    prefix = len(
        engine.encode_prompt(question())[: engine.encode_prompt(question()).index(engine.prompt.image_token_id)]
    )
    seen = []
    for before in ("", "", "look :", "look :", "", ""):
        ask(engine, question(before=before), picture())
        seen.append(engine.timings.reused_tokens)
    longer = seen[3]
    assert seen == [0, prefix, 0, longer, 0, prefix] and longer > prefix > 0
    ask(engine, [{"role": "user", "content": "is it red ?"}], None)
    assert engine.timings.reused_tokens == 0
    ask(engine, question(), picture())
    assert engine.timings.reused_tokens == 0  # the text-only prompt is no prefix


def test_an_interrupted_request_leaves_no_prefix(engine, monkeypatch):
    """A prompt that failed half-way isn't taken for read by the next one."""
    expected = ask(engine, question(before="look :"), picture())
    decode = type(engine.language)._decode
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.language), "_decode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(engine, question(), picture())
    assert type(engine.language)._decode is decode
    ask(engine, question(), picture())
    np.testing.assert_array_equal(ask(engine, question(before="look :"), picture()), expected)
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.language), "_decode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(engine, question(before="look :"), picture())
    np.testing.assert_array_equal(ask(engine, question(before="look :"), picture()), expected)


def test_logits_after_every_position_agree_with_one_by_one(engine):
    ids = engine.encode_prompt(question())
    features = engine.encode_image(picture())
    every = engine.language.prefill(ids, features, every=True)
    assert every.shape == (len(ids), 410) and every.dtype == np.float32
    np.testing.assert_allclose(every[-1], engine.language.prefill(ids, features), atol=0.05)
    cut = len(ids) - 3
    rows = [engine.language.prefill(ids[:cut], features)] + [engine.next_token(token) for token in ids[cut:]]
    np.testing.assert_allclose(np.stack(rows), every[cut - 1 :], atol=0.05)


def test_generation_stops_at_the_end_token_and_at_the_limit(engine):
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
    engine.end_tokens = frozenset()
    said = list(engine.tokens(ids, features, max_new_tokens=10))
    assert len(said) == 10 and engine.timings.new_tokens == 10
    engine.end_tokens = frozenset({said[0]})
    assert list(engine.tokens(ids, features)) == [] and engine.timings.new_tokens == 1


def test_the_context_is_a_limit(folder):
    with open_engine(folder, threads=1, context=64) as engine:
        engine.end_tokens = frozenset()
        ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
        assert len(list(engine.tokens(ids, features, max_new_tokens=1000))) == engine.language.context - len(ids)
        with pytest.raises(DataError, match="more than the context of"):
            engine.encode_prompt(question("is it red ? " * 100))


def test_the_context_of_a_checkpoint_is_a_limit_too(checkpoint):
    with open_engine(checkpoint, threads=1, context=64) as engine:
        engine.end_tokens = frozenset()
        ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
        assert len(list(engine.tokens(ids, features, max_new_tokens=1000))) == 64 - len(ids)
    with open_engine(checkpoint, threads=1, context=10**9) as engine:
        assert engine.language.context == load_vlm(checkpoint).config.text_config.max_position_embeddings


def test_streamed_pieces_are_whole_characters(engine):
    """Tokens that are single bytes of 'ß信🚦', then an unfinished character."""
    text = "ß信🚦 yes"
    ids = engine.prompt.tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > len(text.encode()) - 4  # bytes, mostly
    engine.tokens = lambda *_, **__: iter(
        [*ids, *engine.prompt.tokenizer.encode("é", add_special_tokens=False).ids[:1]]
    )
    pieces = list(engine.generate(question(), np.zeros((16, 64), np.float32)))
    assert "".join(pieces[:-1]) == text and pieces[-1] == "\ufffd"
    assert not any("\ufffd" in piece for piece in pieces[:-1])


def test_streamed_pieces_keep_their_spaces(shelf):
    """SentencePiece's decoder takes the first space of whatever it is given for its own."""
    vicuna = shelf.once("language-vicuna", lambda folder: make_student(folder, "vicuna", feature_layer=-2))
    with open_engine(vicuna, threads=1) as engine:
        text = "a red car  is on the left ß信🚦 yes"
        tokenizer = engine.prompt.tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        pieces = list(engine.pieces(ids))
        assert "".join(pieces) == text == tokenizer.decode(ids) and len(pieces) > 8
        assert not any("\ufffd" in piece for piece in pieces)
        end = tokenizer.token_to_id("</s>")
        assert "".join(engine.pieces([end, *ids])) == text


def test_decomposed_text_is_read_as_composed(engine):
    composed, decomposed = "Straße naïve é", unicodedata.normalize("NFD", "Straße naïve é")
    assert composed != decomposed
    assert engine.encode_prompt(question(composed)) == engine.encode_prompt(question(decomposed))


def test_a_picture_too_many_or_too_few(engine):
    features = engine.encode_image(picture())
    with pytest.raises(DataError, match="don't match"):
        list(engine.generate([{"role": "user", "content": "hi"}], features))
    with pytest.raises(DataError, match="don't match"):
        list(engine.generate(question()))


def test_timings_cover_every_phase(engine):
    engine.end_tokens = frozenset()
    engine.answer(question(), picture(), max_new_tokens=5)
    timings = engine.timings
    assert min(timings.preprocess, timings.encode, timings.prefill, timings.decode) > 0
    assert timings.first_token == timings.preprocess + timings.encode + timings.prefill
    assert timings.prompt_tokens == len(engine.encode_prompt(question()))
    engine.answer([{"role": "user", "content": "is it red ?"}], max_new_tokens=2)
    assert engine.timings.encode == 0 and engine.load_seconds > 0
