"""Errors as the shop tells them: problem+json (RFC 9457) with a code, and one entry per field that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from simulators.base import answer
from simulators.shop.values import Wrong

TITLES = {
    400: "Bad request",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    412: "Precondition failed",
    413: "Too large",
    422: "Invalid record",
    423: "Locked",
    429: "Too many requests",
    500: "Internal error",
}


class Problem(Exception):
    """A call, or one record of it, that was not carried out."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Wrong] = (),
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers, self.more = list(errors), headers or {}, more

    def shown(self) -> dict[str, Any]:
        """Return the body."""
        return {
            "type": f"urn:shop:problem:{self.code}",
            "title": TITLES.get(self.status, "Error"),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "errors": [wrong.shown() for wrong in self.errors],
            **self.more,
        }

    def response(self) -> Response:
        """Return the answer to a call."""
        return answer(self.shown(), self.status, self.headers, media="application/problem+json")


def invalid(errors: Sequence[Wrong]) -> Problem:
    """Return the problem of a record with values that are wrong."""
    fields = ", ".join(dict.fromkeys(str(wrong.field) for wrong in errors))
    return Problem(422, "invalid_record", f"Nothing was written: correct {fields}, then send it again.", errors=errors)
