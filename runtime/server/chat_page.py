"""The chat page: one document that needs nothing but this server, and may reach nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_FILES = resources.files("switchkd.runtime.server") / "page"
_SCRIPTS = ("elements.js", "client.js", "picture.js", "page.js")  # in this order, one module


def chat_page() -> Route:
    """The page's address."""
    style, script = _read("page.css"), "\n".join(map(_read, _SCRIPTS))
    document = _read("page.html").replace("</style>", f"{style}</style>").replace("</script>", f"{script}</script>")
    headers = {
        "content-security-policy": _policy(style, script),
        "permissions-policy": "camera=(self), microphone=(), geolocation=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }

    async def page(_: Request) -> Response:
        return HTMLResponse(document, headers=headers)

    return Route("/", page)


def _policy(style: str, script: str) -> str:
    """The page's own style and script run, by their hashes; it asks this server, and shows pictures that it was given."""
    allowed = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {source}" for name, source in allowed.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
