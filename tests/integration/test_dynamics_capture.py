"""Dynamics 365 into a real Kafka: delta links, webhooks that outrun them, and seven days of silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from producers.dynamics import DynamicsProducer
from producers.hooks import HooksWorker
from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from tests.apicaptures import ENTITY, SYSTEM, ApiRig
from tests.patience import until
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack

pytestmark = pytest.mark.stack

CODE = "c0de-that-nobody-guesses"
COLUMNS = [{"column": "emailaddress1", "field": "email"}, {"column": "lastname", "field": "name"}]


def config_of(prefix: str, data: Path, central: str, running: Running, every_s: float) -> Config:
    given = running.ready["credentials"]
    credentials = {n: given[n] for n in ("tenant", "client_id", "client_secret")}
    table = {"table": "contact", "key": ["contactid"], "every_s": every_s, "map": COLUMNS}
    return Config.model_validate(
        {
            "prefix": prefix,
            "partitions": 2,
            "data": str(data),
            "central": {"dsn": central},
            "hooks": {"port": 0},
            "systems": {
                SYSTEM: {
                    "kind": "dynamics",
                    "capture": "dynamics",
                    "url": running.http,
                    "credentials": {**credentials, "hook_secret": CODE},
                    "options": {"login": running.http, "page": 20},
                    "tenants": {"one": {}},
                    "entities": {ENTITY: table},
                },
                "crm": {"capture": "none", "entities": {ENTITY: {"table": "contact", "map": COLUMNS}}},
            },
            "entities": {ENTITY: {"fields": {"email": {}, "name": {}}}},
            "flows": [{"entity": ENTITY, "from": SYSTEM, "to": "crm"}],
        }
    )


class Place:
    """A simulated environment, and what its capture has published."""

    def __init__(self, stack: Stack, config: Config, running: Running) -> None:
        self.rig = ApiRig(stack, config, DynamicsProducer)
        self.control = httpx.Client(base_url=f"{running.http}/_control", timeout=60.0)

    def post(self, path: str, body: Any) -> Any:
        got = self.control.post(path, json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def load(self, *names: str) -> list[str]:
        return [str(i) for i in self.post("/load/contact", [{"lastname": n} for n in names])["ids"]]

    def known(self) -> dict[str, str | None]:
        """Return the last names that were published, by key; None for what was deleted."""
        return {
            key: None if row is None else row["lastname"][2:].decode() for key, row in self.rig.known("one").items()
        }

    def close(self) -> None:
        self.control.close()
        self.rig.close()


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(DynamicsSimulator()) as server:
        yield server


def place(stack: Stack, prefix: str, data: Path, central: str, running: Running, every_s: float) -> Place:
    return Place(stack, config_of(prefix, data, central, running, every_s), running)


def test_what_happens_there_is_published_and_seven_days_of_silence_are_made_good(
    stack: Stack, topic_prefix: str, tmp_path: Path, database: Any, running: Running
) -> None:
    """S16: the first poll reads everything, each later one what has changed; an expired link leads to a comparison of all keys."""
    p = place(stack, topic_prefix, tmp_path, database("central"), running, 0.3)
    try:
        keys = p.load(*(f"P{n}" for n in range(50)))
        worker = p.rig.start()
        p.rig.until(lambda: len(p.known()) == 50)
        p.rig.until(lambda: len(p.rig.marks()) == 2)
        p.post("/edit/contact", [{"id": keys[0], "lastname": "Edited"}])
        p.post("/delete/contact", [keys[1]])
        p.rig.until(lambda: (p.known()[keys[0]], p.known()[keys[1]]) == ("Edited", None))
        changes = len(p.rig.changes())
        assert changes == 52
        worker.stop()
        p.rig.workers.clear()
        p.post("/delete/contact", [keys[2]])
        p.post("/edit/contact", [{"id": keys[3], "lastname": "Late"}])
        p.post("/clock", {"advance_s": 8 * 86_400})
        p.rig.start(1)
        p.rig.until(lambda: (p.known()[keys[2]], p.known()[keys[3]]) == (None, "Late"))
        assert {k: v for k, v in p.known().items() if v is None} == {keys[1]: None, keys[2]: None}
        positions: dict[str, bytes] = {}
        for change in p.rig.changes():
            assert change.position >= positions.get(change.native_key, b""), "no state stands before an earlier one"
            positions[change.native_key] = change.position
        secret = running.ready["credentials"]["client_secret"].encode()
        for topic in (p.rig.topics.cdc(SYSTEM, ENTITY), p.rig.topics.ops("signals"), p.rig.topics.ops("alerts")):
            assert not any(secret in value for _, value in p.rig.messages(topic))
    finally:
        p.close()


def test_webhooks_bring_changes_before_the_next_poll(
    stack: Stack, topic_prefix: str, tmp_path: Path, database: Any, running: Running
) -> None:
    """The next poll is an hour away: what comes, comes by webhooks, a delete by what its pre-image says."""
    p = place(stack, topic_prefix, tmp_path, database("central"), running, 3600.0)
    context = Context(p.rig.config, p.rig.clients, p.rig.codec, "hooks")
    hooks = HooksWorker(context)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            hooks.step(0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        p.rig.start()
        p.rig.until(lambda: p.rig.signals("capture/") and p.rig.state("one").get("cursors", {}).get("poll"))
        url = f"http://127.0.0.1:{hooks.port}/hooks/{SYSTEM}"
        p.post("/endpoints", {"url": url, "value": CODE, "tables": ["contact"], "images": True})
        (key,) = p.load("Quick")
        p.rig.until(lambda: p.known() == {key: "Quick"})
        p.post("/edit/contact", [{"id": key, "lastname": "Quicker"}])
        p.rig.until(lambda: p.known() == {key: "Quicker"})
        p.post("/delete/contact", [key])
        p.rig.until(lambda: p.known() == {key: None})
        until(lambda: {d["state"] for d in p.control.get("/deliveries").json()} == {"done"})
        p.post("/endpoints", {"url": url, "value": "guess", "tables": ["account"]})
        p.post("/load/account", [{"name": "A"}])
        p.rig.until(lambda: any(d["attempts"] and "guess" in d["url"] for d in p.control.get("/deliveries").json()))
        topic = p.rig.topics.jobs("increments", SYSTEM)
        assert not any(CODE.encode() in value for _, value in p.rig.messages(topic))
        assert set(p.known()) == {key}
    finally:
        stop.set()
        thread.join(60)
        hooks.close()
        context.close_access()
        p.close()
