"""The error tree, typed by what to do next.

    TidelockError
    ├── Retry    the world may be different in a moment: wait, keep the offset, try again
    │   ├── Lost     what was asked for may have happened or not: never repeated in place
    │   ├── Revoked  a tenant's credentials are no longer good: this tenant waits for a person, the others go on
    │   └── SwitchedOff  a person has switched a tenant off: it is meant to wait
    ├── Reject   this record (or field) is bad: dead-letter or park it, go on with the others
    └── Fatal    the task or the destination is bad: stop, keep the offset, never dead-letter

Foreign errors (psycopg, confluent_kafka, httpx, OSError) are translated into these once, at the edge that met them.
"""

from __future__ import annotations


class TidelockError(Exception):
    """What every error of this project is; ``str()`` is a sentence for a person."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class Retry(TidelockError):
    """The world may be different in a moment; ``retry_after_s`` is the other side's own wish, if it gave one."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Lost(Retry):
    """The connection broke or another worker took over: what was under way may have happened or not. Never retried in place."""


class Revoked(Retry):
    """A tenant's credentials are no longer good; only a person can mend it, and every other tenant goes on."""


class SwitchedOff(Retry):
    """A person has switched this tenant off while everything runs; it is meant to wait, and nobody need be told."""


class Reject(TidelockError):
    """This record, or this field of it, cannot be taken; ``kind`` is a stable snake_case word for grouping."""

    def __init__(self, message: str, *, kind: str, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.field = field


class Fatal(TidelockError):
    """The task cannot go on until somebody mends something; the offset stays where it is."""
