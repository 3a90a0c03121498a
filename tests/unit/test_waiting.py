"""What people are told of creates that wait for a seed, and when they are alerted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from processors.overdue import PATIENCE_S, Overdue
from tidelock.config import Config, TenantSpec
from tidelock.waiting import Wait, waits

ENTITY = {"contacts": {"map": [{"column": "name", "field": "name"}], "table": "contacts"}}
CONFIG = Config.model_validate(
    {
        "entities": {"contacts": {"fields": {"name": {}}}},
        "flows": [{"entity": "contacts", "from": "shop", "to": ["billing", "store"]}],
        "systems": {
            "shop": {"capture": "replication", "dsn": "postgresql://h/d", "entities": ENTITY},
            "billing": {"capture": "replication", "dsn": "postgresql://h/e", "entities": ENTITY},
            "off": {"capture": "replication", "dsn": "postgresql://h/e", "entities": ENTITY, "enabled": False},
            "store": {"capture": "none", "dsn": "postgresql://h/f", "entities": ENTITY},
        },
    }
)


def waiting(system: str = "billing", creates: int = 2500, tenant: str = "default") -> dict[str, dict[str, Any]]:
    body = {"kind": "waiting", "system": system, "tenant": tenant, "entity": "contacts", "creates": creates}
    return {f"waiting/contacts/{system}/{tenant}": body}


def seed(state: str, rows: int = 12_000, estimate: int | None = 40_000, **more: Any) -> dict[str, dict[str, Any]]:
    return {"seed/billing/contacts": {"state": state, "rows": rows, "estimate": estimate, **more}}


SEEDED = {"seeded/billing/default/contacts": {"kind": "seeded"}}


@pytest.mark.parametrize(
    ("records", "state", "text", "what"),
    [
        (seed("running"), "reading", "2,500 creates wait for the seed of billing/contacts, 12,000 of 40,000 rows read", ""),
        (seed("running", estimate=None), "reading", "12,000 rows read", ""),
        (seed("running", estimate=11_000), "reading", "contacts, 12,000 rows read", ""),
        (seed("failed", message="no right"), "failed", "which has failed: no right", "tidelock seed billing contacts"),
        ({}, "not read", "which has not begun", "capture.billing runs"),
        (seed("done"), "reading", "12,000 of 40,000 rows read", ""),
        (seed("done") | SEEDED, "deciding", "which is through: they are being decided", ""),
    ],
    ids=["running", "no-estimate", "low-estimate", "failed", "never", "done", "through"],
)  # fmt: skip
def test_it_is_said_how_many_wait_for_what_and_why(records: dict[str, Any], state: str, text: str, what: str) -> None:
    (wait,) = waits(waiting() | records, CONFIG)
    assert wait.state == state
    assert text in wait.text
    assert what in wait.next
    assert bool(wait.next) == wait.stuck == (state in ("failed", "not read"))
    assert wait.as_dict()["text"] == wait.text


def test_one_create_is_spoken_of_as_one() -> None:
    (wait,) = waits(waiting(creates=1), CONFIG)
    assert wait.text.startswith("1 create waits for")


def test_a_system_that_is_off_is_named_as_the_reason() -> None:
    (wait,) = waits(waiting("off"), CONFIG)
    assert wait.stuck
    assert "off is not enabled" in wait.text


@pytest.mark.parametrize("system", ["gone", "store"])
def test_what_is_captured_no_more_holds_nothing_up(system: str) -> None:
    assert waits(waiting(system) | waiting("billing", tenant="former"), CONFIG) == []


PORTALS = CONFIG.model_copy(
    update={
        "systems": CONFIG.systems
        | {
            "billing": CONFIG.systems["billing"].model_copy(
                update={"tenants": {"a": TenantSpec(), "b": TenantSpec(enabled=False)}}
            )
        }
    }
)


def test_every_tenant_waits_for_its_own_seed() -> None:
    records = waiting(tenant="a") | waiting(tenant="b", creates=1) | waiting()
    a, b = waits(records, PORTALS)
    assert a.text == "2,500 creates wait for the seed of billing/a/contacts, which has not begun"
    assert a.stuck
    assert "`tidelock seed billing contacts --tenant a`" in a.next
    assert (b.state, b.stuck) == ("off", False), "it is meant to wait"
    assert b.text == "1 create waits for the seed of billing/b/contacts, and billing/b is switched off"
    read: dict[str, dict[str, Any]] = {
        "seed/billing/a/contacts": {"state": "running", "rows": 7},
        "seed/billing/contacts": {"state": "failed"},
    }
    assert waits(records | read, PORTALS)[0].state == "reading"
    assert waits(records | {"seeded/billing/a/contacts": {}}, PORTALS)[0].state == "deciding"


def test_the_clock_tells_of_every_tenant_but_those_that_are_switched_off() -> None:
    overdue = Overdue(PORTALS)
    for key, body in (waiting(tenant="a") | waiting(tenant="b")).items():
        overdue.take(key.encode(), json.dumps(body).encode(), 1000)
    overdue.take(b"seed/billing/a/contacts", json.dumps({"state": "running", "rows": 1}).encode(), 1200)
    assert list(overdue.alerts(1200 + PATIENCE_S - 1)) == []
    (alert,) = overdue.alerts(1200 + PATIENCE_S)
    assert alert["message"] == "creates wait for the seed of billing/a/contacts, which has read nothing for 5 minutes"
    assert (alert["fingerprint"], alert["subject"]) == ("creates_wait/billing/a/contacts", "billing/a")


class Clock:
    """`Overdue` with shorthands."""

    def __init__(self) -> None:
        self.overdue = Overdue(CONFIG)

    def take(self, records: dict[str, dict[str, Any]], at: float) -> None:
        for key, body in records.items():
            self.overdue.take(key.encode(), json.dumps(body).encode(), at)

    def said(self, now: float) -> list[str]:
        return [a["message"] for a in self.overdue.alerts(now)]


def test_a_seed_that_does_not_begin_is_told_once_after_some_patience() -> None:
    clock = Clock()
    clock.take(waiting(creates=1), 1000)
    clock.take(waiting(creates=9), 1200)
    assert clock.said(1000 + PATIENCE_S - 1) == []
    assert clock.said(1000 + PATIENCE_S) == ["creates wait for the seed of billing/contacts, which has not begun"]
    assert clock.said(1000 + 2 * PATIENCE_S) == []


def test_a_seed_that_reads_is_left_alone_until_it_stands_still() -> None:
    clock = Clock()
    clock.take(waiting(), 1000)
    for at in range(1000, 2000, 100):
        clock.take(seed("running", rows=at), at)
        assert clock.said(at + 50) == []
    assert clock.said(1900 + PATIENCE_S) == [
        "creates wait for the seed of billing/contacts, which has read nothing for 5 minutes"
    ]


def test_creates_that_are_not_decided_though_the_seed_is_through_are_told_of() -> None:
    clock = Clock()
    clock.take(waiting(creates=9) | seed("done") | SEEDED, 1000)
    clock.take(waiting(creates=5), 1000 + PATIENCE_S - 1)
    assert clock.said(1000 + PATIENCE_S) == []
    (alert,) = clock.overdue.alerts(1000 + 2 * PATIENCE_S)
    assert "which is through" in alert["message"]
    assert "route and identify run" in alert["hint"]


def test_a_seed_that_failed_is_told_at_once_and_again_if_it_fails_otherwise() -> None:
    clock = Clock()
    clock.take(waiting() | seed("failed", message="no right"), 1000)
    (alert,) = clock.overdue.alerts(1001)
    assert alert["message"] == "creates wait for the seed of billing/contacts, which has failed: no right"
    assert "tidelock seed billing contacts" in alert["hint"]
    assert (alert["system"], alert["entity"], alert["kind"]) == ("billing", "contacts", "creates_wait")
    clock.take(seed("failed", message="no table"), 1002)
    assert len(clock.said(1003)) == 1


def test_when_nothing_waits_any_more_nothing_is_told_and_the_next_time_is_a_new_one() -> None:
    clock = Clock()
    clock.take(waiting(), 1000)
    assert clock.said(1000 + PATIENCE_S)
    (key,) = waiting()
    clock.overdue.take(key.encode(), None, 1400)
    assert clock.said(9000) == []
    clock.take(waiting(), 9000)
    assert clock.said(9001) == []
    assert clock.said(9000 + PATIENCE_S)


def test_a_place_is_stuck_only_if_a_person_is_needed() -> None:
    assert not Wait("a", "b", 1, "deciding", None, None, "r").stuck
    assert Wait("a", "b", 1, "failed", None, None, "r").stuck
