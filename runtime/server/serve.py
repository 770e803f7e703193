"""Listening: a socket, uvicorn, and connections that end where a client stalls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from switchkd.errors import SkdError
from switchkd.runtime.server.app import ChatApp
from switchkd.runtime.server.ending import EndOnSignal
from switchkd.runtime.server.hosts import OwnHosts
from switchkd.runtime.server.limits import Limits
from switchkd.runtime.server.models import Models
from switchkd.runtime.server.request import Rules
from switchkd.runtime.server.watchdog import watched

CONNECTIONS = 128  # more at once are answered 503
STALL_SECONDS = 20.0  # for a request's head to arrive, and for a client to take what it was sent


def serve(
    models: Models,
    address: tuple[str, int],
    limits: Limits,
    ready: Callable[[str], None],
    ending: EndOnSignal,
    rules: Rules,
    *,
    page: bool,
) -> None:
    """Answers requests until SIGTERM or Ctrl-C; then those that have arrived are still answered.

    Args:
        models: their engines are not closed.
        address: host and port; port 0 takes any free one.
        ready: called with the server's URL once it listens.
        ending: under way, told here how to end.
        rules, page: see `ChatApp`.

    Raises:
        SkdError: the address can't be listened on.
    """
    with listening(*address) as listeners:
        app = ChatApp(models, limits, rules, page=page)
        try:
            server = make_server(app, limits, listeners)
            # uvicorn takes the signals while it runs, and raises them again when all is done.
            ending.stop = lambda: setattr(server, "should_exit", True)
            ready(url_of(listeners[0]))
            with watched(url_of(listeners[0])):
                server.run(sockets=listeners)
        finally:
            app.close()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen on all addresses of a host on one port: `localhost` has two, `::` stands for those of both
    families.

    Addresses of a family that this computer doesn't have are left out where there are others.

    Raises:
        SkdError: an address can't be had.
    """
    with contextlib.ExitStack() as stack:
        try:
            listeners = _listeners(stack, host, port)
        except (OSError, OverflowError, UnicodeError) as error:  # the last: a name that no domain can have
            reason = getattr(error, "strerror", None) or error
            raise SkdError(
                f"{host} port {port} can't be listened on: {reason}; choose another --host or --port."
            ) from error
        yield listeners


def _listeners(stack: contextlib.ExitStack, host: str, port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    for family, address in _addresses(host, port):
        # Where any port will do, it is the one that the first address got.
        wanted = (address[0], port or (listeners[0].getsockname()[1] if listeners else 0), *address[2:])
        try:
            listeners.append(stack.enter_context(_listener(family, wanted)))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            absent = error
    if not listeners and absent is not None:
        raise absent
    return listeners


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """(family, address) of all that a host's name stands for. `localhost` has an address of each family, also on systems
    whose list of names has one alone: what asks for it may try the other first."""
    names = (host, "127.0.0.1", "::1") if host.lower() == "localhost" else (host,)
    found: dict[tuple[int, tuple[Any, ...]], None] = {}
    for name in names:
        for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            found[family, address] = None
    return list(found)


def _listener(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            both = address[0] == "::" and socket.has_dualstack_ipv6()
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        listener.bind(address)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """The API's base URL, as clients take it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def make_server(app: ChatApp, limits: Limits, listeners: Sequence[socket.socket]) -> uvicorn.Server:
    """uvicorn around the application, without its own logs, signals left to it."""
    config = uvicorn.Config(
        OwnHosts(app.asgi, [listener.getsockname()[0] for listener in listeners]),
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
