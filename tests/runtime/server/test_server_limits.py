"""What the server refuses, and with which status; that it goes on afterwards; that nobody can hold it up."""

import contextlib
import json
import socket

import openai
import pytest
from support.serving import (
    HEAD,
    HELLO,
    PATIENCE,
    about,
    data_url,
    in_background,
    post,
    raw,
    refused,
    running,
    wait_in_queue,
)

from switchkd.runtime.server import serve
from switchkd.runtime.server.picture import PICTURE_FORMATS


def test_unsupported_fields_are_named(served):
    for field, value in {
        "temperature": -1,
        "n": 20,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "max_tokens": 0,
        "stop": ["a"] * 5,
        "stream_options": {"include_usage": True},
    }.items():
        assert refused(served, 400, **{field: value})["param"] == field
    for field, value in (
        ("stop", 0),
        ("stop", False),
        ("stop", {}),
        ("stream", 0),
        ("stream", ""),
        ("stream_options", 0),
    ):
        assert refused(served, 400, extra_body={"stream": True, field: value})["param"] == field
    assert refused(served, 400, stream=True, stream_options={"include_usage": 0})["param"] == "stream_options"
    assert refused(served, 400, max_tokens=0, max_completion_tokens=1)["param"] == "max_tokens"
    assert "from 0 to 100" in refused(served, 400, temperature=-2)["message"]
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert "calls no tools" in refused(served, 400, tools=tools)["message"]
    assert refused(served, 404, model="other")["code"] == "model_not_found"
    assert served.ask(HELLO).choices


def test_malformed_messages(served):
    picture = {"type": "image_url", "image_url": {"url": data_url()}}
    for messages, place in (
        ([], "messages"),
        ([{"role": "tool", "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0]"),
        ([{"role": "assistant", "content": [picture]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [picture] * 5}], "messages[0].content[4].image_url"),
        ([{"role": "user", "content": [{**picture, "image_url": {}}]}], "messages[0].content[0]"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "a", "prefix": True}], "messages[0].prefix"),
        ([{"role": "user", "content": [{**picture, "text": "a"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "\ufdd0"}], "messages"),
        ([{"role": "user", "content": "a" + "\u0316\u0301" * 20_000}], "messages"),  # quadratic, were it normalized
    ):
        assert refused(served, 400, messages)["param"] == place
    said = {"role": "assistant", "content": "", "refusal": None, "tool_calls": []}
    assert served.ask([*HELLO, said, *HELLO]).choices
    assert served.ask(HELLO).choices


def test_bodies_that_are_no_request(served):
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": 1}',
        b'{"a": ' + b"9" * 9_000 + b"}",
    ):
        assert post(served, body) == 400, body[:20]
    surrogate = json.dumps({"model": "\ud800", "messages": HELLO})
    assert post(served, surrogate) == 404
    surrogate = json.dumps({"model": served.app.model, "messages": [{"role": "user", "content": "\ud800"}]})
    assert post(served, surrogate) == 400
    assert raw(served, "BREW /coffee\r\n\r\n")[0] == 400
    assert raw(served, "GET /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 405
    assert raw(served, "GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 404
    plain = HEAD.replace("application/json", "text/plain")
    assert raw(served, plain, "Content-Length: 2\r\n\r\n{}")[0] == 415
    assert served.ask(HELLO).choices


def test_pictures_that_are_refused(served):
    good = data_url()
    head, comma, data = good.partition(",")
    torn = head + comma + data[: len(data) // 8 * 4]
    for url, status, code in (
        ("https://example.org/a.png", 400, None),
        ("file:///etc/passwd", 400, None),
        ("data:image/png,abc", 400, None),
        ("data:image/png;base64,????", 400, None),
        ("data:image/png;base64,QUJDR", 400, None),  # bits are missing
        ("data:image/png;base64,QUJDRA==", 422, "invalid_image"),
        ("data:image/png;base64,", 422, "invalid_image"),
        (torn, 422, "invalid_image"),
        (data_url(form="BMP"), 422, "invalid_image"),
        (data_url(width=2, height=600), 422, "invalid_image"),
        (data_url(width=400, height=251), 422, "invalid_image"),  # 100,400 pixels
        ("data:image/png;base64," + "A" * 133_400, 413, "picture_too_large"),
    ):
        error = refused(served, status, about(url))
        assert (error["param"], error["code"]) == ("messages[0].content[0].image_url", code), url[:40]
        assert "0x" not in error["message"]  # no addresses of ours
    assert "BMP" not in PICTURE_FORMATS and served.ask(about(good)).choices


def test_a_large_request_is_refused_before_it_has_arrived(served):
    assert raw(served, HEAD, "Content-Length: 200001\r\n\r\n{")[0] == 413
    assert post(served, b" " * 200_001) == 413
    piece = b"%x\r\n" % 50_000 + b" " * 50_000 + b"\r\n"
    assert raw(served, HEAD, "Transfer-Encoding: chunked\r\n\r\n", *[piece] * 5)[0] == 413
    assert refused(served, 413, [{"role": "user", "content": "a" * 200_000}])["code"] == "request_too_large"
    assert served.ask(HELLO).choices


def test_text_that_cannot_fit(engine, served, monkeypatch):
    assert "more than the context" in refused(served, 400, [{"role": "user", "content": "a b " * 4000}])["message"]
    monkeypatch.setattr(engine, "encode_prompt", None)  # these aren't even tokenized
    assert refused(served, 400, [{"role": "user", "content": "a" * 190_000}])["code"] == "context_length_exceeded"
    many = {"model": served.app.model, "messages": [{"role": "user", "content": ""}] * 4100}
    assert engine.language.context < 4100 and post(served, json.dumps(many)) == 400


def test_the_engine_fails(engine, served, caplog):
    decode = engine.language
    engine.language = None
    assert refused(served, 500)["code"] == "engine_error"
    engine.language = decode
    assert served.ask(HELLO).choices and "an answer failed" in caplog.text


def test_a_full_queue_and_its_order(gate, engine):
    with running(engine, waiting=2) as served:
        asked, order = [], []

        def ask(number):
            served.ask(about(data_url(number)), max_tokens=2)
            order.append(number)

        for number in range(3):
            asked.append(in_background(ask, number)[0])
            if number == 0:
                gate.wait_for_a_step()
            else:
                wait_in_queue(served, number)
        error = refused(served, 429)
        assert error["code"] == "queue_full" and gate.steps == 1
        assert post(served, "{}") == 429
        gate.allow()
        for thread in asked:
            thread.join(PATIENCE)
        assert sorted(order) == [0, 1, 2] and served.ask(HELLO).choices


def test_an_answer_that_takes_too_long(gate, engine):
    with running(engine, request_seconds=1.0) as served:
        assert refused(served, 504)["code"] == "timeout"
        waiting = refused(served, 504)  # the engine hasn't come back from the step before
        assert waiting["type"] == "timeout_error" and served.app._queue.busy and served.app._queue.waiting == 0
        gate.allow()
    assert gate.steps == 1  # the first ended at its next token, the second was never begun
    with running(engine) as served:
        assert served.ask(HELLO).usage.completion_tokens == 12


def test_a_stream_that_takes_too_long_ends_with_an_error(gate, engine):
    with running(engine, request_seconds=2.0) as served:
        pieces = []
        with pytest.raises(openai.APIError, match=r"took more than 2 s"):
            pieces.extend(served.ask(about(data_url(1)), stream=True))
        gate.allow()


def test_a_request_that_does_not_arrive(engine):
    with running(engine, upload_seconds=0.2, waiting=0) as served:
        status, reply = raw(served, HEAD, 'Content-Length: 100\r\n\r\n{"model": ')
        assert status == 408 and b"upload_timeout" in reply
        assert raw(served, HEAD, "Content-Length: 2\r\n\r\n{}")[0] == 400  # its place in the queue is free again


def test_a_client_that_goes_away(gate, engine):
    with running(engine) as served:
        body = json.dumps({"model": served.app.model, "messages": HELLO})
        for number in range(2):  # one is being answered, the other waits
            connection = socket.create_connection(("127.0.0.1", served.port), PATIENCE)
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            if number == 0:
                gate.wait_for_a_step()
                first = connection
        wait_in_queue(served, 1)
        first.close()
        connection.close()
        while b'skd_requests_total{status="499"} 2' not in served.app._metrics.text():
            served.client.models.list()
        assert served.app._queue.waiting == 0
        gate.allow()
    assert gate.steps == 1


def test_a_streams_reader_that_goes_away(gate, engine):
    with running(engine) as served:
        stream = served.ask(about(data_url(1)), stream=True, max_tokens=100)
        next(iter(stream))
        gate.wait_for_a_step()
        stream.close()
        while served.app._queue._current._end is None:
            served.client.models.list()
        gate.allow()
    assert gate.steps == 1


def test_stalled_connections_are_closed(engine, monkeypatch):
    monkeypatch.setattr(serve, "STALL_SECONDS", 0.3)
    with running(engine) as served:
        for head in (b"", b"POST /v1/chat", HEAD.encode()):
            with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as connection:
                connection.sendall(head)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100) == b""
        unread = pytest.raises((ConnectionResetError, BrokenPipeError))
        with socket.socket() as connection, unread:
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # full sooner
            connection.connect(("127.0.0.1", served.port))
            while True:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        assert served.ask(HELLO).choices
