"""Commands on systems with several tenants: what they ask for, and what they ask back when it is not clear which one is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.model.world import MemoryRegistry
from tests.sinking import encoded, write
from tidelock.cli import change, decide, dlq, look
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.envelopes import Entry
from tidelock.errors import Fatal
from tidelock.topics import Topics

TABLES = {"contact": {"table": "contact", "map": [{"column": "name", "field": "name"}]}}
CONFIG = Config.model_validate(
    {
        "partitions": 2,
        "systems": {
            "crm": {"dsn": "postgresql://h/d", "entities": TABLES},
            "portal": {
                "kind": "saas",
                "capture": "saas",
                "tenants": {"north": {}, "south": {}, "west": {"enabled": False}},
                "entities": TABLES,
            },
        },
        "entities": {"contact": {"fields": {"name": {}}}},
        "flows": [{"entity": "contact", "from": "portal", "to": "crm"}],
    }
)
LINKS = {
    ("crm", "default", "17"): "ann",
    ("portal", "north", "1"): "ann",
    ("portal", "south", "1"): "bob",
    ("portal", "former", "1"): "eve",
}


class Kafka:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes]] = []
        self.session: Any = None

    def produce(self, topic: str, key: bytes | None = None, value: bytes = b"", partition: int = -1) -> None:
        self.sent.append((topic, key, value))

    def poll(self, _wait_s: float) -> int:
        return 0

    def flush(self, _wait_s: float) -> int:
        return 0

    def entries(self, topic: str = "journal.contact") -> list[Entry]:
        """Return what was put into a topic of entries."""
        return [Entry.decode(v) for t, _, v in self.sent if t == topic]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """Let commands work on the configuration above, a few links, and memory."""
    fake = Kafka()
    codec = Codec(MemoryRegistry())  # type: ignore[arg-type]
    session = SimpleNamespace(
        config=CONFIG, topics=Topics(), codec=codec, kafka=SimpleNamespace(producer=lambda _name: fake)
    )
    fake.session = session
    for module in (change, decide, dlq, look):
        monkeypatch.setattr(module, "Session", lambda _path: session)
    monkeypatch.setattr(look, "find_links", lambda _session, _entity: LINKS)
    monkeypatch.setattr(change, "read_latest", lambda *_: {b"ann": None, b"bob": None})
    return fake


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_links_name_the_tenant_where_it_says_something(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    look.links(json=True)
    assert {r["canonical_id"]: r["records"] for r in shown(capsys)} == {
        "ann": ["crm/17", "portal/north/1"],
        "bob": ["portal/south/1"],
        "eve": ["portal/former/1"],
    }
    look.links(record="portal/south/1", json=True)
    assert [r["canonical_id"] for r in shown(capsys)] == ["bob"]


@pytest.mark.parametrize(
    ("record", "cid"),
    [
        ("crm/17", "ann"),
        ("crm/default/17", "ann"),
        ("contact/crm/17", "ann"),
        ("portal/north/1", "ann"),
        ("contact/portal/south/1", "bob"),
        ("bob", "bob"),
    ],
)
def test_a_record_is_found_by_any_of_its_names(kafka: Kafka, record: str, cid: str) -> None:
    assert look.resolve_record(kafka.session, record) == ("contact", cid)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda: look.links(record="portal/1"), "names none of them"),
        (lambda: look.conflicts(record="contact/portal/1"), "its tenants: north, south, west"),
        (lambda: decide.split("contact/portal/1"), "names none of them"),
        (lambda: decide.split("contact/portal"), "entity/system/native key"),
        (lambda: change.resolve("ann", "name", take="portal"), "say portal/north or portal/south"),
        (lambda: change.seed("portal", tenant="east"), "it has: north, south, west"),
        (lambda: change.release("portal", "ann", tenant="east"), "has no tenant 'east'"),
        (lambda: change.resync(tenant="north"), "--system"),
        (lambda: change.resync(system="portal", tenant="east"), "has no tenant 'east'"),
    ],
)
def test_what_could_mean_several_tenants_or_none_is_an_error(
    kafka: Kafka, command: Callable[[], None], message: str
) -> None:
    with pytest.raises(Fatal) as caught:
        command()
    assert message in str(caught.value)
    assert kafka.sent == []


def test_decisions_name_the_tenant(kafka: Kafka) -> None:
    decide.unlink("contact/portal/south/a/b")
    decide.link("contact/crm/17", "bob")
    first, second = kafka.entries("identity.contact")
    assert (first.kind, first.system, first.tenant, first.native_key) == ("unlink", "portal", "south", "a/b")
    assert (second.kind, second.canonical_id, second.tenant, second.native_key) == ("link", "bob", "default", "17")


def test_a_seed_is_asked_of_every_tenant_or_of_one(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    change.seed("portal")
    assert [key for _, key, _ in kafka.sent] == [
        f"request/seed/portal/{t}/contact".encode() for t in ("north", "south", "west")
    ]
    assert [json.loads(v)["tenant"] for _, _, v in kafka.sent] == ["north", "south", "west"]
    assert "switched off, and read when it is on again: west" in " ".join(capsys.readouterr().err.split())
    kafka.sent.clear()
    change.seed("portal", "contact", tenant="north")
    change.seed("crm")
    assert [key for _, key, _ in kafka.sent] == [b"request/seed/portal/north/contact", b"request/seed/crm/contact"]


@pytest.mark.parametrize(
    ("system", "tenant"), [(None, None), ("portal", None), ("portal", "south"), ("crm", None), ("crm", "default")]
)
def test_a_resync_is_one_entry_per_record_however_many_tenants_there_are(
    kafka: Kafka, system: str | None, tenant: str | None
) -> None:
    change.resync(system=system, tenant=tenant)
    assert [(e.kind, e.canonical_id, e.system, e.tenant) for e in kafka.entries()] == [
        ("resync", cid, system or "", tenant or "") for cid in ("ann", "bob")
    ]


def test_a_resolution_takes_the_value_of_a_tenant(kafka: Kafka) -> None:
    change.resolve("ann", "name", take="portal/south")
    change.resolve("ann", "name", take="crm")
    assert [(e.system, e.tenant, e.keys) for e in kafka.entries()] == [
        ("portal", "south", ("name", "theirs")),
        ("crm", "default", ("name", "theirs")),
    ]


@pytest.mark.parametrize("tenant", [None, "north"])
def test_an_actor_is_released_in_one_tenant_or_in_all(kafka: Kafka, tenant: str | None) -> None:
    change.release("portal", "ann", tenant=tenant)
    assert {(e.kind, e.system, e.tenant, e.keys) for e in kafka.entries()} == {
        ("release_actor", "portal", tenant or "", ("ann",))
    }


def test_a_redrive_asks_for_a_fresh_write_to_the_tenant_that_refused(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = kafka.session.codec
    letters = []
    for n, tenant in enumerate(("north", "south", "south")):
        w = write("a", "update", "1", name="x")
        w.system, w.tenant = "portal", tenant
        letters.append((encoded(codec, w), n))
    letters.append((b"no write", 3))
    found = [
        (
            SimpleNamespace(topic=lambda: "dlq.sink.portal.contact", partition=lambda: 0, offset=lambda n=n: n, value=lambda v=v: v),
            {"kind": "bad", "canonical_id": "ann"},
        )
        for v, n in letters
    ]  # fmt: skip
    monkeypatch.setattr(dlq, "letters", lambda _session: found)
    dlq.retry(apply=True, json=True)
    assert [r["does"] for r in shown(capsys)] == [
        f"ask ann for a fresh write to {place}" for place in ("portal/north", "portal/south", "portal")
    ]
    assert [(e.kind, e.tenant) for e in kafka.entries()] == [("resync", "north"), ("resync", "south"), ("resync", "")]
