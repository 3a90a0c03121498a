"""S29: somebody edits twenty thousand records of one tenant at once."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from producers.seen import each_message
from tests.apicaptures import ENTITY, SYSTEM, ApiRig, config_of
from tests.vendor import OFFICES, Office
from tidelock.apis.records import Record
from tidelock.embedded import Stack
from tidelock.topicread import read_all

pytestmark = pytest.mark.stack

MANY, WIDE = 20_000, 4_000
OTHERS = ("two", "three", "four", "five", "six")


class WideOffice(Office):
    """Keeps short names and tells long ones, so that what it holds itself is no part of what is measured."""

    def record(self, key: str) -> Record:
        """Return a record with a long name."""
        found = super().record(key)
        return dataclasses.replace(found, values={**found.values, "name": str(found.values["name"]).ljust(WIDE, "-")})


def test_s29_twenty_thousand_edits_in_one_tenant_delay_no_other_take_little_memory_and_all_arrive(
    stack: Stack, topic_prefix: str, tmp_path: Path, database: Callable[[str], str]
) -> None:
    OFFICES[SYSTEM, "one"] = WideOffice()
    both = [{"column": c, "field": c} for c in ("email", "name")]
    rig = ApiRig(stack, config_of(topic_prefix, tmp_path, database("central"), ("one", *OTHERS), map=both))
    try:
        _run(rig)
    finally:
        rig.close()


def _run(rig: ApiRig) -> None:
    one = rig.offices["one"]
    keys = [one.create({"email": f"{n}@example.com", "name": "before"}) for n in range(MANY)]
    one.page = 500
    rig.start()
    rig.ready()
    rig.until(lambda: all(rig.state(t)["seq"] >= 4 for t in OTHERS))
    usual = max(lateness(rig, 0.0))
    memory, most = psutil.Process(os.getpid()), 0
    held = memory.memory_info().rss
    polls = {t: rig.state(t)["seq"] for t in OTHERS}
    began = edited_at(rig)
    for n, key in enumerate(keys):
        one.edit(key, {"name": f"after {n} "})

    def through() -> bool:
        nonlocal most
        most = max(most, memory.memory_info().rss - held)
        return bool(rig.state("one")["cursors"]["poll"]["version"] >= one.newest)

    rig.until(through)
    for tenant, before in polls.items():
        assert rig.state(tenant)["seq"] > before, f"{tenant} was not polled meanwhile"
    late = max(lateness(rig, began))
    assert late < 3.0 + 5 * usual, f"polls of others were up to {late:.1f} s late, {usual:.1f} s before"
    assert most < MANY * WIDE // 2, f"{most / 1e6:.0f} MB more, for {MANY * WIDE / 1e6:.0f} MB of edits"
    arrived: dict[str, bytes] = {}

    def take(key: bytes, value: bytes | None) -> None:
        if value is not None and key.startswith(b"one/"):
            change = rig.codec.change_reader(value).read(value)
            arrived[change.native_key] = (change.after or [b""])[[c.name for c in change.columns].index("name")]

    each_message(rig.context, rig.topics.cdc(SYSTEM, ENTITY), take)
    assert set(arrived) == set(keys)
    assert [k for n, k in enumerate(keys) if f"after {n} -".encode() not in arrived[k]] == []


def edited_at(rig: ApiRig) -> float:
    """Return the time of the last poll that has ended, as the captures tell it."""
    return max(float(rig.state(t)["ran"]["poll"]) for t in OTHERS)


def lateness(rig: ApiRig, since: float) -> list[float]:
    """Return how many seconds after it was due each poll of the other tenants had ended, of those due since a time (0: all but the first)."""
    due: dict[tuple[str, int], float] = {}
    for _, value in rig.messages(rig.topics.jobs("increments", SYSTEM)):
        job = json.loads(value)
        if job["kind"] == "poll" and job["tenant"] in OTHERS:
            due[job["tenant"], job.get("state", {}).get("seq", 0)] = float(job.get("due", 0.0))
    out: list[float] = []
    for tenant, seq, at in ended(rig):
        asked = due.get((tenant, seq - 1), 0.0)
        if asked > max(since, 1.0):
            out.append(at - asked)
    assert out, "no polls were told of"
    return out


def ended(rig: ApiRig) -> list[tuple[str, int, float]]:
    """Return tenant, number and time of every end of a poll that stands on record."""
    out = []
    for message in read_all(rig.clients, [rig.topics.ops("signals")]):
        head, *parts = (message.key() or b"").decode().split("/")
        if head == "capture" and parts[1] in OTHERS:
            state = json.loads(message.value() or b"{}")["state"]
            out.append((parts[1], int(state.get("seq", 0)), message.timestamp()[1] / 1000))
    return out
