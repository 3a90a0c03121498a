"""What captures of systems with several tenants share: publishing, end-of-seed marks, seeds by turns (producers.base, seeded, seeding)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from producers import seeding
from producers.base import Publisher
from producers.seeded import Marks
from producers.seeding import Seed, Seeding
from tests.model.world import MemoryRegistry
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import SEEDED, Entry
from tidelock.errors import Fatal, Reject, Retry
from tidelock.kafka import KafkaClients

TABLES = {e: {"table": e, "map": [{"column": "name", "field": "name"}]} for e in ("company", "contact")}


def config(**tenants: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "systems": {
                "portal": {"kind": "saas", "capture": "saas", "tenants": tenants, "entities": TABLES},
                "crm": {"dsn": "postgresql://h/d", "entities": TABLES},
            },
            "entities": {e: {"fields": {"name": {}}} for e in TABLES},
            "flows": [{"entity": e, "from": "portal", "to": "crm"} for e in TABLES],
        }
    )


class Kafka:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, int, Any]] = []
        self.full = False

    def produce(self, topic: str, value: Any, key: Any, partition: int = -1, headers: Any = None) -> None:
        if self.full:
            self.full = False
            raise BufferError
        self.sent.append((topic, key, value, partition, headers))

    def poll(self, _wait_s: float) -> int:
        return 0

    def flush(self, _wait_s: float) -> int:
        return 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=[0, 1])})

    def __len__(self) -> int:
        return 0


class Memory:
    """Stands for `producers.signals.Signals`."""

    last: dict[str, Any]
    coming: list[tuple[str, Any]]

    def __init__(self, *_: Any) -> None:
        self.last, self.coming = dict(STANDING), []

    def load(self) -> None: ...

    def close(self) -> None: ...

    def poll(self) -> list[tuple[str, Any]]:
        found, self.coming = self.coming, []
        return found


STANDING: dict[str, Any] = {}


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """Let everybody produce into memory, and nothing stand in ``ops.signals``."""
    fake = Kafka()
    monkeypatch.setattr(KafkaClients, "producer", lambda *_, **__: fake)
    monkeypatch.setattr(seeding, "Signals", Memory)
    monkeypatch.setattr(seeding, "_LOOK_EVERY_S", -1.0)
    STANDING.clear()
    return fake


def context_of(loaded: Config) -> Context:
    codec = Codec(MemoryRegistry())  # type: ignore[arg-type]
    return Context(loaded, KafkaClients("nowhere:1"), codec, "capture.portal")


@pytest.fixture
def context(kafka: Kafka) -> Context:
    return context_of(config(north={}, south={}))


def test_keys_carry_the_tenant_whichever_way_something_is_published(context: Context, kafka: Kafka) -> None:
    publisher = Publisher(context, "portal")
    publisher.publish("contact", b"1", b"\0" * 50, "north")
    publisher.sender("contact", "south")(b"1", b"\0" * 50)
    kafka.full = True
    publisher.sender("contact", "north")(b"2", b"\0" * 50)
    publisher.dead_letter("contact", b"3", b"", Reject("bad", kind="bad"), "south")
    assert [(topic, key) for topic, key, *_ in kafka.sent] == [
        ("cdc.portal.contact", b"north/1"),
        ("cdc.portal.contact", b"south/1"),
        ("cdc.portal.contact", b"north/2"),
        ("dlq.capture.portal.contact", b"south/3"),
    ]


def test_a_tenant_must_be_named_where_there_are_several_and_need_not_be_where_there_is_one(
    context: Context, kafka: Kafka
) -> None:
    several = Publisher(context, "portal")
    for call in (
        lambda: several.publish("contact", b"1", b""),
        lambda: several.publish("contact", b"1", b"", "east"),
        lambda: several.sender("contact"),
    ):
        with pytest.raises(KeyError):
            call()
    with pytest.raises(Fatal, match="several tenants"):
        Marks(context, "portal", several, {})
    one = Publisher(context, "crm")
    one.publish("contact", b"1", b"\0" * 50)
    one.sender("contact")(b"2", b"\0" * 50)
    assert [key for _, key, *_ in kafka.sent] == [b"default/1", b"default/2"]


def test_the_same_trouble_of_two_tenants_is_two_alerts(context: Context, kafka: Kafka) -> None:
    publisher = Publisher(context, "portal")
    for tenant in ("north", "south", None):
        publisher.alert("slow", "contact", "x", "it is slow", "wait", tenant=tenant)
    Publisher(context, "crm").alert("slow", "contact", "x", "it is slow", "wait", tenant="default")
    assert [key for _, key, *_ in kafka.sent] == [
        b"slow/portal/north/contact/x",
        b"slow/portal/south/contact/x",
        b"slow/portal/contact/x",
        b"slow/crm/contact/x",
    ]


def test_the_seed_of_every_tenant_ends_for_itself(context: Context, kafka: Kafka) -> None:
    publisher, last = Publisher(context, "portal"), {"seeded/portal/south/contact": {"kind": "seeded"}}
    north, south = (Marks(context, "portal", publisher, last, t) for t in ("north", "south"))
    assert (north.given("contact"), south.given("contact")) == (False, True)
    north.give("contact", "seed")
    assert north.given("contact")
    *marks, record = kafka.sent
    assert [(m[0], m[1], m[3], m[4]) for m in marks] == [("cdc.portal.contact", None, p, [SEEDED]) for p in (0, 1)]
    entries = [Entry.decode(m[2] or b"") for m in marks]
    assert [(e.kind, e.system, e.tenant, e.partition, e.offset) for e in entries] == [
        ("seeded", "portal", "north", p, 2) for p in (0, 1)
    ]
    assert record[1] == b"seeded/portal/north/contact"


class Source:
    """Pages of every tenant: three of two rows each, unless something is wrong there."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []
        self.trouble: dict[str, Exception] = {}

    def pages(self, seed: Seed) -> Iterator[int]:
        for _ in range(3):
            if seed.tenant in self.trouble:
                raise self.trouble[seed.tenant]
            self.read.append((seed.tenant, seed.entity))
            yield 2


def until_done(seeds: Seeding) -> None:
    for _ in range(100):
        if seeds.step() is None:
            return
    raise AssertionError("it does not come to an end")


def records(kafka: Kafka) -> dict[str, Any]:
    """Return what stands in ``ops.signals``."""
    found = {k.decode(): json.loads(v) if v else None for topic, k, v, *_ in kafka.sent if topic == "ops.signals" and k}
    return {k: v for k, v in found.items() if v is not None}


Make = Callable[[], tuple[Seeding, Source, Any]]


@pytest.fixture
def make(context: Context) -> Make:
    def build() -> tuple[Seeding, Source, Any]:
        source = Source()
        seeds = Seeding(context, "portal", Publisher(context, "portal"), source.pages)
        return seeds, source, seeds._signals

    return build


def test_tenants_are_seeded_by_turns_and_entities_one_after_the_other(make: Make, kafka: Kafka) -> None:
    seeds, source, _ = make()
    seeds.load(on_start=True)
    until_done(seeds)
    assert source.read[:4] == [("north", "company"), ("south", "company")] * 2
    for tenant in ("north", "south"):
        assert [e for t, e in source.read if t == tenant] == ["company"] * 3 + ["contact"] * 3
    found = records(kafka)
    assert {k: found[k]["state"] for k in found if k.startswith("seed/")} == {
        f"seed/portal/{t}/{e}": "done" for t in ("north", "south") for e in TABLES
    }
    assert {k for k in found if k.startswith("seeded/")} == {
        f"seeded/portal/{t}/{e}" for t in ("north", "south") for e in TABLES
    }


@pytest.mark.parametrize("error", [Retry("down"), Fatal("no right", hint="grant it")])
def test_a_tenant_that_cannot_be_read_holds_up_no_other(make: Make, kafka: Kafka, error: Exception) -> None:
    seeds, source, _ = make()
    source.trouble["north"] = error
    seeds.load(on_start=True)
    for _ in range(50):
        seeds.step()
    assert [t for t, _ in source.read] == ["south"] * 6
    assert not any(seeds.marks("north").given(e) for e in TABLES)
    assert all(seeds.marks("south").given(e) for e in TABLES)
    alerts = [key for topic, key, *_ in kafka.sent if topic == "ops.alerts"]
    assert alerts == ([b"seed_failed/portal/north/company/portal", b"seed_failed/portal/north/contact/portal"] if isinstance(error, Fatal) else [])  # fmt: skip


def test_an_interrupted_seed_of_one_tenant_goes_on_behind_what_it_had(make: Make) -> None:
    STANDING.update(
        {
            "seed/portal/north/contact": {"state": "running", "id": "a", "where": None, "after": ["5"], "rows": 40},
            **{f"seeded/portal/{t}/{e}": {} for t in ("north", "south") for e in TABLES},
            **{f"seed/portal/{k}": {"state": "done", "id": "b"} for k in ("north/company", "south/company", "south/contact")},
        }
    )  # fmt: skip
    seeds, source, _ = make()
    seeds.load(on_start=True)
    (seed,) = seeds.seeds.values()
    assert (seed.tenant, seed.after, seed.rows) == ("north", ["5"], 40)
    until_done(seeds)
    assert {t for t, _ in source.read} == {"north"}


@pytest.mark.parametrize(
    ("tenant", "entity", "read"),
    [
        ("south", "contact", {("south", "contact")}),
        (None, "contact", {("north", "contact"), ("south", "contact")}),
        (None, None, {(t, e) for t in ("north", "south") for e in TABLES}),
        ("north", "nothing", set()),
    ],
)
def test_a_request_names_a_tenant_or_means_all_of_them(
    make: Make, kafka: Kafka, tenant: str | None, entity: str | None, read: set[tuple[str, str]]
) -> None:
    seeds, source, signals = make()
    seeds.load(on_start=False)
    request = {"kind": "seed", "system": "portal", "tenant": tenant, "entity": entity, "id": "r"}
    signals.coming.append(("request/x", request))
    until_done(seeds)
    assert set(source.read) == read
    assert [key for _, key, value, *_ in kafka.sent if value is None] == [b"request/x"], "it is gone when it is taken"


def test_a_tenant_that_is_off_is_not_seeded_and_what_is_asked_of_it_waits(kafka: Kafka) -> None:
    source = Source()
    context = context_of(config(north={"enabled": False}, south={}))
    STANDING["request/x"] = {"kind": "seed", "system": "portal", "tenant": "north", "entity": "contact", "id": "r"}
    seeds = Seeding(context, "portal", Publisher(context, "portal"), source.pages)
    seeds.load(on_start=True)
    until_done(seeds)
    assert {t for t, _ in source.read} == {"south"}
    assert [key for _, key, value, *_ in kafka.sent if value is None] == []
    seeds.close()


def test_a_system_of_one_tenant_keeps_the_names_it_had(kafka: Kafka, context: Context) -> None:
    source = Source()
    seeds = Seeding(context, "crm", Publisher(context, "crm"), source.pages)
    seeds.load(on_start=False)
    assert seeds.marks().given("contact")
    assert seeds.run("contact", None, None) == 6
    assert {k for k in records(kafka) if k.startswith("seed/")} == {"seed/crm/contact"}
    with pytest.raises(Fatal, match="no entity nothing"):
        seeds.start("nothing", None)
