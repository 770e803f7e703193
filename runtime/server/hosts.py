"""Which names a server on this computer alone answers to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from switchkd.runtime.server.limits import RequestError

_PORT = re.compile(r":\d*$")


class OwnHosts:
    """Where the server listens on loopback addresses alone, refuses requests whose `Host` is another than those, on any port.

    A web page may point its own name at 127.0.0.1 and would then count as this server's own page (DNS rebinding).

    Args:
        app: answers the rest.
        addresses: that are listened on.
    """

    def __init__(self, app: ASGIApp, addresses: Iterable[str]) -> None:
        self._app = app
        own = {f"[{address}]" if ":" in address else address for address in addresses}
        alone = all(ip_address(name.strip("[]").partition("%")[0]).is_loopback for name in own)
        self._names = {"localhost", "127.0.0.1", "[::1]"} | own if alone else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette's form of an application."""
        name = _PORT.sub("", Headers(scope=scope).get("host", "")).lower()
        if self._names is None or name in self._names:
            await self._app(scope, receive, send)
            return
        error = RequestError(421, f"This server answers only to {', '.join(sorted(self._names))}.", code="wrong_host")
        await Response(json.dumps(error.body()), error.status, media_type="application/json")(scope, receive, send)
