"""A real server on a small student, and a student whose steps a test lets through one by one."""

from __future__ import annotations

import base64
import io
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from support.llava_models import picture
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.server.app import ChatApp
from switchkd.runtime.server.identity import Identity
from switchkd.runtime.server.limits import Limits
from switchkd.runtime.server.models import Model, Models
from switchkd.runtime.server.request import Rules
from switchkd.runtime.server.serve import listening, make_server, url_of

PATIENCE = 120  # seconds until a test that waits in vain fails
HELLO = [{"role": "user", "content": "is it red ?"}]
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LIMITS = Limits(
    waiting=4,
    request_bytes=200_000,
    pictures=4,
    picture_bytes=100_000,
    picture_pixels=100_000,
    upload_seconds=PATIENCE,
    request_seconds=PATIENCE,
    max_tokens=12,
)


class Gate:
    """A language model that waits for permission before each step; `steps` counts those that began."""

    def __init__(self, language: Any) -> None:
        self._language = language
        self.close()

    def close(self) -> None:
        """Back to the beginning."""
        self._permits = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._language, name)

    def step(self, token: int) -> Any:
        self.steps += 1
        self._begun.release()
        assert self._permits.acquire(timeout=PATIENCE)
        return self._language.step(token)

    def allow(self, steps: int = 10_000) -> None:
        self._permits.release(steps)

    def wait_for_a_step(self) -> None:
        assert self._begun.acquire(timeout=PATIENCE)


class Served:
    """A running server."""

    def __init__(self, app: ChatApp, url: str, port: int) -> None:
        self.app, self.url, self.port = app, url, port
        self.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)

    def ask(self, messages: list[dict], **options: Any) -> Any:
        return self.client.chat.completions.create(model=self.app.model, messages=messages, **options)


@contextmanager
def running(
    engine: Engine,
    *beside: Engine,
    host: str = "127.0.0.1",
    send_buffer: int = 0,
    aliases: tuple[str, ...] = (),
    rules: Mapping[str, Any] | None = None,
    page: bool = True,
    **limits: Any,
) -> Iterator[Served]:
    """Serves in a thread of this process.

    Args:
        beside: other models' engines.
        send_buffer: bytes that the system takes of a client which doesn't read.
        aliases: other names of the first.
    """
    with listening(host, 0) as listeners:
        for listener in listeners if send_buffer else ():
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        url, port = url_of(listeners[0]), listeners[0].getsockname()[1]
        names = [(engine.name, *aliases), *((each.name,) for each in beside)]
        models = Models(map(Model.of, (engine, *beside), [Identity(own) for own, *_ in names], names))
        app = ChatApp(models, replace(LIMITS, **limits), Rules(models.names, **(rules or {})), page=page)
        server = make_server(app, app._limits, listeners)
        thread = threading.Thread(target=server.run, kwargs={"sockets": listeners})
        thread.start()
        try:
            yield Served(app, url, port)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            app.close()


def data_url(seed: int = 0, form: str = "PNG", **size: int) -> str:
    stream = io.BytesIO()
    picture(seed, **size).save(stream, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def about(url: str, text: str = "how many cars ?") -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def refused(served, status, messages=HELLO, **options):
    """The error's body; the server still answers afterwards."""
    with pytest.raises(openai.APIStatusError) as caught:
        served.client.chat.completions.create(**{"model": served.app.model, "messages": messages, **options})
    error = caught.value
    assert error.status_code == status, error
    assert set(error.response.json()["error"]) == {"message", "type", "param", "code"}
    return error.response.json()["error"]


def raw(served, *parts: bytes | str) -> tuple[int, bytes]:
    """Sends bytes as they are; (status, what comes back)."""
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as connection:
        for part in parts:
            connection.sendall(part.encode() if isinstance(part, str) else part)
        reply = b""
        while not is_whole(reply) and (piece := connection.recv(65536)):
            reply += piece
    return int(reply.split()[1]), reply


def is_whole(reply: bytes) -> bool:
    head, end, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def post(served, body: bytes | str, **headers: str) -> int:
    body = body.encode() if isinstance(body, str) else body
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return raw(served, HEAD, f"Content-Length: {len(body)}\r\n{extra}\r\n", body)[0]


def in_background(function, *arguments, **options):
    """(thread, list that gets the result)."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)))
    thread.start()
    return thread, results


def wait_in_queue(served, count):
    queue = served.app._queue
    with queue._changed:
        assert queue._changed.wait_for(lambda: queue.waiting == count, PATIENCE)
