"""The multipart batches of OData 4 (specification, part 1, section 11.7): many requests in one call, each with its own answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from typing import Any

import httpx
import msgspec

from tidelock.apis.judging import Answer
from tidelock.errors import Retry

_LINE = b"\r\n"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Part:
    """One request of a batch; ``url`` is a path from the server's root."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


def encode_batch(parts: Sequence[Part]) -> tuple[str, bytes]:
    """Return (content type, body) of a batch of requests that stand each for themselves."""
    boundary = f"batch_{secrets.token_hex(16)}"
    out: list[bytes] = []
    for part in parts:
        out += [
            f"--{boundary}".encode(),
            b"Content-Type: application/http",
            b"Content-Transfer-Encoding: binary",
            b"",
            f"{part.method} {part.url} HTTP/1.1".encode(),
            *(f"{name}: {value}".encode() for name, value in part.headers.items()),
        ]
        if part.body is None:
            out += [b"", b""]
        else:
            out += [b"Content-Type: application/json", b"", _ENCODER.encode(part.body)]
    out += [f"--{boundary}--".encode(), b""]
    return f"multipart/mixed; boundary={boundary}", _LINE.join(out)


def decode_batch(answer: Answer) -> list[Answer]:
    """Return the answers of a batch in order. Raises Retry if it is none."""
    kind = answer.headers.get("Content-Type", "")
    boundary = next(
        (p.split("=", 1)[1].strip().strip('"') for p in kind.split(";") if p.strip().startswith("boundary=")), ""
    )
    if not boundary:
        raise Retry(
            f"the answer to a batch is no multipart message ({kind or 'nothing said of its type'})",
            hint="tried again by itself",
        )
    out: list[Answer] = []
    for raw in (b"\r\n" + answer.content).split(b"\r\n--" + boundary.encode())[1:]:
        if raw.startswith(b"--"):
            break
        _, _, inner = raw.partition(b"\r\n\r\n")
        head, _, body = inner.partition(b"\r\n\r\n")
        status, _, headers = head.lstrip().partition(b"\r\n")
        named = BytesHeaderParser().parsebytes(headers + b"\r\n\r\n")
        out.append(Answer(int(status.split()[1]), httpx.Headers(list(named.items())), body.strip()))
    return out
