"""The server's addresses: chat completions, models, health, metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.server.answer import Outcome
from switchkd.runtime.server.limits import Limits, RequestError
from switchkd.runtime.server.metrics import CONTENT_TYPE, Metrics
from switchkd.runtime.server.protocol import ChatRequest, Completion, parse_request, usage_of
from switchkd.runtime.server.queue import CLIENT_GONE, Event, Job, Queue

_STUCK_SECONDS = 60.0  # past a request's time without the engine coming back
_ARRIVING = 8  # requests of the largest size whose bytes may be in memory before the last has arrived


class ChatApp:
    """An engine's endpoints; `asgi` is the application.

    Args:
        engine: answers requests, one at a time; nobody else uses it until `close`.
        limits: what the server takes on.
        pictures_first: a picture goes before the words of its message, wherever it was sent.
    """

    def __init__(self, engine: Engine, limits: Limits, *, pictures_first: bool = True) -> None:
        self.model = engine.name
        self._pictures_first = pictures_first
        self._engine, self._limits = engine, limits
        self._started = int(time.time())
        self._queue = queue = Queue(engine, limits.waiting)
        self._metrics = Metrics(engine.name, engine.load_seconds, lambda: queue.waiting, lambda: queue.busy)
        self._arriving = 0  # bytes
        # One picture is decoded at a time, so that memory is bounded.
        self._decoder = ThreadPoolExecutor(1, "picture")
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{model}", self._model),
            Route("/health", self._health),
            Route("/metrics", self._scrape),
        ]
        handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _failure}
        self.asgi = Starlette(routes=routes, exception_handlers=handlers)

    def close(self) -> None:
        """Ends what is under way and lets the engine go; waits for its step to end."""
        self._queue.close()
        self._decoder.shutdown(wait=False, cancel_futures=True)

    async def _chat(self, request: Request) -> Response:
        try:
            response, status = await self._respond(request)
        except RequestError as error:
            response, status = _error(error), error.status
        except ClientDisconnect:
            response, status = Response(status_code=CLIENT_GONE), CLIENT_GONE
        except Exception:
            self._metrics.responded(500)
            raise
        self._metrics.responded(status)
        return response

    async def _respond(self, request: Request) -> tuple[Response, int]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A web page can't send this type elsewhere unasked, so none reaches a server on the same computer.
            raise RequestError(415, "The body's content type is application/json.")
        body = await self._read(request)
        job = self._queue.enter(self._limits.request_seconds)
        gone = None
        try:
            parsing = asyncio.to_thread(
                parse_request, body, self.model, self._limits, pictures_first=self._pictures_first
            )
            del body  # twenty megabytes that nobody needs while a picture waits
            chat = await job.in_time(parsing)
            if chat.picture is not None:
                chat = await job.in_time(self._decoded(chat))
            job.start(chat)
            gone = asyncio.create_task(_cancel_when_gone(request, job))
            first = await job.next()
            if isinstance(first, RequestError):
                raise first
            completion = Completion(self.model, chat.stream_usage)
            picture = chat.pixels is not None
            if chat.stream:
                return _EventStream(self._stream(job, completion, first, chat.stream_usage, picture), job), 200
            text, outcome = await _collect(job, first)
            self._finish(job, outcome, picture)
            return _json(completion.whole(text, outcome.reason, usage_of(outcome.timings))), 200
        except BaseException:
            job.cancel()
            raise
        finally:
            if gone is not None:
                gone.cancel()

    async def _stream(
        self, job: Job, completion: Completion, event: Event, with_usage: bool, picture: bool
    ) -> AsyncIterator[bytes]:
        """An answer's server-sent events."""
        yield _sent(completion.chunk({"role": "assistant", "content": ""}))
        while isinstance(event, str):
            yield _sent(completion.chunk({"content": event}))
            event = await job.next()
        if isinstance(event, RequestError):  # too late for a status
            yield _sent(event.body())
            return
        self._finish(job, event, picture)
        yield _sent(completion.chunk({}, event.reason))
        if with_usage:
            yield _sent(completion.usage_chunk(usage_of(event.timings)))
        yield b"data: [DONE]\n\n"

    def _decoded(self, chat: ChatRequest) -> Awaitable[ChatRequest]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._decoder, chat.prepared, self._engine.preprocess, self._limits)

    async def _read(self, request: Request) -> bytearray:
        """The body, within its limits. What is left of a body that is refused, uvicorn reads and drops."""
        most = self._limits.request_bytes
        too_large = RequestError(413, f"The request is larger than {most / 1e6:g} MB.", code="request_too_large")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.upload_seconds):
                async for piece in request.stream():
                    if len(body) + len(piece) > most:
                        raise too_large
                    if self._arriving + len(piece) > _ARRIVING * most:
                        message = "Too many large requests are arriving already; try again later."
                        raise RequestError(429, message, code="uploads_full")
                    body += piece
                    self._arriving += len(piece)
        except TimeoutError as error:
            message = f"The request took more than {self._limits.upload_seconds:g} s to arrive."
            raise RequestError(408, message, code="upload_timeout") from error
        finally:
            self._arriving -= len(body)
        return body

    def _finish(self, job: Job, outcome: Outcome, picture: bool) -> None:
        now = time.monotonic()
        self._metrics.answered(outcome.timings, job.started - job.arrived, now - job.arrived, picture)

    async def _models(self, _: Request) -> Response:
        return _json({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        if request.path_params["model"] != self.model:
            return _error(RequestError(404, f"There is only the model '{self.model}'.", code="model_not_found"))
        return _json(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": self._started, "owned_by": "switchkd"}

    async def _health(self, _: Request) -> Response:
        stuck = self._queue.overdue > _STUCK_SECONDS
        state = {"status": "stuck" if stuck else "ok", "model": self.model, "waiting": self._queue.waiting}
        return _json(state, 503 if stuck else 200)

    async def _scrape(self, _: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


class _EventStream(StreamingResponse):
    """Server-sent events; the request is cancelled when the client goes, wherever the stream is then."""

    def __init__(self, events: AsyncIterator[bytes], job: Job) -> None:
        # The second: nginx would hold the pieces back until the answer is whole.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def _collect(job: Job, event: Event) -> tuple[str, Outcome]:
    pieces = []
    while isinstance(event, str):
        pieces.append(event)
        event = await job.next()
    if isinstance(event, RequestError):
        raise event
    return "".join(pieces), event


async def _cancel_when_gone(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


async def _http_error(_: Request, error: Exception) -> Response:
    """The framework's own refusals (404, 405) in the API's form."""
    assert isinstance(error, HTTPException)
    return _error(RequestError(error.status_code, f"{error.detail}."), error.headers)


async def _failure(_: Request, __: Exception) -> Response:
    """A fault of ours; the framework logs it."""
    return _error(RequestError(500, "The server failed; its log tells more."))


def _error(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    response = _json(error.body(), error.status)
    response.headers.update(headers or {})
    if error.status == 429:
        response.headers["retry-after"] = "1"
    return response


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


def _sent(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
