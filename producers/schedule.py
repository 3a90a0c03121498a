"""When periodic captures run, and what ``ops.runs`` is told of their runs."""

from __future__ import annotations

import datetime as dt
import json
import time
import zoneinfo

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from producers.base import Publisher
from tidelock.context import Context
from tidelock.errors import Fatal

IDLE_REPORT_S = 60.0


class Schedule:
    """When a run is due: at the moments of a cron expression, or every so many seconds.

    A moment that was missed because nothing was running is made up for once, at the start. Times are seconds since 1970.
    """

    def __init__(self, cron: str | None, every_s: float, zone: str = "UTC", *, what: str = "schedule") -> None:
        self.cron = cron
        self._every_s = every_s
        try:
            self._zone = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise Fatal(
                f"{what}: there is no time zone {zone!r}",
                hint="set the system's `options.timezone` to a name such as Europe/Berlin",
            ) from error
        if cron is not None and not croniter.is_valid(cron):
            raise Fatal(
                f"{what}: {cron!r} is no cron expression",
                hint="five fields: minute hour day month weekday, for example 0 3 * * * (every night at three)",
            )

    def due(self, last: float) -> float:
        """Return when the next run is due after one that began at ``last``."""
        if self.cron is None:
            return last + self._every_s
        try:
            step = croniter(self.cron, dt.datetime.fromtimestamp(last, self._zone))
            return float(step.get_next(dt.datetime).timestamp())
        except (CroniterBadCronError, CroniterBadDateError) as error:
            raise Fatal(f"the cron expression {self.cron!r} never comes true: {error}", hint="correct it") from error


class RunLog:
    """Tell ``ops.runs`` of runs: scheduled ones when they start and end, frequent idle ones about once a minute."""

    def __init__(self, context: Context, system: str, publisher: Publisher) -> None:
        self._topic = context.topics.ops("runs")
        self._system = system
        self._publisher = publisher
        self._quiet: dict[tuple[str, str, str | None], tuple[float, int]] = {}

    def started(self, entity: str, kind: str, due: float, started: float) -> None:
        """Tell that a scheduled run began, so that one that hangs is seen."""
        self._send(entity, kind, due, started, None, 0, 0, None, 1)

    def finished(
        self,
        entity: str,
        kind: str,
        due: float,
        started: float,
        read: int,
        published: int,
        error: str | None,
        *,
        scheduled: bool,
        tenant: str | None = None,
    ) -> None:
        """Tell how a run ended; ``tenant`` is named where there are several."""
        told, runs = self._quiet.get((entity, kind, tenant), (0.0, 0))
        now = time.time()
        if not scheduled and error is None and published == 0 and now - told < IDLE_REPORT_S:
            self._quiet[entity, kind, tenant] = (told, runs + 1)
            return
        self._quiet[entity, kind, tenant] = (now, 0)
        self._send(entity, kind, due, started, now, read, published, error, runs + 1, tenant)

    def _send(
        self,
        entity: str,
        kind: str,
        due: float,
        started: float,
        finished: float | None,
        read: int,
        published: int,
        error: str | None,
        runs: int,
        tenant: str | None = None,
    ) -> None:
        content = {
            "system": self._system,
            "entity": entity,
            "kind": kind,
            "due": int(due * 1e6),
            "started": int(started * 1e6),
            "finished": None if finished is None else int(finished * 1e6),
            "read": read,
            "published": published,
            "error": error,
            "runs": runs,
            **({} if tenant is None else {"tenant": tenant}),
        }
        place = self._system if tenant is None else f"{self._system}/{tenant}"
        key = f"{place}/{entity}/{kind}".encode()
        self._publisher.raw(self._topic, key, json.dumps(content, separators=(",", ":")).encode())
