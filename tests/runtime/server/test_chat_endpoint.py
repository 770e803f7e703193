"""The endpoint through OpenAI's own client: what it answers is what the engine answers."""

import json
import urllib.request

import openai
import pytest
from support.llava_models import picture, question
from support.serving import about, data_url


def expected(engine, messages, image=None, tokens=12):
    """The engine's own answer: text, tokens read and decoded, why it ended."""
    features = None if image is None else engine.encode_image(image)
    text = "".join(engine.generate(messages, features, max_new_tokens=tokens))
    timings = engine.timings
    return text, timings.prompt_tokens, timings.new_tokens, "stop" if timings.ended else "length"


def seen(completion):
    choice, usage = completion.choices[0], completion.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return choice.message.content, usage.prompt_tokens, usage.completion_tokens, choice.finish_reason


def test_pictures_and_text_get_the_engines_answers(engine, served):
    plain = [{"role": "user", "content": "is it red ?"}]
    assert seen(served.ask(plain)) == expected(engine, plain)
    answers = set()
    for seed in range(4):
        answer = seen(served.ask(about(data_url(seed))))
        # PNG keeps every pixel, so the picture is the same to the last bit.
        assert answer == expected(engine, question(), picture(seed))
        answers.add(answer)
    assert len(answers) > 1


def test_an_end_token_ends_an_answer(engine, served):
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture(1))
    engine.end_tokens = frozenset({list(engine.tokens(ids, features, max_new_tokens=12))[2]})
    answer = seen(served.ask(about(data_url(1))))
    assert answer == expected(engine, question(), picture(1)) and answer[2:] == (3, "stop")


def test_turns_keep_their_picture(engine, served):
    first = question("how many cars ?")
    turns = [
        {"role": "system", "content": "be short"},
        first[0],
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "is it red ?"},
    ]
    sent = [{"role": "developer", "content": "be short"}, *about(data_url(1)), *turns[2:]]
    assert seen(served.ask(sent)) == expected(engine, turns, picture(1))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF"])
def test_other_picture_formats(served, form):
    assert served.ask(about(data_url(1, form))).choices[0].message.content


def test_a_stream_is_the_whole_answer_in_pieces(served):
    whole = served.ask(about(data_url(1)))
    chunks = list(served.ask(about(data_url(1)), stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content and sum(map(bool, pieces)) > 2
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump() and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1
    assert all("usage" in chunk.model_fields_set for chunk in chunks) and not any(chunk.usage for chunk in chunks[:-1])
    plain = served.ask(about(data_url(1)), stream=True)
    assert not any("usage" in chunk.model_fields_set for chunk in plain)


def readable(engine):
    """A picture whose answer's first tokens are whole characters each."""
    for seed in range(20):
        ids, features = engine.encode_prompt(question()), engine.encode_image(picture(seed))
        tokens = list(engine.tokens(ids, features, max_new_tokens=4))
        texts = [engine.prompt.decode([token]) for token in tokens]
        if len(texts) == 4 and all(text and "\ufffd" not in text for text in texts):
            return data_url(seed)
    raise AssertionError("the student says nothing readable")


def test_pieces_arrive_while_the_answer_is_made(engine, gate, served):
    """Each step of the model is let through only when the piece before it has arrived."""
    gate.allow(4 * 20)
    url = readable(engine)
    gate.close()
    stream = iter(served.ask(about(url), stream=True, max_tokens=6))
    next(stream)  # the role
    for count in range(1, 4):
        assert next(stream).choices[0].delta.content
        gate.wait_for_a_step()
        assert gate.steps == count
        gate.allow(1)
    gate.allow()
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


def test_lengths(engine, served):
    engine.end_tokens = frozenset()
    for options, count in (
        ({}, 12),
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": None}, 12),
    ):
        completion = served.ask(about(data_url()), **options)
        assert (completion.usage.completion_tokens, completion.choices[0].finish_reason) == (count, "length")


def test_stop_texts(served):
    text = served.ask(about(data_url(1))).choices[0].message.content
    stop = text[2:5]
    for stops in (stop, [stop], ["never", stop]):
        choice = served.ask(about(data_url(1)), stop=stops).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")
        chunks = list(served.ask(about(data_url(1)), stop=stops, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[: text.index(stop)]
    assert served.ask(about(data_url(1)), stop=[text + "!"]).choices[0].message.content == text


def test_what_changes_nothing_may_be_said(served):
    fields = {"temperature": 0, "top_p": 1, "n": 1, "seed": 3, "user": "a", "response_format": {"type": "text"}}
    assert seen(served.ask(about(data_url(1)), **fields)) == seen(served.ask(about(data_url(1))))


def test_models_health_and_metrics(served):
    (model,) = served.client.models.list()
    assert model.id == served.app.model == served.client.models.retrieve(model.id).id
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("other")
    base = served.url.removesuffix("/v1")
    with urllib.request.urlopen(f"{base}/health") as response:
        assert json.load(response) == {"status": "ok", "model": model.id, "waiting": 0}
    completion = served.ask(about(data_url()))
    with pytest.raises(openai.BadRequestError):
        served.ask(about(data_url()), temperature=-1)
    with urllib.request.urlopen(f"{base}/metrics") as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
    usage = completion.usage
    assert {name: float(lines[name]) for name in lines if name.startswith("skd_") and "total" in name} == {
        'skd_requests_total{status="200"}': 1,
        'skd_requests_total{status="400"}': 1,
        'skd_tokens_total{kind="prompt"}': usage.prompt_tokens,
        'skd_tokens_total{kind="decoded"}': usage.completion_tokens,
        "skd_pictures_total": 1,
    }
    assert float(lines["skd_request_seconds_count"]) == 1 and float(lines["skd_request_seconds_sum"]) > 0
    assert float(lines['skd_phase_seconds_count{phase="encode"}']) == 1
    assert float(lines["process_resident_memory_bytes"]) > 1e7
