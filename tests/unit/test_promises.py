"""The promise of a system: told when it is broken, reminded of, and told when it is kept again."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from sinks.promises import KEPT_S, REMIND_S, Promise
from tests.sinking import write
from tidelock.config import SystemSpec

DAY_S = 86_400.0


class Told:
    def __init__(self) -> None:
        self.alerts: list[tuple[str, str, str, str]] = []

    def __call__(self, kind: str, fingerprint: str, subject: str, severity: str, message: str, hint: str) -> None:
        assert hint
        self.alerts.append((kind, fingerprint, severity, message))


def promise(told: Told, **options: Any) -> Promise:
    return Promise(SystemSpec.model_validate({"options": options}), "sf", told)


def aged(who: str, age_s: float, tenant: str = "default") -> Any:
    at = time.time() - age_s
    return dataclasses.replace(write(who), source_time=int(at * 1_000_000), tenant=tenant)


def test_without_the_option_nothing_is_told() -> None:
    told = Told()
    promise(told).read([aged("a", 90 * DAY_S)])
    promise(told).look("default", 0.0)
    assert not told.alerts


def test_the_oldest_that_is_not_written_counts_for_each_tenant() -> None:
    told = Told()
    one = promise(told, promise_s=DAY_S)
    one.read([aged("a", 60.0), aged("b", DAY_S + 60.0, "east"), aged("c", 5.0, "east"), aged("d", DAY_S - 60.0)])
    ((kind, fingerprint, severity, message),) = told.alerts
    assert (kind, fingerprint, severity) == ("overdue", "overdue/sf/east", "critical")
    assert "24.0 h" in message


def test_it_is_told_once_reminded_of_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    one = promise(told, promise_s=DAY_S)
    now = time.time()
    since = now - DAY_S - 1.0
    for later, count in ((0.0, 1), (60.0, 1), (REMIND_S + 1.0, 2)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        one.look("default", since)
        assert len(told.alerts) == count
    monkeypatch.setattr(time, "time", lambda: now + REMIND_S + 2.0 + KEPT_S)
    one.look("default", now)
    assert [severity for _, _, severity, _ in told.alerts] == ["critical", "critical", "info"]
    one.look("default", now)
    assert len(told.alerts) == 3


def test_a_backlog_in_which_late_and_fresh_writes_alternate_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    one = promise(told, promise_s=DAY_S)
    now = time.time()
    for second in range(20):
        monkeypatch.setattr(time, "time", lambda second=second: now + second)
        one.look("default", now - 2 * DAY_S)
        one.look("default", now)
    assert [severity for _, _, severity, _ in told.alerts] == ["critical"]
    monkeypatch.setattr(time, "time", lambda: now + 20.0 + KEPT_S)
    one.look("default", now)
    assert [severity for _, _, severity, _ in told.alerts] == ["critical", "info"]
