"""Whether one tenant of several takes writes, and when it is asked again. Pure: whoever asks brings the time (monotonic, seconds).

Closed: writes pass. After a failure they are held and tried again for a while, which bridges a restart or a short limit. If that does
not help, the circuit opens: writes are answered at once instead of tried, until one that is let through now and then succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidelock.envelopes import REJECTED, TENANT_OFF, TENANT_WAITS, Receipt, Write
from tidelock.errors import Fatal, Lost, Retry, Revoked, SwitchedOff

WAITS, REVOKED, BUSY, OFF = "waits", "revoked", "busy", "off"
HOLD_S = 5.0
_FIRST_S, _HELD_MOST_S = 0.05, 1.0  # between attempts while writes are held
_OPEN_S, _OPEN_MOST_S = 5.0, 60.0  # between attempts while the circuit is open


@dataclass(frozen=True)
class Trouble:
    """Why a tenant takes no writes. ``state``: it ``waits``, its credentials are ``revoked``, it is ``busy``, or switched ``off``."""

    state: str
    message: str
    hint: str = ""

    def answer(self, place: str, write: Write) -> Receipt:
        """Return the receipt of a write that is not tried: merge parks its values, and comes again when the tenant takes writes."""
        kind = TENANT_OFF if self.state in (OFF, REVOKED) else TENANT_WAITS
        text = f"{place} takes no writes: {self.message}"
        return Receipt(write.canonical_id, write.version, REJECTED, write.native_key, kind=kind, message=text)


class Circuit:
    """One tenant's. ``hold_s``: how long failing writes are tried again before they are answered."""

    def __init__(self, hold_s: float = HOLD_S) -> None:
        self._hold_s = hold_s
        self._since: float | None = None  # since when the writes at hand fail
        self._failures = 0
        self.trouble: Trouble | None = None  # while it is open
        self.until = 0.0  # nothing is tried before

    def failed(self, error: Retry | Fatal, now: float) -> bool:
        """Take note of a failure; return whether the circuit is open now. What only a person can mend is not held."""
        asked_s = error.retry_after_s if isinstance(error, Retry) and error.retry_after_s is not None else 0.0
        if self.trouble is None:
            if self._since is None:
                self._since = now
            pause_s = max(asked_s, min(_HELD_MOST_S, _FIRST_S * 2.0**self._failures))
            if isinstance(error, Lost):  # it may have happened: what looks for it must have a chance to find it
                pause_s = max(pause_s, _HELD_MOST_S)
            self._failures += 1
            if not isinstance(error, Revoked | SwitchedOff | Fatal) and now + pause_s <= self._since + self._hold_s:
                self.until = now + pause_s
                return False
            self._failures = 0
        self.until = now + max(asked_s, min(_OPEN_MOST_S, _OPEN_S * 2.0**self._failures))
        self._failures += 1
        state = REVOKED if isinstance(error, Revoked) else OFF if isinstance(error, SwitchedOff) else WAITS
        self.trouble = Trouble(state, error.message, error.hint or "")
        return True

    def opened(self, trouble: Trouble, until: float) -> None:
        """Begin as another worker, or an earlier one, has left it."""
        self.trouble, self.until = trouble, until

    def passed(self) -> bool:
        """Take note of a success; return whether it has closed an open circuit."""
        was_open, self.trouble = self.trouble is not None, None
        self._since, self._failures, self.until = None, 0, 0.0
        return was_open
