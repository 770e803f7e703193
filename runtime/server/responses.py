"""Responses in the API's form: objects, errors, server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from switchkd.runtime.server.limits import RequestError


class EventStream(StreamingResponse):
    """Server-sent events.

    Args:
        events: as bytes.
        ended: called when the last was sent or the client has gone, wherever the stream is then.
    """

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        # The second: nginx would hold the pieces back until the answer is whole.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def json_response(value: Mapping[str, Any], status: int = 200) -> Response:
    """An object."""
    return Response(json.dumps(value), status, media_type="application/json")


def error_response(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal."""
    response = json_response(error.body(), error.status)
    response.headers.update(headers or {})
    if error.status == 429:
        response.headers["retry-after"] = "1"
    return response


def event(value: Mapping[str, Any]) -> bytes:
    """An object of a stream."""
    return f"data: {json.dumps(value)}\n\n".encode()


async def http_error(_: Request, error: Exception) -> Response:
    """The framework's own refusals (404, 405) in the API's form."""
    assert isinstance(error, HTTPException)
    return error_response(RequestError(error.status_code, f"{error.detail}."), error.headers)


async def failure(_: Request, __: Exception) -> Response:
    """A fault of ours; the framework logs it."""
    return error_response(RequestError(500, "The server failed; its log tells more."))
