"""The limits on calls: a rolling window of 10 seconds per app, a day per portal, and searches per second; with their headers."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from simulators.hubspot.errors import Refused, limited
from simulators.hubspot.options import Options
from simulators.hubspot.tokens import Grant

_WINDOW_S = 10.0


class Limits:
    """What has been used of each limit."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._zone = ZoneInfo(options.time_zone)
        self._calls: dict[tuple[int, bool], deque[float]] = {}
        self._searches: deque[float] = deque()
        self._resets_at = 0.0
        self.used_today = 0

    def resets_at(self, now: float) -> float:
        """Return when the day ends in the portal's time zone, and begin a new one if it has ended."""
        if now >= self._resets_at:
            day = datetime.fromtimestamp(now, self._zone).date() + timedelta(days=1)
            self._resets_at = datetime(day.year, day.month, day.day, tzinfo=self._zone).astimezone(UTC).timestamp()
            self.used_today = 0
        return self._resets_at

    def take(self, grant: Grant, now: float) -> dict[str, str]:
        """Count one call and return the headers that tell what is left. Raises Refused (429) if nothing is."""
        options = self._options
        most = options.burst if grant.private else options.oauth_burst
        headers: dict[str, str] = {}
        self.resets_at(now)
        if grant.private and options.daily:
            left = options.daily - self.used_today - 1
            headers["X-HubSpot-RateLimit-Daily"] = str(options.daily)
            headers["X-HubSpot-RateLimit-Daily-Remaining"] = str(max(left, 0))
            if left < 0:
                raise limited("DAILY", headers)
        if most:
            calls = self._calls.setdefault((grant.app_id, grant.private), deque())
            _forget(calls, now - _WINDOW_S)
            left = most - len(calls) - 1
            headers["X-HubSpot-RateLimit-Max"] = str(most)
            headers["X-HubSpot-RateLimit-Remaining"] = str(max(left, 0))
            headers["X-HubSpot-RateLimit-Interval-Milliseconds"] = "10000"
            headers["X-HubSpot-RateLimit-Secondly"] = str(most // 10)
            headers["X-HubSpot-RateLimit-Secondly-Remaining"] = str(max(min(left, most // 10), 0))
            if left < 0:
                raise limited("TEN_SECONDLY_ROLLING", headers)
            calls.append(now)
        self.used_today += grant.private
        return headers

    def take_search(self, now: float) -> None:
        """Count one search; searches have a limit of their own and no headers. Raises Refused (429)."""
        most = self._options.search_per_s
        if not most:
            return
        _forget(self._searches, now - 1.0)
        if len(self._searches) >= most:
            raise limited("SECONDLY")
        self._searches.append(now)

    def forced(self, policy: str, retry_after_s: object = None) -> Refused:
        """Return the error of a limit that a fault says has been reached."""
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        return limited(policy, headers)


def _forget(calls: deque[float], before: float) -> None:
    while calls and calls[0] <= before:
        calls.popleft()
