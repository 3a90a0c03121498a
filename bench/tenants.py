"""Two hundred tenants of one system behind an API, polled by two workers, while one of them loads a hundred thousand records.

How late a poll was is the time from when it was due to when its end stands on record. All tenants but one share one simulator of a small
shop, the large one has its own, so that the simulators are not what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.contestant import Say
from tidelock.config import Config
from tidelock.embedded import Stack
from tidelock.errors import Fatal
from tidelock.kafka import KafkaClients, ensure_topics
from tidelock.registry import Registry
from tidelock.supervisor import Supervisor
from tidelock.topicread import read_all
from tidelock.topics import Topics
from tidelock.topology import all_topics

TENANTS, SMALL, EVERY_S, LASTS_S = 200, 20, 60.0, 150.0
WORKERS = 2
PREFIX = "bench_tenants."


def measure(stack: Stack, folder: Path, events: int, say: Say) -> dict[str, Any]:
    """Return how late polls were, how fast the large tenant was loaded, and how many calls were made."""
    with ExitStack() as cleanup:
        say(f"tenants: starting two shops, one of them with {events} customers")
        small = cleanup.enter_context(_shop("customers", SMALL))
        large = cleanup.enter_context(_shop("customers", events))
        config = _config(stack, folder, small, large)
        endpoints = stack.endpoints()
        clients = KafkaClients(endpoints.kafka)
        ensure_topics(clients.admin(), all_topics(config))
        Registry(endpoints.registry).require_backward()
        supervisor = Supervisor(
            config, endpoints.kafka, endpoints.registry, only=["capture.shop"], slots={"capture.shop": WORKERS}
        )
        supervisor.start()
        cleanup.callback(supervisor.stop)
        began = time.time()
        say(f"tenants: {TENANTS} tenants are polled every {EVERY_S:.0f} s by {WORKERS} workers for {LASTS_S:.0f} s")
        while time.time() < began + LASTS_S:
            supervisor.watch()
            time.sleep(0.5)
        supervisor.stop()
        return {"tenants": _told(clients, Topics(PREFIX), began, events)}


@contextmanager
def _shop(what: str, how_many: int) -> Iterator[dict[str, Any]]:
    line = [sys.executable, "-m", "tidelock", "simulate", "shop", "-o", f"{what}={how_many}", "-o", "limit=0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise Fatal("the simulator of the shop did not start", hint="`tidelock simulate shop` says why")
        yield json.loads(first)
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def _config(stack: Stack, folder: Path, small: dict[str, Any], large: dict[str, Any]) -> Config:
    central = stack.postgres.create_database("bench_tenants")
    tenants: dict[str, dict[str, Any]] = {f"t{n:03d}": {"url": small["http"]} for n in range(1, TENANTS)}
    tenants["t000"] = {"url": large["http"], "credentials": {"api_key": large["credentials"]["api_key"]}}
    fields = (
        "email",
        "first_name",
        "last_name",
        "phone",
        "city",
        "country",
        "postal_code",
        "address1",
        "company",
        "notes",
    )
    table = {"table": "customers", "every_s": EVERY_S, "map": [{"column": c, "field": c} for c in fields]}
    return Config.model_validate(
        {
            "prefix": PREFIX,
            "data": str(folder / "tenants"),
            "central": {"dsn": central},
            "systems": {
                "shop": {
                    "kind": "shop",
                    "capture": "shop",
                    "credentials": {"api_key": small["credentials"]["api_key"]},
                    "tenants": tenants,
                    "options": {"rate": [100_000, 10]},
                    "entities": {"contact": table},
                },
                "hub": {"kind": "store", "capture": "none", "dsn": central, "entities": {"contact": table}},
            },
            "entities": {"contact": {"match": [["email"]], "fields": {c: {} for c in fields}}},
            "flows": [{"entity": "contact", "from": "shop", "to": "hub"}],
        }
    )


def _told(clients: KafkaClients, topics: Topics, began: float, events: int) -> dict[str, Any]:
    """Read from the topics what became of every poll and of the load."""
    due: dict[tuple[str, int], float] = {}
    for message in read_all(clients, [topics.jobs("increments", "shop")]):
        job = json.loads(message.value() or b"{}")
        if job.get("kind") == "poll":
            due[job["tenant"], job["state"].get("seq", 0)] = float(job.get("due", 0.0))
    late: list[float] = []
    polls: dict[str, int] = {}
    loaded, loaded_at = 0, 0.0
    for message in read_all(clients, [topics.ops("signals")]):
        key, at = (message.key() or b"").decode(), message.timestamp()[1] / 1000
        value = json.loads(message.value() or b"{}")
        if key.startswith("capture/shop/"):
            tenant, seq = key.split("/")[2], int(value["state"].get("seq", 0))
            asked = due.get((tenant, seq - 1))
            if asked is not None and asked > began:  # the first one of all was due since 1970
                late.append(at - asked)
            polls[tenant] = polls.get(tenant, 0) + 1
        elif key.startswith("load/shop/t000/"):
            rows = int(value["load"].get("rows", 0))
            if rows > loaded:
                loaded, loaded_at = rows, at
    late.sort()
    if not late or not loaded:
        raise Fatal("no polls or no load were told of", hint="the workers' log says why")
    return {
        "tenants": TENANTS,
        "workers": WORKERS,
        "every_s": EVERY_S,
        "polls": len(late),
        "tenants_polled": len(polls),
        "fewest_polls_of_a_tenant": min(polls.values()),
        "late_p50_s": round(late[len(late) // 2], 2),
        "late_p99_s": round(late[int(len(late) * 0.99)], 2),
        "late_most_s": round(late[-1], 2),
        "loaded_records": loaded,
        "of": events,
        "loaded_per_s": round(loaded / max(1e-3, loaded_at - began)),
    }
