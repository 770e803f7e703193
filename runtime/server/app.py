"""The server's addresses: chat completions, models, health, metrics, a page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from switchkd.errors import DataError
from switchkd.preprocess import Preprocess
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.server.answer import End, Outcome, Piece
from switchkd.runtime.server.arrivals import Arrivals
from switchkd.runtime.server.chat_page import chat_page
from switchkd.runtime.server.completion import Collected, Completion, timings_of, usage_of
from switchkd.runtime.server.fields import Unknown
from switchkd.runtime.server.limits import Limits, RequestError
from switchkd.runtime.server.metrics import CONTENT_TYPE, Metrics
from switchkd.runtime.server.models import Models
from switchkd.runtime.server.notices import Notices
from switchkd.runtime.server.queue import CLIENT_GONE, Event, Job, Queue
from switchkd.runtime.server.request import ChatRequest, Rules, parse_request
from switchkd.runtime.server.request_log import RequestRecord
from switchkd.runtime.server.responses import EventStream, error_response, event, failure, http_error, json_response

_STUCK_SECONDS = 60.0  # past a request's time without the engine coming back


class ChatApp:
    """Some models' endpoints; `asgi` is the application.

    Args:
        models: answer requests, one at a time, whichever it is for; nobody else uses their engines until `close`.
        limits: what the server takes on.
        rules: how requests are read, with the models' names.
        page: a chat page is at `/`.
    """

    def __init__(self, models: Models, limits: Limits, rules: Rules, *, page: bool = True) -> None:
        self.model = models.usual.identity.name
        self._models, self._limits, self._rules = models, limits, rules
        self._started = int(time.time())
        self._queue = queue = Queue(limits.waiting)
        self._metrics = Metrics(
            {model.identity.name: model.engine.load_seconds for model in models.all},
            lambda: queue.waiting,
            lambda: queue.busy,
        )
        self._unknown = Unknown(Notices(), rules.strict)
        self._arrivals = Arrivals(limits)
        # One picture is decoded at a time, so that memory is bounded.
        self._decoder = ThreadPoolExecutor(1, "picture")
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._list),
            Route("/v1/models/{model:path}", self._model),
            Route("/health", self._health),
            Route("/metrics", self._scrape),
            *([chat_page()] if page else []),
        ]
        handlers: dict[Any, Any] = {HTTPException: http_error, Exception: failure}
        self.asgi = Starlette(routes=routes, exception_handlers=handlers)

    def close(self) -> None:
        """Ends what is under way and lets the engines go; waits for a step to end."""
        self._queue.close()
        self._decoder.shutdown(wait=False, cancel_futures=True)

    async def _chat(self, request: Request) -> Response:
        record = RequestRecord()
        try:
            response = await self._respond(request, record)
        except RequestError as error:
            response, record.status = error_response(error), error.status
        except ClientDisconnect:
            response, record.status = Response(status_code=CLIENT_GONE), CLIENT_GONE
        except Exception:
            record.status = 500
            raise
        finally:
            self._metrics.responded(record.status)
            if not record.streams:
                record.write()
        return response

    async def _respond(self, request: Request, record: RequestRecord) -> Response:
        body = await self._arrivals.read(request)
        job = self._queue.enter(self._limits.request_seconds)
        gone = None
        try:
            parsing = asyncio.to_thread(parse_request, body, self._rules, self._limits, self._unknown)
            del body  # twenty megabytes that nobody needs while a picture waits
            chat = await job.in_time(parsing)
            record.model = chat.model
            model = self._models[chat.model]
            if chat.pictures:
                self._check_pictures(model.engine, len(chat.pictures))
                chat = await job.in_time(self._decoded(chat, model.engine.preprocess))
            job.start(chat, model.engine)
            gone = asyncio.create_task(_cancel_when_gone(request, job))
            first = await job.next()
            if isinstance(first, RequestError):
                raise first
            completion = Completion(
                chat.model,
                model.token_bytes,
                stream_usage=chat.stream_usage,
                logprobs=chat.top_logprobs is not None,
            )
            if chat.stream:
                record.streams = True
                return self._streamed(job, completion, first, chat, record)
            answers, outcome = await _collect(job, first)
            self._finish(job, outcome, chat, record)
            usage, timings = usage_of(outcome.timings), timings_of(outcome.timings, job.waited)
            return json_response(completion.whole(answers, usage, timings))
        except BaseException:
            job.cancel()
            raise
        finally:
            if gone is not None:
                gone.cancel()

    def _streamed(
        self, job: Job, completion: Completion, first: Event, chat: ChatRequest, record: RequestRecord
    ) -> Response:
        def ended() -> None:
            job.cancel()
            record.write()

        return EventStream(self._events(job, completion, first, chat, record), ended)

    async def _events(
        self, job: Job, completion: Completion, happened: Event, chat: ChatRequest, record: RequestRecord
    ) -> AsyncIterator[bytes]:
        """An answer's server-sent events."""
        record.status = CLIENT_GONE  # until the end is sent
        for index in range(chat.answers):
            yield event(completion.role_chunk(index))
        while isinstance(happened, Piece | End):
            chunk = completion.piece_chunk if isinstance(happened, Piece) else completion.end_chunk
            yield event(chunk(happened))  # type: ignore[arg-type]
            happened = await job.next()
        if isinstance(happened, RequestError):  # too late for a status
            record.status = happened.status
            yield event(happened.body())
            return
        self._finish(job, happened, chat, record)
        if chat.stream_usage:
            usage, timings = usage_of(happened.timings), timings_of(happened.timings, job.waited)
            yield event(completion.usage_chunk(usage, timings))
        yield b"data: [DONE]\n\n"
        record.status = 200

    def _check_pictures(self, engine: Engine, count: int) -> None:
        """Before any of them is decoded. Raises RequestError where they don't fit."""
        try:
            engine.require_room(count)
        except DataError as error:
            raise RequestError(400, str(error), param="messages", code="context_length_exceeded") from error
        if told := engine.unfamiliar(count):
            self._unknown.notice(told)

    async def _decoded(self, chat: ChatRequest, preprocess: Preprocess) -> ChatRequest:
        """The request with its pictures' pixels. Raises RequestError as `Picture.decode`."""
        loop, arguments = asyncio.get_running_loop(), (preprocess, self._limits)
        # One after the other, so that a request that ends meanwhile has no more of them decoded.
        pixels = [await loop.run_in_executor(self._decoder, each.decode, *arguments) for each in chat.pictures]
        return replace(chat, pictures=(), pixels=tuple(pixels))

    def _finish(self, job: Job, outcome: Outcome, chat: ChatRequest, record: RequestRecord) -> None:
        now = time.monotonic()
        record.timings = outcome.timings
        self._metrics.answered(outcome.timings, job.waited, now - job.arrived, len(chat.pixels))

    async def _list(self, _: Request) -> Response:
        return json_response({"object": "list", "data": [self._card(name) for name in self._models.names]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in self._models.names:
            there = " and ".join(f"'{model.identity.name}'" for model in self._models.all)
            return error_response(RequestError(404, f"There is only {there}.", code="model_not_found"))
        return json_response(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self._started, "owned_by": "switchkd"}
        identity = self._models[name].identity
        alias = {} if name == identity.name else {"root": identity.name}
        return {**card, **alias, **identity.fields()}

    async def _health(self, _: Request) -> Response:
        stuck = self._queue.overdue > _STUCK_SECONDS
        state = {"status": "stuck" if stuck else "ok", "model": self.model, "waiting": self._queue.waiting}
        return json_response({**state, **self._models.usual.identity.fields()}, 503 if stuck else 200)

    async def _scrape(self, _: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


async def _collect(job: Job, happened: Event) -> tuple[dict[int, Collected], Outcome]:
    answers: dict[int, Collected] = {}
    while isinstance(happened, Piece | End):
        answer = answers.setdefault(happened.index, Collected())
        if isinstance(happened, End):
            answer.end = happened
        else:
            answer.texts.append(happened.text)
            answer.scores += happened.scores
        happened = await job.next()
    if isinstance(happened, RequestError):
        raise happened
    return answers, happened


async def _cancel_when_gone(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()
