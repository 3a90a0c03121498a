"""The frame of captures of APIs on a real Kafka: jobs that workers share, isolation, loads, marks, webhooks beside polls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from producers.jobs import Job, State, encode, key_of
from producers.source import Cursor, Page, Task
from tests.apicaptures import ENTITY, SYSTEM, ApiRig, config_of, elsewhere
from tests.vendor import OFFICES, Office, VendorProducer, VendorSource
from tidelock.apis.records import Record
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.tenants import Tenant

pytestmark = pytest.mark.stack

Make = Callable[..., ApiRig]


@pytest.fixture
def make(stack: Stack, topic_prefix: str, tmp_path: Path, database: Callable[[str], str]) -> Iterator[Make]:
    rigs: list[ApiRig] = []
    central = database("central")

    def rig(
        tenants: Sequence[str] = ("one", "two"), producer: type[VendorProducer] = VendorProducer, **more: Any
    ) -> ApiRig:
        made = ApiRig(stack, config_of(topic_prefix, tmp_path, central, tenants, **more), producer)
        rigs.append(made)
        return made

    yield rig
    Gate.open_all()
    for made in rigs:
        made.close()


class Gate:
    """Makes calls of named tenants wait, as a server does that has gone silent."""

    shut: ClassVar[dict[tuple[str, str], threading.Event]] = {}
    waiting: ClassVar[set[tuple[str, str]]] = set()

    @classmethod
    def close(cls, tenant: str, what: str) -> None:
        """Let calls of a tenant wait from now on."""
        cls.shut[tenant, what] = threading.Event()

    @classmethod
    def open_all(cls) -> None:
        """Let all go on."""
        for event in cls.shut.values():
            event.set()
        cls.shut.clear()
        cls.waiting.clear()

    @classmethod
    def passing(cls, tenant: str, what: str) -> None:
        """Wait if it is shut."""
        event = cls.shut.get((tenant, what))
        if event is not None:
            cls.waiting.add((tenant, what))
            event.wait(100)


class GatedSource(VendorSource):
    """The source, with gates before its calls."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        super().__init__(context, tenant)
        self._name = tenant.name

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        Gate.passing(self._name, "run")
        yield from super().run(task, kind, cursor)

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        for page in super().load(task, part):
            Gate.passing(self._name, "load")
            yield page


class GatedProducer(VendorProducer):
    """The capture with gates."""

    source = GatedSource


# ------------------------------------------------------------------------------------------------ sharing


def test_workers_share_the_jobs_and_one_that_is_killed_loses_nothing(make: Make) -> None:
    tenants = [f"t{n:02}" for n in range(20)]
    rig = make(tenants)
    rig.start()
    rig.ready()
    with elsewhere(rig) as other:
        rig.until(lambda: len(rig.workers[0].capture._increments.queue.owned) == 4, 60)
        for n, office in enumerate(rig.offices.values()):
            office.create({"email": f"first{n}@example.com"})
        rig.until(lambda: all(len(rig.known(t)) == 1 for t in tenants))
        for n, office in enumerate(rig.offices.values()):
            for i in range(30):
                office.create({"email": f"{n}-{i}@example.com"})
        other.kill()
        rig.until(lambda: all(len(rig.known(t)) == 31 for t in tenants))
    for name, office in rig.offices.items():
        told = rig.known(name)
        assert {k for k, row in told.items() if row is not None} == set(office.rows), name


def test_the_office_of_giving_out_jobs_is_taken_over_with_everything_that_was_known(make: Make) -> None:
    rig = make()
    first = rig.start()
    rig.ready()
    key = rig.offices["one"].create({"email": "a@example.com"})
    rig.until(lambda: key in rig.known("one"))
    first.stop()
    rig.workers.clear()
    later = rig.offices["two"].create({"email": "b@example.com"})
    rig.start(1)
    rig.until(lambda: later in rig.known("two"))
    assert len([c for c in rig.changes() if c.tenant == "one"]) == 1, "it went on where the first one was"


# ------------------------------------------------------------------------------------------------ isolation


def test_a_tenant_whose_server_is_silent_delays_no_other(make: Make) -> None:
    rig = make(("one", "two", "three"), GatedProducer)
    rig.start()
    rig.ready()
    Gate.close("one", "run")
    rig.until(lambda: ("one", "run") in Gate.waiting)
    for round_ in range(3):
        keys = [rig.offices[t].create({"email": f"{t}{round_}@example.com"}) for t in ("two", "three")]
        rig.until(lambda: keys[0] in rig.known("two") and keys[1] in rig.known("three"))  # noqa: B023
    assert not rig.known("one")
    key = rig.offices["one"].create({"email": "a@example.com"})
    Gate.open_all()
    rig.until(lambda: key in rig.known("one"))


def test_a_load_delays_neither_the_others_nor_the_increments_of_its_own_tenant(make: Make) -> None:
    rig = make(("one", "two"), GatedProducer)
    there = [rig.offices["one"].create({"email": f"old{n}@example.com"}) for n in range(250)]
    rig.start()
    rig.ready()
    Gate.close("one", "load")
    rig.ask("seed", entity=ENTITY, tenant="one")
    rig.until(lambda: ("one", "load") in Gate.waiting)
    keys = [rig.offices[t].create({"email": f"new@{t}.example.com"}) for t in ("one", "two")]
    rig.until(lambda: keys[0] in rig.known("one") and keys[1] in rig.known("two"))
    assert not set(there) & set(rig.known("one")), "the load has not gone on meanwhile"
    Gate.open_all()
    rig.until(lambda: set(there) <= set(rig.known("one")))


def test_an_answer_that_nobody_has_foreseen_stops_one_tenant_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make()
    rig.start()
    rig.ready()
    monkeypatch.setattr(rig.offices["one"], "since", lambda version: 1 / 0)
    rig.until(lambda: any(a["kind"] == "capture_failed" for a in rig.alerts()))
    key = rig.offices["two"].create({"email": "a@example.com"})
    rig.until(lambda: key in rig.known("two"))
    (alert,) = rig.alerts()
    assert "shop/one" in alert["message"]
    assert "ZeroDivisionError" in alert["message"]


def test_a_revoked_tenant_stops_alone_with_one_alert_and_goes_on_when_it_is_connected_again(make: Make) -> None:
    rig = make()
    rig.start()
    rig.ready()
    one = rig.offices["one"]
    one.revoked = True
    tenants = rig.context.access.tenants
    rig.until(lambda: tenants.get(SYSTEM, "one").state == "revoked")
    missed = one.create({"email": "missed@example.com"})
    calls = one.calls
    for n in range(3):
        key = rig.offices["two"].create({"email": f"{n}@example.com"})
        rig.until(lambda: key in rig.known("two"))  # noqa: B023
    assert one.calls <= calls + 1, "nobody knocks at a door that is shut"
    assert [a["kind"] for a in rig.alerts()] == ["credentials_revoked"]
    one.revoked = False
    tenants.connected(SYSTEM, "one", {"token": "new"})
    rig.until(lambda: missed in rig.known("one"))


# ------------------------------------------------------------------------------------------------ loads


def test_every_tenant_is_loaded_at_the_start_and_gives_its_marks(make: Make) -> None:
    rig = make(options={"seed_on_start": True})
    for name, office in rig.offices.items():
        for n in range(230):
            office.create({"email": f"{n}@{name}.example.com"})
    rig.start()
    everywhere = {(t, p) for t in rig.offices for p in range(2)}
    rig.until(lambda: rig.marks() == everywhere)
    for name, office in rig.offices.items():
        assert set(rig.known(name)) == set(office.rows)
    rig.until(lambda: all(s["state"] == "done" for s in rig.signals("seed/").values()))
    told = rig.signals("seed/")
    assert {k: v["rows"] for k, v in told.items()} == {f"seed/{SYSTEM}/{t}/{ENTITY}": 230 for t in rig.offices}


def test_a_load_that_was_interrupted_goes_on_and_is_not_begun_again(make: Make) -> None:
    rig = make(("one",), GatedProducer, options={"seed_on_start": True})
    keys = {rig.offices["one"].create({"email": f"{n}@example.com"}) for n in range(450)}
    Gate.close("one", "load")
    first = rig.start()
    rig.until(lambda: ("one", "load") in Gate.waiting)
    (number,) = {load["load"]["id"] for load in rig.signals("load/").values()}
    Gate.open_all()
    first.stop()
    rig.workers.clear()
    rig.start(1)
    rig.until(lambda: rig.marks() == {("one", 0), ("one", 1)})
    assert set(rig.known("one")) == keys
    assert {load["load"]["id"] for load in rig.signals("load/").values()} == {number}


def test_a_second_seed_asked_for_while_one_is_going_on_is_done_as_well(make: Make) -> None:
    rig = make(("one",), GatedProducer)
    keys = {rig.offices["one"].create({"email": f"{n}@example.com"}) for n in range(20)}
    rig.start()
    rig.ready()
    Gate.close("one", "load")
    rig.ask("seed", entity=ENTITY, id="a")
    rig.until(lambda: ("one", "load") in Gate.waiting)
    rig.ask("seed", entity=ENTITY, id="b")
    rig.until(lambda: any(k.split("/")[4] == "b" for k in rig.signals("load/")))
    Gate.open_all()

    def done() -> bool:
        loads = [s["load"] for s in rig.signals("load/").values()]
        return {load["id"] for load in loads} >= {"b"} and all(load.get("done") for load in loads)

    rig.until(done)
    assert set(rig.known("one")) == keys
    assert not rig.signals("request/")


def test_columns_that_are_mapped_later_are_read_of_every_record(make: Make) -> None:
    rig = make(options={"seed_on_start": True})
    keys = [rig.offices["one"].create({"email": f"{n}@example.com", "name": f"N{n}"}) for n in range(120)]
    first = rig.start()
    rig.until(lambda: {t for t, _ in rig.marks()} == set(rig.offices))
    rig.until(lambda: len(rig.signals("columns/")) == 2)
    first.stop()
    rig.workers.clear()
    rows = rig.known("one")
    assert all("name" not in (row or {}) for row in rows.values())
    both = make(map=[{"column": c, "field": c} for c in ("email", "name")], options={"seed_on_start": True})
    both.start(1)
    both.until(lambda: all("name" in (row or {}) for row in both.known("one").values()))
    assert set(both.known("one")) == set(keys)


class WholeSource(VendorSource):
    """Reads everything at first, and compares all keys at night."""

    breaks: int = 0

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        if kind != "deletes" and cursor is not None:
            yield from super().run(task, kind, cursor)
            return
        there = self._office
        keys = sorted((k for k, r in there.rows.items() if not r.deleted), key=lambda k: int(k[1:]))
        newest = there.newest
        for at in range(0, len(keys), 100):
            there.call()
            if at and WholeSource.breaks:
                WholeSource.breaks -= 1
                there.down = True
                there.call()
            some = keys[at : at + 100]
            records = [] if kind == "deletes" else [there.record(k) for k in some]
            yield Page(records, {"at": at}, met=some, whole=True)
        yield Page([], {"version": newest}, whole=True, last=True)


class WholeProducer(VendorProducer):
    """The capture that reads everything at first."""

    source = WholeSource
    reads_all_first = True
    kinds = ("poll", "deletes")


def test_a_capture_that_reads_everything_first_gives_its_marks_then_and_again_when_asked(make: Make) -> None:
    rig = make(("one",), WholeProducer)
    keys = {rig.offices["one"].create({"email": f"{n}@example.com"}) for n in range(250)}
    rig.start()
    rig.until(lambda: len(rig.marks()) == 2)
    assert set(rig.known("one")) == keys
    assert len(rig.changes()) == 250
    rig.ask("seed", entity=ENTITY)
    rig.until(lambda: len(rig.changes()) == 500)
    assert len({(c.native_key, c.position) for c in rig.changes()}) == 250, "what is read again has the same position"


def test_deletes_that_no_poll_tells_are_found_by_comparing_all_keys(make: Make) -> None:
    """A reading that broke off begins anew: what it had not met before is not taken for deleted."""
    rig = make(("one",), WholeProducer, options={"find_deletes": "0 3 * * *"})
    keys = [rig.offices["one"].create({"email": f"{n}@example.com"}) for n in range(250)]
    rig.start()
    rig.until(lambda: len(rig.marks()) == 2)
    office = rig.offices["one"]
    del office.rows[keys[7]]  # nothing tells of it
    WholeSource.breaks = 1
    jobs = rig.topics.jobs("increments", SYSTEM)

    def compare() -> None:
        state = msgspec.convert(rig.state("one"), State)
        rig.send(jobs, key_of("one", ENTITY), encode(Job("deletes", "one", ENTITY, state=state)))

    compare()
    rig.until(lambda: WholeSource.breaks == 0)
    rig.until(lambda: rig.state("one").get("failures", 0) > 0)
    office.down = False
    compare()
    rig.until(lambda: rig.known("one")[keys[7]] is None)
    assert [k for k, row in rig.known("one").items() if row is None] == [keys[7]]


# ------------------------------------------------------------------------------------------------ webhooks


def test_what_a_webhook_and_a_poll_tell_has_the_same_position(make: Make) -> None:
    rig = make()
    rig.start()
    rig.ready()
    office = rig.offices["one"]
    key = office.create({"email": "a@example.com"})
    rig.until(lambda: key in rig.known("one"))
    jobs = rig.topics.jobs("increments", SYSTEM)
    rig.send(jobs, key_of("one", ENTITY), encode(Job("read", "one", ENTITY, keys=[key])))
    told: dict[str, Any] = msgspec.to_builtins(office.record(key))
    rig.send(jobs, key_of("one", ENTITY), encode(Job("told", "one", ENTITY, records=[told])))
    rig.until(lambda: len(rig.changes()) == 3)
    assert len({(c.event_id, c.position) for c in rig.changes()}) == 1
    assert {tuple(c.after or ()) for c in rig.changes()} == {tuple(rig.changes()[0].after or ())}


def test_what_a_webhook_told_is_kept_while_its_tenant_is_off(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from producers import errands

    monkeypatch.setattr(errands, "_OFF_S", 0.5)
    rig = make()
    rig.start()
    rig.ready()
    tenants = rig.context.access.tenants
    tenants.disable(SYSTEM, "one", "moving house")
    rig.until(lambda: rig.workers[0].context.access.tenants.get(SYSTEM, "one").state == "off")
    jobs = rig.topics.jobs("increments", SYSTEM)
    record = Record("hooked", {"email": "h@example.com"}, (7, 0), 7)
    told: dict[str, Any] = msgspec.to_builtins(record)
    rig.send(jobs, key_of("one", ENTITY), encode(Job("told", "one", ENTITY, records=[told])))
    before = len(rig.messages(jobs))
    rig.until(
        lambda: len(rig.messages(jobs)) > before + 6
    )  # more often than a record that can be polled would be tried
    assert "hooked" not in rig.known("one")
    tenants.enable(SYSTEM, "one")
    rig.until(lambda: "hooked" in rig.known("one"))


def test_records_that_are_named_often_are_read_together(make: Make) -> None:
    rig = make(("one",), every_s=600.0)
    office = rig.offices["one"]
    keys = [office.create({"email": f"{n}@example.com"}) for n in range(300)]
    jobs = rig.topics.jobs("increments", SYSTEM)
    for key in keys:
        rig._sender.produce(jobs, encode(Job("read", "one", ENTITY, keys=[key])), key_of("one", ENTITY))
    rig._sender.flush(60)
    rig.start()
    rig.until(lambda: set(rig.known("one")) == set(keys))
    assert office.calls <= 30, f"{office.calls} calls for 300 notices"


def test_a_person_can_have_records_and_entities_read_now(make: Make) -> None:
    rig = make(every_s=600.0)
    rig.start()
    rig.ready()
    a, b = (rig.offices[t].create({"email": f"{t}@example.com"}) for t in ("one", "two"))
    rig.ask("refresh", entity=ENTITY, tenant="one", keys=[a])
    rig.until(lambda: a in rig.known("one"))
    assert not rig.known("two")
    rig.ask("refresh", entity=ENTITY)
    rig.until(lambda: b in rig.known("two"))
    rig.until(lambda: not rig.signals("request/"))


def test_a_tenant_that_the_hub_does_not_know_yet_is_left_alone(make: Make) -> None:
    """Identify, started before the tenant was added, would put its records into the dead letters and forget its marks."""
    rig = make(("one",), options={"seed_on_start": True})
    OFFICES[SYSTEM, "late"] = late = Office()
    late.create({"email": "late@example.com"})
    worker = rig.start()
    rig.context.access.tenants.add(SYSTEM, "late", credentials={"token": "t"})
    rig.until(lambda: {t.name for t in worker.context.access.tenants.all(SYSTEM)} == {"one", "late"})
    key = rig.offices["one"].create({"email": "a@example.com"})
    rig.until(lambda: key in rig.known("one"))
    assert late.calls == 0
    again = make(("one", "late"), options={"seed_on_start": True})
    worker.stop()
    rig.workers.clear()
    again.start(1)
    again.until(lambda: {p for t, p in again.marks() if t == "late"} == {0, 1})
    assert set(again.known("late")) == set(late.rows)
