"""Clients that wait, pretend or read nothing: whom the server answers, for how long, and with how much memory."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.serving import HEAD, HELLO, PATIENCE, about, data_url, post, raw, refused, running

from switchkd.runtime.server import serve


@pytest.mark.parametrize("name", ["localhost", "LocalHost:1", "127.0.0.1:8080", "[::1]", "[::1]:9"])
def test_own_names(served, name):
    assert raw(served, f"GET /health HTTP/1.1\r\nHost: {name}\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1:1:1", ""],
)
def test_a_web_page_that_pretends_to_be_this_computer(served, name):
    for path in ("/health", "/metrics", "/v1/models", "/v1/chat/completions"):
        status, reply = raw(served, f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n")
        assert status == 421 and b"model" not in reply


def test_any_name_where_others_may_ask(engine):
    with running(engine, host="0.0.0.0") as served:
        assert raw(served, "GET /health HTTP/1.1\r\nHost: car.example\r\n\r\n")[0] == 200


@pytest.mark.parametrize("unit", [b"{},", b"[],", b"0,"])
def test_json_of_very_many_values_is_refused_unread(engine, unit):
    with running(engine, request_bytes=2_000_000) as served:
        body = b'{"messages": [' + unit * 100_000 + b"0]}"
        request = urllib.request.Request(f"{served.url}/chat/completions", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
        assert error.value.code == 400 and b"more than 100,000 values" in error.value.read()
        assert served.ask(HELLO).choices


def upload(served, size: int, body: bytes = b"") -> socket.socket:
    """A connection whose request of `size` bytes hasn't arrived."""
    connection = socket.create_connection(("127.0.0.1", served.port), PATIENCE)
    connection.sendall(f"{HEAD}Content-Length: {size}\r\n\r\n".encode() + body)
    return connection


def test_silent_uploads_take_nobodys_place(engine):
    with running(engine, waiting=0) as served, contextlib.ExitStack() as silent:
        for _ in range(20):
            silent.enter_context(upload(served, 100))
        assert served.ask(HELLO).choices


def test_uploads_share_a_bounded_memory(engine):
    with running(engine, request_bytes=50_000) as served, contextlib.ExitStack() as slow:
        for _ in range(8):
            slow.enter_context(upload(served, 50_000, b" " * 49_999))
        while served.app._arrivals._arriving < 8 * 49_999:
            served.client.models.list()
        assert post(served, b" " * 1000) == 429
        slow.close()
        while served.app._arrivals._arriving:
            served.client.models.list()
        assert served.ask(HELLO).choices


@contextlib.contextmanager
def pictures_held_up(served):
    """Another picture is being decoded until the block ends."""
    done = threading.Event()
    served.app._decoder.submit(done.wait, PATIENCE)
    try:
        yield
    finally:
        done.set()


def test_the_time_holds_while_a_picture_waits(engine):
    with running(engine, request_seconds=0.5, waiting=0) as served, pictures_held_up(served):
        for _ in range(3):  # each gives its place back
            assert refused(served, 504, about(data_url()))["code"] == "timeout"
    with running(engine) as served, pictures_held_up(served):
        assert served.ask(HELLO).choices  # there is no picture to wait for


def test_time_counts_from_a_requests_arrival(engine):
    with running(engine) as served, ThreadPoolExecutor() as threads:
        with pictures_held_up(served):
            answer = threads.submit(served.ask, about(data_url()))
            while not served.app._queue._admitted:
                served.client.models.list()
            begin = time.monotonic()
            while time.monotonic() < begin + 0.3:
                served.client.models.list()
            waited = time.monotonic() - begin
        assert answer.result(PATIENCE).choices
        with urllib.request.urlopen(served.url.replace("/v1", "/metrics")) as response:
            lines = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
        assert float(lines["skd_request_seconds_sum"]) > float(lines["skd_wait_seconds_sum"]) > waited


@pytest.mark.parametrize(("stall", "request_seconds"), [(0.3, PATIENCE), (PATIENCE, 3.0)])
def test_a_stream_that_nobody_reads(gate, engine, monkeypatch, stall, request_seconds):
    """The client takes nothing of its answer: the connection ends, or the request's time; its place is free then."""
    monkeypatch.setattr(serve, "STALL_SECONDS", stall)
    body = json.dumps({"model": engine.name, "messages": HELLO, "stream": True, "max_tokens": 1500})
    with (
        running(engine, waiting=0, send_buffer=4096, request_seconds=request_seconds) as served,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        gate.allow(1000)  # a quarter of a megabyte, more than all buffers take
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        job = wait_for_job(served)
        while job._end is None and time.monotonic() < job.deadline:
            served.client.models.list()
        gate.allow(1)
        while served.app._queue._admitted:
            served.client.models.list()
        assert gate.steps <= 1001
        gate.allow()
        assert served.ask(HELLO).choices


def wait_for_job(served):
    while (job := served.app._queue._current) is None:
        served.client.models.list()
    return job


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_own_names_on_addresses_of_both_families(engine, host):
    """Loopback addresses alone: other names are refused as on one of them."""
    with running(engine, host=host) as served:
        assert served.client.models.list().data
        for name, status in (("localhost", 200), ("[::1]", 200), ("127.0.0.1:9", 200), ("evil.example", 421)):
            request = urllib.request.Request(served.url.replace("/v1", "/health"), headers={"host": name})
            try:
                with urllib.request.urlopen(request) as response:
                    assert response.status == status
            except urllib.error.HTTPError as error:
                assert error.code == status
