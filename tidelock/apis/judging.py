"""What an answer of an API means for the caller, where its vendor needs no translation of its own, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from tidelock.errors import Fatal, Reject, Retry, TidelockError
from tidelock.httperrors import vendor_message

_REJECTED = {
    400: "invalid",
    404: "not_found",
    409: "conflict",
    410: "gone",
    412: "precondition",
    413: "too_large",
    414: "too_long",
    422: "invalid",
}


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers, and the whole body."""

    status: int
    headers: httpx.Headers
    content: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the decoded body. Raises Retry if it is no JSON: something else than the API has answered."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError as error:
            kind = self.headers.get("Content-Type", "nothing said of its type")
            raise Retry(
                f"an answer with status {self.status} is no JSON ({kind}, {len(self.content)} bytes)",
                hint="a proxy or a maintenance page may answer in the API's place; tried again by itself",
            ) from error


def sentence(answer: Answer, what: str) -> str:
    """Say what was answered to what: the beginning of every error message about an answer."""
    said = vendor_message(answer.content)
    return f"{what} answered {answer.status}{f': {said}' if said else ''}"


def judge(answer: Answer, what: str, kinds: Mapping[int, str] | None = None) -> TidelockError | None:
    """Translate an answer by its status alone; ``kinds`` names those that reject the record, by status.

    Statuses below 400 are no errors. 408, 425, 429 and those of servers pass by themselves; 403 and 405 and the like are Fatal.
    """
    if answer.status < 400:
        return None
    text = sentence(answer, what)
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return Retry(text, hint="tried again by itself")
    kind = (kinds if kinds is not None else _REJECTED).get(answer.status)
    if kind is not None:
        return Reject(text, kind=kind)
    if answer.status == 403:
        return Fatal(text, hint="give the user or the application that signs in the right it lacks")
    return Fatal(text, hint="check `url` and the connector's options in the configuration")
