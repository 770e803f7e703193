"""Several pictures in a conversation: the engine's own answers, in the pictures' order; limits, and what the log tells."""

import pytest
from support.llava_models import picture, question
from support.serving import about, data_url, refused, running

IMAGE = {"type": "image"}
ASKED = {"type": "text", "text": "how many cars ?"}


def shown(*seeds):
    return [{"type": "image_url", "image_url": {"url": data_url(seed)}} for seed in seeds]


def answer(engine, messages, *seeds):
    engine.new_request()
    features = engine.encode_images([picture(seed) for seed in seeds])
    return "".join(engine.generate(messages, features, max_new_tokens=12))


def said(served, messages):
    return served.ask(messages).choices[0].message.content


def test_in_one_message(engine, served):
    messages = [{"role": "user", "content": [IMAGE, IMAGE, ASKED]}]
    got = {
        seeds: said(served, [{"role": "user", "content": [*shown(*seeds), ASKED]}])
        for seeds in ((1, 2), (2, 1), (1, 1), (3, 0))
    }
    for seeds, text in got.items():
        assert text == answer(engine, messages, *seeds)
    assert len(set(got.values())) > 1
    assert served.app._metrics.text().count(b"skd_pictures_total 8.0") == 1


def test_over_the_conversation(engine, served):
    turns = [*question(), {"role": "assistant", "content": "two"}, *question("and here ?")]
    sent = [*about(data_url(1)), turns[1], *about(data_url(3), "and here ?")]
    assert said(served, sent) == answer(engine, turns, 1, 3)
    stream = served.ask(sent, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer(engine, turns, 1, 3)


def test_limits(engine):
    four = [{"role": "user", "content": [*shown(0, 1, 2, 3), ASKED]}]
    with running(engine, pictures=3) as served:
        error = refused(served, 400, four)
        assert error["code"] == "too_many_pictures" and error["param"] == "messages[0].content[3].image_url"
        assert error["message"] == "The conversation has 4 pictures; this server takes 3 (--max-pictures)."
        assert said(served, [{"role": "user", "content": [*shown(0, 1, 2), ASKED]}])
    size = len(data_url(0)) + 300
    with running(engine, request_bytes=2 * size) as served:  # their sum
        assert said(served, about(data_url(0)))
        assert refused(served, 413, [{"role": "user", "content": [*shown(0, 0, 0), ASKED]}])


def test_more_than_the_context_are_refused_before_any_is_decoded(engine, monkeypatch):
    language, tokens = engine.language, engine.image_tokens
    torn = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJDRA=="}}
    with running(engine, pictures=9) as served:
        monkeypatch.setattr(language, "context", 3 * tokens)
        error = refused(served, 400, [{"role": "user", "content": [*shown(0, 1), torn, ASKED]}])
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
        assert error["message"] == f"3 pictures take {3 * tokens} tokens, more than the context of {3 * tokens}."
        # With the words: told with what the pictures take of it.
        monkeypatch.setattr(language, "context", 2 * tokens + 1)
        error = refused(served, 400, [{"role": "user", "content": [*shown(0, 1), ASKED]}])
        assert f"{2 * tokens} of them for 2 pictures" in error["message"]
        monkeypatch.setattr(language, "context", 2048)
        error = refused(served, 422, [{"role": "user", "content": [*shown(0), torn, ASKED]}])
        assert error["param"] == "messages[0].content[1].image_url"


@pytest.mark.parametrize(("trained", "told"), [(1, True), (2, False), (None, False)])
def test_the_log_tells_once_that_a_student_has_seen_fewer(engine, caplog, monkeypatch, trained, told):
    caplog.set_level("INFO", "skd.serve")
    monkeypatch.setattr(engine, "trained_pictures", trained)
    with running(engine) as served:
        for _ in range(2):
            assert said(served, [{"role": "user", "content": [*shown(0, 1), ASKED]}])
            assert said(served, about(data_url(0)))
    line = f"{engine.name} was trained on conversations with at most one picture; what it says of more is a guess."
    assert caplog.messages.count(line) == int(told)
