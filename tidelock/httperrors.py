"""What an HTTP answer says for people and for waiting: the vendor's own message, `Retry-After`, and neither with a secret in it."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec

_MOST_CHARACTERS = 300
_CUT = "…"
_LEAST_SECRET = 6  # shorter credentials are switches and names; striking them out would garble every sentence
_NO_SECRETS = frozenset(("client_id", "username", "user", "login", "scope", "audience", "ca"))


def vendor_message(content: bytes) -> str:
    """Return what the body of an error says, in one line; empty if it says nothing that is meant for people.

    Knows the shapes of OAuth (``error``, ``error_description``), Salesforce (a list), HubSpot (``status``, ``category``, ``message``),
    OData (``error.message``) and problem details (``title``, ``detail``).
    """
    try:
        body = _first(msgspec.json.decode(content))
    except msgspec.DecodeError:
        text = content[:2000].decode("utf-8", "replace").strip()
        return "" if not text or text.startswith("<") else _line(text)
    if isinstance(body, str):
        return _line(body)
    if not isinstance(body, dict):
        return ""
    if isinstance(body.get("error"), dict):
        body = body["error"]
    codes = [body.get(name) for name in ("errorCode", "error", "code", "category", "status", "title")]
    code = next((c for c in codes if isinstance(c, str) and c and c != "error"), "")
    texts = [body.get(name) for name in ("message", "error_description", "detail", "errorMessage")]
    text = next((t for t in texts if isinstance(t, str) and t), "")
    return _line(": ".join(part for part in (code, text) if part))


def _first(body: Any) -> Any:
    return _first(body[0]) if isinstance(body, list) and body else body


def _line(text: str) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= _MOST_CHARACTERS else f"{plain[:_MOST_CHARACTERS]}{_CUT}"


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, given as a number or as an HTTP date (against the server's own clock)."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    at, now = _http_date(text), _http_date(headers.get("Date", ""))
    return None if at is None else max(0.0, at - (time.time() if now is None else now))


def _http_date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, IndexError):
        return None


def scrub(text: str, credentials: Mapping[str, str], others: Iterable[str] = ()) -> str:
    """Return a text with every secret in it struck out, also where it stands percent-encoded, or was cut off with the text."""
    secrets = [v for k, v in credentials.items() if k not in _NO_SECRETS]
    for secret in sorted({*secrets, *others}, key=len, reverse=True):
        if len(secret) >= _LEAST_SECRET:
            for spelt in {secret, quote(secret, safe="")}:
                text = _without_beginning(text.replace(spelt, "***"), spelt)
    return text


def _without_beginning(text: str, secret: str) -> str:
    """Strike out the beginning of a secret where a text was cut off (`vendor_message`)."""
    *pieces, last = text.split(_CUT)
    for n, piece in enumerate(pieces):
        for size in range(min(len(secret), len(piece)), _LEAST_SECRET - 1, -1):
            if piece.endswith(secret[:size]):
                pieces[n] = f"{piece[:-size]}***"
                break
    return _CUT.join([*pieces, last])


def place(url: httpx.URL | str) -> str:
    """Return host and path of a URL: what an error may name of it."""
    parts = urlsplit(str(url))
    return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
