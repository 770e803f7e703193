"""Drawn answers, several of them, their tokens' probabilities, and forms: what the server sends is what the engine says."""

import json
import signal
import subprocess
import sys
from functools import partial

import openai
import pytest
from support.llava_models import picture, question
from support.serving import PATIENCE, about, data_url, refused, running

from switchkd.runtime.engines.choices import weigh
from switchkd.runtime.engines.logprobs import score
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.sampler import chooser
from switchkd.runtime.engines.sampling import Sampling

DRAWN = {"temperature": 1.5, "top_p": 0.95, "seed": 7, "presence_penalty": 0.3}
ASKED = about(data_url(1))


def own(engine, sampling, tokens=12, index=0):
    """(ids of the engine's own answer, its text)"""
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture(1))
    choose = chooser(sampling.numbered(index), ids)
    said = list(engine.tokens(ids, features, max_new_tokens=tokens, choose=choose))
    return said, "".join(engine.pieces(said))


def chunks_of(served, **options):
    return list(served.ask(ASKED, stream=True, **options))


def test_settings_are_the_requests(engine, served):
    drawn = own(engine, Sampling(**DRAWN))[1]
    assert served.ask(ASKED, **DRAWN).choices[0].message.content == drawn != own(engine, Sampling())[1]
    extra = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.4}
    text = own(engine, Sampling(temperature=1.0, seed=1, **extra))[1]
    assert served.ask(ASKED, temperature=1, seed=1, extra_body=extra).choices[0].message.content == text
    assert served.ask(ASKED, temperature=1, seed=1).choices[0].message.content != text


def test_settings_of_the_server_hold_where_a_request_says_nothing(engine):
    usual = Sampling(temperature=1.5, repetition_penalty=1.3)
    with running(engine, rules={"sampling": usual}) as served:
        answers = {served.ask(ASKED, seed=seed).choices[0].message.content for seed in (1, 2, 1)}
        assert answers == {own(engine, Sampling(1.3, temperature=1.5, seed=seed))[1] for seed in (1, 2)}
        assert len(answers) == 2
        greedy = served.ask(ASKED, temperature=0, extra_body={"repetition_penalty": 1}).choices[0]
        assert greedy.message.content == own(engine, Sampling())[1]


def test_options_of_the_command_line_are_the_servers(shelf):
    export = shelf.export("gguf", "f16")
    command = [sys.executable, "-m", "switchkd.cli", "serve", str(export), "--port", "0", "--threads", "1", "--strict"]
    usual = {"temperature": 1.5, "top_p": 0.9, "top_k": 60, "min_p": 0.001, "repetition_penalty": 1.3}
    command += [word for name, value in usual.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        url = process.stdout.readline().strip().partition(" answers at ")[2]
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
        ask = partial(client.chat.completions.create, model=export.name, messages=ASKED, max_tokens=12)
        with open_engine(export, threads=1) as engine:
            assert ask(seed=2).choices[0].message.content == own(engine, Sampling(**usual, seed=2))[1]
        with pytest.raises(openai.BadRequestError, match="--strict"):
            ask(extra_body={"new": 1})
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_several_answers(engine, served):
    expected = [own(engine, Sampling(**DRAWN), index=index) for index in range(3)]
    whole = served.ask(ASKED, n=3, **DRAWN)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [choice.message.content for choice in whole.choices] == [text for _, text in expected]
    assert len({text for _, text in expected}) == 3
    alone = served.ask(ASKED, **DRAWN).usage
    assert whole.usage.prompt_tokens == alone.prompt_tokens and whole.usage.completion_tokens > alone.completion_tokens
    texts = ["", "", ""]
    chunks = chunks_of(served, n=3, stream_options={"include_usage": True}, **DRAWN)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [text for _, text in expected]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    reasons = [(choice.index, choice.finish_reason) for chunk in chunks for choice in chunk.choices]
    ends = {index: reason for index, reason in reasons if reason}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}


@pytest.mark.parametrize("options", [{}, DRAWN], ids=["greedy", "drawn"])
def test_tokens_come_with_their_probabilities(engine, served, options):
    said, text = own(engine, Sampling(**options))
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture(1))
    rows = [row.copy() for row in engine.follow(ids, said, features)]
    choice = served.ask(ASKED, logprobs=True, top_logprobs=4, **options).choices[0]
    assert choice.message.content == text
    content = choice.logprobs.content
    assert len(content) == len(said)
    for entry, token, row in zip(content, said, rows, strict=True):
        expected = score(row, token, 4)
        assert entry.logprob == pytest.approx(expected.logprob, abs=1e-5)
        assert [each.logprob for each in entry.top_logprobs] == pytest.approx(
            [value for _, value in expected.top], abs=1e-5
        )
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
    whole = b"".join(bytes(entry.bytes) for entry in content).decode(errors="replace")
    assert whole.startswith(text.rstrip("\ufffd"))
    plain = served.ask(ASKED, logprobs=True, **options).choices[0].logprobs.content
    assert [entry.logprob for entry in plain] == [entry.logprob for entry in content]
    assert not any(entry.top_logprobs for entry in plain)
    assert served.ask(ASKED, **options).choices[0].logprobs is None
    streamed = [
        entry
        for chunk in chunks_of(served, logprobs=True, top_logprobs=4, **options)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == content


def test_probabilities_end_where_a_stop_text_does(engine, served):
    text = served.ask(ASKED).choices[0].message.content
    for stop in (text[2:5], text[4:6]):
        choice = served.ask(ASKED, stop=stop, logprobs=True).choices[0]
        kept = text[: text.index(stop)]
        assert choice.message.content == kept
        begun = "".join(entry.token for entry in choice.logprobs.content)
        assert begun.startswith(kept) and "".join(entry.token for entry in choice.logprobs.content[:-1]) != begun
        assert len("".join(entry.token for entry in choice.logprobs.content[:-1])) < len(kept)


def test_a_schema_without_the_package_that_follows_it(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    error = refused(served, 400, ASKED, response_format={"type": "json_object"})
    assert "switchkd[schema]" in error["message"] and error["param"] == "response_format"
    assert served.ask(ASKED, extra_body={"choices": ["two", "no"]}).choices[0].message.content in ("two", "no")


def test_choices(engine, served):
    words = ["two cars", "two", "red", "no"]
    features, ids = engine.encode_image(picture(1)), engine.encode_prompt(question())
    expected = weigh(engine, question(), ids, features, words)
    best = max(expected.probabilities, key=expected.probabilities.get)
    for name in ("choices", "guided_choice"):
        choice = served.ask(ASKED, logprobs=True, extra_body={name: words}).choices[0]
        assert (choice.message.content, choice.finish_reason) == (best, "stop")
        assert choice.choice_probabilities == pytest.approx(dict(expected.probabilities), rel=1e-5)
        assert "".join(entry.token for entry in choice.logprobs.content) == best
    chunks = chunks_of(served, extra_body={"choices": words})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == best
    assert chunks[-1].choices[0].choice_probabilities == pytest.approx(dict(expected.probabilities), rel=1e-5)
    drawn = served.ask(ASKED, n=16, temperature=3, seed=1, extra_body={"choices": words}).choices
    assert {choice.message.content for choice in drawn} <= set(words) and len({c.message.content for c in drawn}) > 1
    assert served.ask(ASKED, extra_body={"choices": ["only"]}).choices[0].choice_probabilities == {"only": 1}


@pytest.mark.parametrize("options", [{}, {"temperature": 2, "seed": 3}], ids=["greedy", "drawn"])
def test_schemas(served, options):
    schema = {
        "type": "object",
        "properties": {"light": {"enum": ["red", "green"]}, "cars": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["light", "cars"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "scene", "strict": True, "schema": schema}}
    answers = served.ask(ASKED, response_format=form, max_tokens=200, n=2, **options).choices
    for choice in answers:
        value = json.loads(choice.message.content)
        assert choice.finish_reason == "stop" and value["light"] in ("red", "green") and 0 <= value["cars"] <= 99
    chunks = chunks_of(served, response_format=form, max_tokens=200, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answers[0].message.content
    free = served.ask(ASKED, response_format={"type": "json_object"}, max_tokens=5, **options).choices[0]
    assert free.message.content.startswith("{") and free.finish_reason in ("length", "stop")


def test_an_answer_tells_its_seconds_by_phase(served):
    """Whole or streamed, they are the ones that the metrics sum up."""
    told = [
        served.ask(ASKED).timings,
        chunks_of(served, stream_options={"include_usage": True})[-1].timings,
        served.ask([{"role": "user", "content": "is it red ?"}]).timings,
    ]
    assert told[2]["encode"] == 0
    lines = dict(line.rsplit(" ", 1) for line in served.app._metrics.text().decode().splitlines() if line[0] != "#")
    for phase in ("encode", "prefill", "decode"):
        whole = float(lines[f'skd_phase_seconds_sum{{phase="{phase}"}}'])
        assert sum(each[phase] for each in told) == pytest.approx(whole, abs=1e-5), phase
    assert sum(each["wait"] for each in told) == pytest.approx(float(lines["skd_wait_seconds_sum"]), abs=1e-5)
    assert not any(hasattr(chunk, "timings") for chunk in chunks_of(served))  # as no usage is asked for
