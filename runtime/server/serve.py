"""Listening: a socket, uvicorn, and connections that end where a client stalls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from switchkd.errors import SkdError
from switchkd.runtime.engine import Engine
from switchkd.runtime.server.app import ChatApp
from switchkd.runtime.server.hosts import OwnHosts
from switchkd.runtime.server.limits import Limits

CONNECTIONS = 128  # more at once are answered 503
STALL_SECONDS = 20.0  # for a request's head to arrive, and for a client to take what it was sent


def serve(engine: Engine, host: str, port: int, limits: Limits, ready: Callable[[str], None]) -> None:
    """Answers requests until SIGTERM or Ctrl-C; then those that have arrived are still answered.

    Args:
        engine: of the model; not closed.
        port: 0 takes any free one.
        ready: called with the server's URL once it listens.

    Raises:
        SkdError: the address can't be listened on.
    """
    with listen(host, port) as listener:
        app = ChatApp(engine, limits)
        try:
            server = make_server(app, limits, listener)
            ready(url_of(listener))
            # uvicorn raises the signal again when all is done, which then ends this.
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            app.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SkdError where the address can't be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:  # the last: a name that no domain can have
        reason = getattr(error, "strerror", None) or error
        raise SkdError(
            f"{host} port {port} can't be listened on: {reason}; choose another --host or --port."
        ) from error


def url_of(listener: socket.socket) -> str:
    """The API's base URL, as clients take it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def make_server(app: ChatApp, limits: Limits, listener: socket.socket) -> uvicorn.Server:
    """uvicorn around the application, without its own logs, signals left to it."""
    config = uvicorn.Config(
        OwnHosts(app.asgi, listener.getsockname()[0]),
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(limits.request_seconds) + 1,
    )
    return uvicorn.Server(config)


class PatientProtocol(H11Protocol):
    """A connection whose client has so long, and no longer, to send a request's head or to take an answer."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._arm()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._arm()

    def _end_stalled(self) -> None:
        under_way = self.cycle is not None and not self.cycle.response_complete
        if self.flow.write_paused or not under_way:
            self.transport.abort()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(STALL_SECONDS, self._end_stalled)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
