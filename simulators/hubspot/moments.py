"""Times as HubSpot spells them: ISO 8601 with milliseconds and a Z; days without a time."""

from __future__ import annotations

from datetime import UTC, date, datetime

DAY_MS = 86_400_000


def spelt(ms: int) -> str:
    """Return a moment (milliseconds since 1970) as text."""
    whole, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def read(text: str) -> int:
    """Return the milliseconds of a moment given as epoch milliseconds or in ISO 8601. Raises ValueError."""
    text = text.strip()
    if text.lstrip("-").isdecimal():
        ms = int(text)
        spelt(ms)
        return ms
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def read_day(text: str) -> str:
    """Return a day as YYYY-MM-DD, given so or as the milliseconds of its midnight in UTC. Raises ValueError."""
    text = text.strip()
    if not text.lstrip("-").isdecimal():
        if len(text) == 10:
            return date.fromisoformat(text).isoformat()
        text = str(read(text))
    ms = int(text)
    if ms % DAY_MS:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
        raise ValueError(f"{text} is at {moment.hour}:{moment.minute}:{moment.second}.{ms % 1000} UTC, not midnight!")
    return spelt(ms)[:10]
