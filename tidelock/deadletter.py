"""Dead letters: what a stage could not take, kept as it came, with what went wrong in its headers.

Headers: ``dlq.stage``, ``dlq.kind``, ``dlq.message``, ``dlq.fingerprint`` (equal for the same trouble), ``dlq.attempts``,
``dlq.first_failed``, ``dlq.last_failed`` (microseconds since 1970), ``dlq.origin`` (topic-partition-offset), and where known
``dlq.field``, ``dlq.canonical_id``, ``dlq.trace``. Headers that the message had stay; times and attempts of an earlier failure are carried on.
"""

from __future__ import annotations

import hashlib
import time

from confluent_kafka import Message

from tidelock.topics import Topics

Headers = list[tuple[str, bytes]]
Letter = tuple[str, bytes | None, bytes | None, int, Headers]  # topic, key, value, partition, headers
_MOST_TEXT = 4000


def dead_letter(
    topics: Topics,
    message: Message,
    stage: str,
    system: str,
    entity: str,
    kind: str,
    text: str,
    *,
    field: str | None = None,
    canonical_id: str | None = None,
    trace: str | None = None,
    attempts: int = 1,
    first_failed: int | None = None,
) -> Letter:
    """Make the dead letter of a message. ``first_failed`` is in microseconds since 1970; now, unless given or known from before."""
    now = time.time_ns() // 1000
    before: dict[str, bytes] = {}
    kept: Headers = []
    for name, value in message.headers() or ():
        raw = value if isinstance(value, bytes) else b""
        if name.startswith("dlq."):
            before[name] = raw
        else:
            kept.append((name, raw))
    first = before.get("dlq.first_failed") or b"%d" % (first_failed or now)
    origin = before.get("dlq.origin") or f"{message.topic()}-{message.partition()}-{message.offset()}".encode()
    headers = {
        "dlq.stage": stage.encode(),
        "dlq.kind": kind.encode(),
        "dlq.message": text[:_MOST_TEXT].encode(),
        "dlq.fingerprint": fingerprint(stage, system, entity, kind, field).encode(),
        "dlq.attempts": b"%d" % (attempts + _number(before.get("dlq.attempts"))),
        "dlq.first_failed": first,
        "dlq.last_failed": b"%d" % now,
        "dlq.origin": origin,
    }
    for name, text_or_none in (("dlq.field", field), ("dlq.canonical_id", canonical_id), ("dlq.trace", trace)):
        if text_or_none:
            headers[name] = text_or_none.encode()
    return topics.dlq(stage, system, entity), message.key(), message.value(), -1, kept + list(headers.items())


def fingerprint(stage: str, system: str, entity: str, kind: str, field: str | None = None) -> str:
    """Return what is equal for dead letters of the same trouble: 16 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join((stage, system, entity, kind, field or "")).encode(), digest_size=8).hexdigest()


def _number(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() else 0
