"""What a server takes on, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; all of them hold whatever clients do."""

    waiting: int  # requests that may wait while another is answered
    request_bytes: int  # of a request's body
    pictures: int  # of a request
    picture_bytes: int  # of a picture's file
    picture_pixels: int  # of a picture, width × height
    upload_seconds: float  # for a request to arrive
    request_seconds: float  # from its arrival to its answer's end, waiting included
    max_tokens: int  # of an answer whose request names no length


class RequestError(Exception):
    """A request that isn't answered.

    Args:
        status: HTTP status.
        message: one line for a person.
        param: the request's field that is at fault.
        code: for a program, as OpenAI's `error.code`.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        kind = {408: "timeout_error", 429: "rate_limit_error", 504: "timeout_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
