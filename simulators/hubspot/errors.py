"""The error bodies of the HubSpot API."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from simulators.base import answer


class Refused(Exception):
    """A call, or one input of a batch, that ends in an error body."""

    def __init__(
        self,
        status: int,
        message: str,
        category: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.category = category
        self.headers = headers or {}
        self.more = more
        """Further members of the body: subCategory, context, links, errors, policyName, …"""

    def body(self) -> dict[str, Any]:
        """Return the body of a call that failed as a whole."""
        own: dict[str, Any] = {"status": "error", "message": self.message, "correlationId": str(uuid.uuid4())}
        if self.category is not None:
            own["category"] = self.category
        return {**own, **self.more}

    def entry(self, **context: str) -> dict[str, Any]:
        """Return the entry for one input among the errors of a batch (207)."""
        given = {**self.more.get("context", {}), **{name: [value] for name, value in context.items()}}
        return {
            "status": "error",
            "category": self.category or "VALIDATION_ERROR",
            "message": self.message,
            "context": given,
            "links": self.more.get("links", {}),
            "errors": self.more.get("errors", []),
            **({"subCategory": self.more["subCategory"]} if "subCategory" in self.more else {}),
        }

    def response(self) -> Response:
        """Return the whole answer."""
        return answer(self.body(), self.status, self.headers or None)


def invalid(message: str, **more: Any) -> Refused:
    """Return the error of a request that makes no sense."""
    return Refused(400, message, "VALIDATION_ERROR", **more)


def values_invalid(faults: Sequence[tuple[str, str, str]]) -> Refused:
    """Return the error of values that a property does not take, from (property, code, message): a JSON text inside the message."""
    listed = [{"isValid": False, "message": text, "error": code, "name": name} for name, code, text in faults]
    errors = [{"message": text, "code": code, "context": {"propertyName": [name]}} for name, code, text in faults]
    return invalid(f"Property values were not valid: {json.dumps(listed, separators=(',', ':'))}", errors=errors)


def not_found(spelt: str = "") -> Refused:
    """Return the error of a record that is not there."""
    more: dict[str, Any] = {"context": {"id": [spelt]}} if spelt else {}
    return Refused(404, "resource not found", "OBJECT_NOT_FOUND", **more)


def some_not_found(label: str, ids: Sequence[str]) -> dict[str, Any]:
    """Return the entry for the ids of a batch that name nothing."""
    return Refused(
        404,
        f"Could not get some {label} objects, they may be deleted or not exist. Check that ids are valid.",
        "OBJECT_NOT_FOUND",
        context={"ids": list(ids)},
    ).entry()


def contact_exists(contact_id: int) -> Refused:
    """Return the error of an e-mail address that another contact has: whose it is stands in the text only."""
    return Refused(409, f"Contact already exists. Existing ID: {contact_id}", "CONFLICT")


def unauthenticated() -> Refused:
    """Return the error of a call without credentials, or with some that nobody knows."""
    return Refused(
        401,
        "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find more details "
        "at https://developers.hubspot.com/docs/methods/auth/oauth-overview",
        "INVALID_AUTHENTICATION",
    )


def token_expired(ago_s: int, at: str) -> Refused:
    """Return the error of a token that is too old."""
    return Refused(
        401,
        f"The OAuth token used to make this call expired {ago_s} second(s) ago.",
        "EXPIRED_AUTHENTICATION",
        context={"expire time": [at]},
    )


def scopes_missing(scopes: Sequence[str]) -> Refused:
    """Return the error of a token that may not do this."""
    return Refused(
        403,
        "This app hasn't been granted all required scopes to make this call. Read more about required scopes here: "
        "https://developers.hubspot.com/scopes.",
        "MISSING_SCOPES",
        errors=[
            {
                "message": "One or more of the following scopes are required.",
                "context": {"requiredGranularScopes": list(scopes)},
            }
        ],
        links={"scopes": "https://developers.hubspot.com/scopes"},
    )


LIMITS = {
    "DAILY": "You have reached your daily limit.",
    "TEN_SECONDLY_ROLLING": "You have reached your ten_secondly_rolling limit.",
    "SECONDLY": "You have reached your secondly limit.",
}
"""What is said when a limit is reached, by the name of its policy; clients compare the words."""


def limited(policy: str, headers: dict[str, str] | None = None) -> Refused:
    """Return the error of too many calls."""
    return Refused(
        429,
        LIMITS[policy],
        "RATE_LIMITS",
        headers=headers,
        errorType="RATE_LIMIT",
        policyName=policy,
        requestId=str(uuid.uuid4()),
    )
