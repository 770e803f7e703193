"""Bodies of requests as they arrive, within a request's limits and one of all together."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from switchkd.runtime.server.limits import Limits, RequestError

_ARRIVING = 8  # requests of the largest size whose bytes may be in memory before the last has arrived


class Arrivals:
    """Reads bodies.

    Args:
        limits: the server's.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._arriving = 0  # bytes

    async def read(self, request: Request) -> bytearray:
        """The body, within its limits. What is left of a body that is refused, uvicorn reads and drops.

        Raises:
            RequestError: 408 too slow, 413 too large, 415 of another type, 429 too many at once.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A web page can't send this type elsewhere unasked, so none reaches a server on the same computer.
            raise RequestError(415, "The body's content type is application/json.")
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
