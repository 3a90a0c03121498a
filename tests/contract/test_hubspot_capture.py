"""Capture of HubSpot: searches that are behind, ties, merges, the bin, erasure, first loads in parts, and its calls counted."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producers.source import Cursor, Page, Source, Task
from simulators.hubspot import HubSpotSimulator
from simulators.server import Running
from tests.contract.api_contract import drain
from tests.contract.hubspot_portal import HubSpotSubject
from tests.sinking import write
from tidelock.apis.records import Record
from tidelock.config import TableSpec
from tidelock.envelopes import APPLIED
from tidelock.errors import Fatal

Make = Callable[..., HubSpotSubject]
PEOPLE = [{"email": f"p{n}@example.com", "name": f"P{n}"} for n in range(4)]


@pytest.fixture
def simulator() -> HubSpotSimulator:
    options: dict[str, Any] = {"burst": "0", "daily": "0", "search_per_s": "0"}
    return HubSpotSimulator(**options)


@pytest.fixture
def make(simulator: HubSpotSimulator, tmp_path: Path) -> Iterator[Make]:
    made: list[HubSpotSubject] = []
    with Running(simulator) as running:

        def subject(**options: Any) -> HubSpotSubject:
            made.append(HubSpotSubject(running, tmp_path, **options))
            return made[-1]

        yield subject
        for one in made:
            one.close()


class Reading:
    """A source that polls."""

    def __init__(self, portal: HubSpotSubject) -> None:
        self.portal = portal
        self.source: Source = portal.source()
        self.task: Task = portal.task(self.source)
        portal.settle()
        _, self.cursor, _ = drain(self.source.run(self.task, "poll", None))

    def poll(self, kind: str = "poll") -> list[Record]:
        """Poll, or do another run without moving the cursor."""
        records, cursor, _ = drain(self.source.run(self.task, kind, self.cursor))
        if kind == "poll":
            self.cursor = cursor
        return records

    def told(self, kind: str = "poll") -> dict[str, Record]:
        """Poll, and return the last that was told of each key."""
        return {r.key: r for r in self.poll(kind)}


def test_s14_more_than_a_search_can_page_through_share_one_timestamp(
    make: Make, simulator: HubSpotSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = make()
    reading = Reading(portal)
    moment = simulator.clock.now() + 5
    with monkeypatch.context() as frozen:
        frozen.setattr(simulator.clock, "now", lambda: moment)
        keys = set(portal.create_there([{"email": f"m{n}@example.com"} for n in range(10_450)]))
    portal.advance(10)
    told: set[str] = set()
    versions = set()
    for n in itertools.count():
        assert n < 100
        pages = reading.source.run(reading.task, "poll", reading.cursor)
        for page in itertools.islice(pages, 25):  # a break-off behind every 25th page
            told |= {r.key for r in page.records}
            versions |= {r.version for r in page.records}
            reading.cursor = page.cursor
        if told == keys:
            break
    assert len(versions) == 1


def test_s15_what_becomes_visible_late_is_told_by_a_later_poll(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    portal.fault(kind="search_late", delay_s=20)
    (late,) = portal.create_there(PEOPLE[:1])
    (early,) = portal.create_there(PEOPLE[1:2])
    portal.settle()
    assert set(reading.told()) == {early}
    portal.advance(25)
    assert set(reading.told()) == {late}, "and what was told already is not read once more"


def test_s15_what_is_later_than_the_lag_is_told_by_the_overlap(make: Make) -> None:
    portal = make(lag_s=5)
    reading = Reading(portal)
    portal.fault(kind="search_late", delay_s=600)
    (late,) = portal.create_there(PEOPLE[:1])
    portal.settle()
    assert reading.told() == {}
    portal.advance(300)
    portal.create_there(PEOPLE[1:2])
    portal.settle()
    reading.poll()
    portal.advance(400)
    assert late not in reading.told()
    assert late in reading.told("overlap")


def test_the_overlap_breaks_off_and_goes_on(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    keys = set(portal.create_there([{"email": f"m{n}@example.com"} for n in range(450)]))
    portal.settle()
    reading.poll()
    cursor: Cursor = reading.cursor
    told: set[str] = set()
    for _ in range(10):
        page: Page = next(iter(reading.source.run(reading.task, "overlap", cursor)))
        told |= {r.key for r in page.records}
        cursor = page.cursor
        if page.last:
            break
    assert told == keys


@pytest.mark.parametrize("ahead_s", [0, 7200])
def test_s20_the_portals_clock_is_ahead_of_ours(make: Make, ahead_s: int) -> None:
    portal = make()
    portal.advance(ahead_s)
    reading = Reading(portal)
    keys = portal.create_there(PEOPLE)
    portal.settle()
    assert set(reading.told()) == set(keys)
    portal.edit_there(keys[0], name="Later")
    portal.settle()
    assert reading.told()[keys[0]].values["firstname"] == "Later"


def test_at_rest_a_poll_costs_one_search_and_tells_nothing(make: Make) -> None:
    portal = make(bin_every_s=300)
    reading = Reading(portal)
    keys = portal.create_there(PEOPLE)
    portal.delete_there(keys[3])
    portal.settle()
    assert set(reading.told()) == set(keys)
    before = portal.calls()
    assert reading.poll() == []
    assert portal.counted(before) == {"/crm/v3/objects/contacts/search": 1}


def test_a_thousand_changes_take_seventeen_calls(make: Make) -> None:
    """Five searches of 200, one that finds how many there are, one that finds the end; ten readings of 100."""
    portal = make(bin_every_s=300)
    reading = Reading(portal)
    reading.poll()
    before = portal.calls()
    portal.create_there([{"email": f"m{n}@example.com"} for n in range(1000)])
    portal.settle()
    assert len(reading.told()) == 1000
    counted = {what.rpartition("contacts/")[2]: n for what, n in portal.counted(before).items() if "/crm/" in what}
    assert counted == {"search": 7, "batch/read": 10}


# ------------------------------------------------------------------------------------------------ merges


@pytest.mark.parametrize("primary", [0, 1])
def test_of_two_merged_records_the_older_key_stays_and_the_other_was_deleted(make: Make, primary: int) -> None:
    """HubSpot gives what is left a new id. The link of the older one stays; a create and two deletes would lose both."""
    portal = make()
    reading = Reading(portal)
    a, b, _, _ = keys = portal.create_there(PEOPLE)
    portal.settle()
    first = reading.told()
    left = portal.merge_there(keys[primary], keys[1 - primary])
    assert left not in keys
    portal.settle()
    told = reading.told()
    assert {k for k, r in told.items() if not r.deleted} == {a}
    assert {k for k, r in told.items() if r.deleted} == {b, left}, "its new id is told as none of its own"
    assert told[a].version > first[a].version
    assert told[b].version > first[b].version
    assert told[a].values["email"] == PEOPLE[primary]["email"]
    assert told[a].values["id"] == a
    portal.edit_there(left, name="Joined")
    portal.settle()
    again = reading.told()
    assert again[a].values["firstname"] == "Joined"
    assert again[b].version == told[b].version, "what is told again is dropped"


def test_a_merge_that_a_webhook_tells_of_is_read_the_same_way(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    a, b, c, _ = portal.create_there(PEOPLE)
    left = portal.merge_there(b, a)
    read = {r.key: r for r in reading.source.read(reading.task, [a, b, left])}
    assert {k: r.deleted for k, r in read.items()} == {a: False, b: True, left: True}
    last = portal.merge_there(c, left)
    read = {r.key: r for r in reading.source.read(reading.task, [a, b, c, left, last])}
    assert {k for k, r in read.items() if not r.deleted} == {a}
    assert {k for k, r in read.items() if r.deleted} == {b, c, left, last}


def test_the_look_at_every_id_does_not_miss_what_was_merged(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    a, b, c, d = portal.create_there(PEOPLE)
    portal.merge_there(b, a)
    portal.delete_there(d)
    pages = list(reading.source.run(reading.task, "deletes", None))
    assert all(p.whole for p in pages)
    assert {k for p in pages for k in p.met} == {a, c}
    loaded = [
        r.key
        for part in reading.source.parts(reading.task, None)
        for r in drain(reading.source.load(reading.task, part))[0]
    ]
    assert sorted(loaded) == [a, c]


def test_what_was_merged_is_written_under_its_old_key(make: Make) -> None:
    portal = make()
    sink = portal.sink()
    a, b, _, _ = portal.create_there(PEOPLE)
    left = portal.merge_there(b, a)
    portal.settle()
    (receipt,) = sink.write([write("a", "update", a, 2, firstname=("New", "P1"))])
    assert (receipt.outcome, receipt.native_key, receipt.refused) == (APPLIED, a, ())
    assert portal.rows()[left]["name"] == "New"
    sink.write([write("a", "delete", a, 3)])
    assert left not in portal.rows()
    sink.close()


def test_where_a_merge_keeps_the_primary_id_the_older_key_stays_as_well(tmp_path: Path) -> None:
    options: dict[str, Any] = {"merge_keeps_id": "true"}
    with Running(HubSpotSimulator(**options)) as running:
        portal = HubSpotSubject(running, tmp_path)
        reading = Reading(portal)
        a, b, _, _ = portal.create_there(PEOPLE)
        portal.merge_there(b, a)
        portal.settle()
        told = reading.told()
        assert told[b].deleted
        assert told[a].values["email"] == PEOPLE[1]["email"]
        portal.close()


# ------------------------------------------------------------------------------------------------ the bin


def test_what_is_taken_out_of_the_bin_is_told_behind_its_delete(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    a, *_ = portal.create_there(PEOPLE)
    portal.settle()
    first = reading.told()[a]
    portal.delete_there(a)
    portal.settle()
    gone = reading.told()[a]
    assert gone.deleted
    assert gone.version > first.version
    (read,) = reading.source.read(reading.task, [a])
    assert (read.deleted, read.version) == (True, gone.version)
    portal.done("restore/contacts", [a])
    portal.settle()
    back = reading.told()[a]
    assert not back.deleted
    assert back.version > gone.version


def test_a_large_bin_is_looked_at_in_pieces(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    keys = portal.create_there([{"email": f"m{n}@example.com"} for n in range(250)])
    portal.done("delete/contacts", keys)
    portal.settle()
    told: set[str] = set()
    looked = 0
    for _ in range(10):  # a break-off behind the first page that tells of anything
        for page in reading.source.run(reading.task, "poll", reading.cursor):
            reading.cursor = page.cursor
            told |= {r.key for r in page.records if r.deleted}
            looked += page.read
            if page.records:
                break
        if told == set(keys):
            break
    assert told == set(keys)
    assert looked == 250
    reading.poll()
    assert reading.poll() == []


def test_what_was_erased_for_good_is_found_by_the_look_at_every_id(make: Make) -> None:
    portal = make()
    reading = Reading(portal)
    a, *_ = portal.create_there(PEOPLE)
    portal.settle()
    first = reading.told()[a]
    portal.advance(60)
    hub = reading.source._hub  # type: ignore[attr-defined]
    hub.send("POST", "/crm/v3/objects/contacts/gdpr-delete", json={"objectId": a}, repeat=True)
    assert a not in {k for p in reading.source.run(reading.task, "deletes", None) for k in p.met}
    (gone,) = reading.source.read(reading.task, [a])
    assert gone.deleted
    assert gone.version > first.version


def test_a_record_that_a_webhook_names_before_it_can_be_read_is_not_lost(make: Make) -> None:
    """It is told as deleted, but not behind what the next poll finds."""
    portal = make()
    reading = Reading(portal)
    (key,) = portal.create_there(PEOPLE[:1])
    now = dt.datetime.fromtimestamp(portal.control.get("/clock").json()["now"], dt.UTC)
    nothing = {"status": "COMPLETE", "results": [], "completedAt": now.isoformat()}
    portal.fault(kind="status", status=207, path="/batch/read", times=2, body=nothing)
    (early,) = reading.source.read(reading.task, [key])
    assert early.deleted
    portal.settle()
    found = reading.told()[key]
    assert not found.deleted
    assert found.version > early.version


# ------------------------------------------------------------------------------------------------ loads and values


@pytest.mark.parametrize("where", [None, "city = Bath", "city = Bath and createdate > 2020-01-01"])
def test_a_large_portal_is_loaded_in_parts(make: Make, where: str | None) -> None:
    portal = make(load_in_parts_above=1000)
    people = [{"email": f"m{n}@example.com", "city": "Bath" if n % 2 else "York"} for n in range(3000)]
    keys = portal.create_there(people)
    portal.settle()
    reading = Reading(portal)
    parts = reading.source.parts(reading.task, where)
    assert len(parts) > 1
    loaded: list[str] = []
    for part in parts:
        at: Cursor | None = part
        while at is not None:  # a break-off behind every page
            page = next(iter(reading.source.load(reading.task, at)))
            loaded += [r.key for r in page.records]
            at = None if page.last else page.cursor
    assert sorted(loaded) == sorted(keys if where is None else keys[1::2])


def test_a_condition_that_cannot_be_asked_is_refused(make: Make) -> None:
    reading = Reading(make())
    with pytest.raises(Fatal, match="lower"):
        reading.source.parts(reading.task, "lower(city) is null")


def test_values_have_the_types_of_their_properties(make: Make) -> None:
    columns = ("amount", "closedate", "dealname", "dealstage")
    table = {"table": "deals", "map": [{"column": c, "field": "name"} for c in columns]}
    portal = make()
    source = portal.source()
    spec = TableSpec.model_validate(table)
    found = source.columns(spec)
    task = Task("contact", spec, {n: found[n] for n in ("id", *columns)})
    deal = {"amount": "1500.50", "closedate": "1767225600000", "dealname": "Big", "dealstage": "closedwon"}
    (key,) = portal.load("deals", [deal])
    (record,) = source.read(task, [key])
    assert {n: c.type.value for n, c in task.columns.items()} == {
        "id": "string",
        "amount": "decimal",
        "closedate": "timestamp",
        "dealname": "string",
        "dealstage": "string",
    }
    assert found["amount"].generic(record.values["amount"]) == b"\x02\x0c1500.5"
    assert found["amount"].json(found["amount"].generic("1500.50")) == "1500.5"
    assert found["closedate"].json(found["closedate"].generic(record.values["closedate"])) == "2026-01-01T00:00:00.000Z"
    source.close()


def test_a_property_for_our_ids_is_made_once_and_must_be_unique(make: Make) -> None:
    portal = make()
    source = portal.source()
    assert source.columns(portal.table)["tidelock_id"].unique
    spec = TableSpec.model_validate({**portal.table.model_dump(), "canonical_id": "city"})
    with pytest.raises(Fatal, match="does not require unique values"):
        source.columns(spec)
    source.close()


def test_an_app_that_may_not_make_the_property_is_told_how_it_can_be_made(make: Make) -> None:
    portal = make()
    portal.done("scopes", {"scopes": ["crm.objects.contacts.read", "crm.objects.contacts.write"]})
    source = portal.source()
    with pytest.raises(Fatal, match=r"crm\.schemas\.contacts\.write.*Require unique values"):
        source.columns(portal.table)
    source.close()
