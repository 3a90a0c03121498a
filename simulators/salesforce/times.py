"""Times as Salesforce spells them: UTC and whole seconds, so that they sort as text."""

from __future__ import annotations

from datetime import UTC, date, datetime


def stamp(at: float) -> str:
    """Return seconds since 1970 as a datetime field; fractions are cut off."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def seconds(text: str) -> float:
    """Return a datetime field as seconds since 1970. Raises ValueError."""
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def as_stamp(text: str) -> str | None:
    """Return an ISO 8601 time, with or without offset, as a datetime field; None if it is none."""
    if len(text) < 10:
        return None
    try:
        return stamp(seconds(text))
    except (ValueError, OverflowError, OSError):
        return None


def as_date(text: str) -> str | None:
    """Return an ISO 8601 date, or the date of a time, as a date field; None if it is none."""
    try:
        return date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        whole = as_stamp(text)
        return whole[:10] if whole is not None else None


def bulk(text: str) -> str:
    """Return a datetime field as bulk results and events spell it."""
    return text.replace("+0000", "Z")
