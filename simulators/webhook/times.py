"""Times as clients send them."""

from __future__ import annotations

from datetime import UTC, datetime


def milliseconds(text: str) -> int:
    """Return RFC 3339 with a zone, or seconds since 1970, as milliseconds since 1970. Raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("the time zone is missing") from None
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    if not 0 <= seconds < 1e11:
        raise ValueError("no time that could be meant")
    return int(seconds * 1000)
