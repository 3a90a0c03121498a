"""When periodic captures run."""

from __future__ import annotations

import datetime as dt

import pytest

from producers.schedule import Schedule
from tidelock.errors import Fatal


def _at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def test_every_so_many_seconds() -> None:
    assert Schedule(None, 5.0).due(100.0) == 105.0


def test_cron_is_read_in_the_given_time_zone() -> None:
    nightly = "0 3 * * *"
    assert Schedule(nightly, 0).due(_at("2026-06-01T02:00:00+00:00")) == _at("2026-06-01T03:00:00+00:00")
    berlin = Schedule(nightly, 0, "Europe/Berlin")
    assert berlin.due(_at("2026-06-01T00:30:00+00:00")) == _at("2026-06-01T01:00:00+00:00")
    assert berlin.due(_at("2026-01-10T00:30:00+00:00")) == _at("2026-01-10T02:00:00+00:00")


def test_a_window_that_passed_unseen_is_due_at_once() -> None:
    assert Schedule("0 3 * * *", 0).due(_at("2026-06-01T03:00:01+00:00")) < _at("2026-06-02T12:00:00+00:00")


@pytest.mark.parametrize("cron", ["every night", "61 * * * *", ""])
def test_a_bad_expression_is_explained(cron: str) -> None:
    with pytest.raises(Fatal, match="five fields"):
        Schedule(cron, 0, what="entity contact of system legacy")


def test_an_unknown_time_zone_is_explained() -> None:
    with pytest.raises(Fatal, match="Mars"):
        Schedule(None, 5, "Mars/Olympus")
