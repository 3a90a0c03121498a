"""Capture of Salesforce where it is difficult: late commits, gaps, long outages, large windows, a clock that is wrong, few calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producers.salesforce import SalesforceSource
from producers.source import Cursor, Page, Source, Task
from simulators.clock import Clock
from simulators.salesforce import SalesforceSimulator
from simulators.server import Running
from tests.contract.api_contract import drain
from tests.contract.salesforce_org import OBJECT, SalesforceSubject
from tidelock.apis.records import Record
from tidelock.errors import Fatal, Retry

DAY_S = 86_400.0
Make = Callable[..., SalesforceSubject]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of orgs: ``simulator`` holds the simulator's options, the rest are the tenant's."""
    open_: list[tuple[Running, SalesforceSubject]] = []

    def org(simulator: dict[str, Any] | None = None, **options: Any) -> SalesforceSubject:
        running = Running(SalesforceSimulator(**{"bulk_delay_s": "0.01", **(simulator or {})}))
        running.__enter__()
        subject = SalesforceSubject(running, tmp_path, **options)
        open_.append((running, subject))
        return subject

    yield org
    for running, subject in open_:
        subject.close()
        running.__exit__(None, None, None)


class Reader:
    """A source with its task, that goes on from where it stands."""

    def __init__(self, org: SalesforceSubject) -> None:
        self.org = org
        self.source: Source = org.source()
        self.task: Task = org.task(self.source)
        self.cursor: Cursor = drain(self.source.run(self.task, "poll", None))[1]

    def poll(self) -> list[Record]:
        """Return what the next poll tells."""
        records, self.cursor, self.pages = drain(self.source.run(self.task, "poll", self.cursor))
        return records

    def rest(self) -> list[Record]:
        """Let time pass, and return what the next poll tells."""
        self.org.settle()
        return self.poll()

    def other(self) -> None:
        """Go on in another worker."""
        self.source.close()
        self.source = self.org.source()
        self.task = self.org.task(self.source)


def people(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"email": f"p{n}@example.com", "name": f"P{n}"} for n in range(first, first + count)]


def names(records: list[Record]) -> set[str]:
    return {str(r.values["Title__c"]) for r in records if not r.deleted}


# ------------------------------------------------------------------------------------------------ late commits


@pytest.mark.parametrize("changes", ["updated", "query", "events"])
def test_s15_a_change_that_becomes_visible_late_is_told(make: Make, changes: str) -> None:
    org = make(changes=changes)
    reader = Reader(org)
    org.fault(kind="late", delay_s=200.0, path="_control")
    org.create_there([{"email": "late@example.com", "name": "Late"}])
    org.create_there([{"email": "early@example.com", "name": "Early"}])
    assert names(reader.rest()) <= {"Early"}
    org.create_there([{"email": "next@example.com", "name": "Next"}])
    org.settle()
    told = reader.poll() + reader.rest()
    assert "Late" in names(told)
    assert "Next" in names(told)


def test_s15_a_window_ends_where_the_org_says_that_it_is_complete(make: Make) -> None:
    """An hour later than any look-back: only `latestDateCovered` can guard it."""
    org = make(look_back_s=0)
    reader = Reader(org)
    org.fault(kind="late", delay_s=3600.0, path="_control")
    org.create_there([{"email": "late@example.com", "name": "Late"}])
    for _ in range(5):
        assert not reader.rest()
    org.advance(3600.0)
    assert names(reader.rest()) == {"Late"}


def test_s15_the_nightly_overlap_finds_what_a_query_has_missed(make: Make) -> None:
    org = make(changes="query", look_back_s=10)
    reader = Reader(org)
    org.fault(kind="late", delay_s=3600.0, path="_control")
    org.create_there([{"email": "late@example.com", "name": "Late"}])
    reader.rest()
    org.advance(3600.0)
    assert not reader.rest()
    told, cursor, _ = drain(reader.source.run(reader.task, "overlap", reader.cursor))
    assert names(told) == {"Late"}
    assert not names(reader.rest())
    assert "scan" not in cursor


def test_an_overlap_that_broke_off_goes_on_and_comes_to_its_end(make: Make) -> None:
    org = make(changes="query")
    reader = Reader(org)
    org.create_there(people(2100))
    org.settle()
    first = next(iter(reader.source.run(reader.task, "overlap", reader.cursor)))
    assert len(first.records) == 2000
    told, _, _ = drain(reader.source.run(reader.task, "overlap", first.cursor))
    assert len(told) == 100


@pytest.mark.parametrize("changes", ["updated", "query", "events"])
def test_a_second_is_told_only_when_it_is_over(make: Make, changes: str) -> None:
    """Two states of one second would have one version, and the second of them would be taken for a re-read."""
    org = make(changes=changes)
    reader = Reader(org)
    (key,) = org.create_there([{"email": "a@example.com", "name": "First"}])
    early = reader.poll()
    org.edit_there(key, name="Second")
    told = [*early, *reader.rest(), *reader.rest()]
    versions = {r.version for r in told}
    assert len({(r.version, r.values["Title__c"]) for r in told}) == len(versions)
    assert "Second" in names(told)
    assert next(r for r in told if r.version == max(versions)).values["Title__c"] == "Second"


# ------------------------------------------------------------------------------------------------ gaps and outages


@pytest.fixture
def listening(make: Make) -> Reader:
    """Return a reader of events that knows a replay id."""
    org = make(changes="events")
    reader = Reader(org)
    reader.poll()
    org.create_there([{"email": "known@example.com", "name": "Known"}])
    assert names(reader.rest()) == {"Known"}
    assert reader.cursor["replay"] is not None
    return reader


def test_events_tell_every_kind_of_change_with_its_author(listening: Reader) -> None:
    org = listening.org
    a, b = org.create_there(people(2))
    org.forget_calls()
    assert {r.key for r in listening.rest()} == {a, b}
    assert sum(org.counted().values()) == 1, "events do not count, and one read tells them all"
    org.edit_there(a, name="A2")
    org.delete_there(b)
    told = {r.key: r for r in listening.rest()}
    assert told[a].values["Title__c"] == "A2"
    assert told[b].deleted
    assert not told[a].ours
    org.control_post(f"/undelete/{OBJECT}", [b])
    (back,) = listening.rest()
    assert (back.key, back.deleted) == (b, False)
    assert back.version > told[b].version


def test_what_was_too_young_when_the_line_was_opened_is_told_with_the_first_event(make: Make) -> None:
    """It is in no event, since it happened before the subscription, and in no reading by time, since its second was not over."""
    org = make(changes="events")
    reader = Reader(org)
    org.create_there(people(1))
    assert not reader.poll()
    org.create_there(people(1, 1))
    assert names(reader.rest()) == {"P0", "P1"}
    assert not reader.rest()


def test_s16_a_gap_is_read(listening: Reader) -> None:
    org = listening.org
    org.fault(kind="gap", path="_control")
    keys = org.create_there(people(3))
    assert {r.key for r in listening.rest()} == set(keys)


def test_s16_an_overflow_reads_everything_and_finds_what_is_gone(listening: Reader) -> None:
    org = listening.org
    keep, gone = org.create_there(people(2))
    listening.rest()
    org.fault(kind="overflow", path="_control")
    org.delete_there(gone)
    org.settle()
    listening.poll()
    whole = [p for p in listening.pages if p.whole]
    assert whole
    met = {r.key for p in whole for r in p.records} | {k for p in whole for k in p.met}
    assert keep in met
    assert gone not in met
    org.create_there(people(1, 9))
    assert names(listening.rest()) == {"P9"}, "and events go on behind it"


def test_s16_after_more_than_72_hours_everything_is_read(listening: Reader) -> None:
    org = listening.org
    keys = org.create_there(people(3))
    org.advance(4 * DAY_S)
    listening.other()
    listening.poll()
    met = {r.key for p in listening.pages if p.whole for r in p.records}
    assert met >= set(keys)
    org.create_there(people(1, 9))
    org.settle()
    assert "P9" in names(listening.poll() + listening.rest())


def test_s16_another_worker_goes_on_behind_the_replay_id(listening: Reader) -> None:
    org = listening.org
    keys = org.create_there(people(3))
    listening.other()
    assert {r.key for r in listening.rest()} == set(keys)


def test_s16_a_client_that_the_org_has_forgotten_is_opened_anew(listening: Reader) -> None:
    org = listening.org
    org.fault(kind="unknown_client", path="/meta/connect")
    keys = org.create_there(people(3))
    assert {r.key for r in listening.rest() + listening.rest()} == set(keys)


def test_s16_a_token_that_ended_while_listening_is_renewed(listening: Reader) -> None:
    org = listening.org
    org.control_post("/tokens/expire", {})
    keys = org.create_there(people(3))
    assert {r.key for r in listening.rest() + listening.rest()} == set(keys)


def test_an_object_without_events_says_where_to_switch_them_on(make: Make) -> None:
    org = make(changes="events")
    reader = Reader(org)
    line = reader.source._line(reader.task)  # type: ignore[attr-defined]
    line.channel = "/data/NothingChangeEvent"
    with pytest.raises(Fatal, match="no change events") as found:
        reader.poll()
    assert "Change Data Capture" in str(found.value)


@pytest.mark.parametrize("days", [16.0, 31.0])
def test_s16_a_window_that_reaches_back_too_far_reads_everything(make: Make, days: float) -> None:
    org = make()
    reader = Reader(org)
    keys = org.create_there(people(3))
    org.delete_there(keys[0])
    org.advance(days * DAY_S)
    told = reader.poll()
    assert all(p.whole for p in reader.pages)
    assert {r.key for r in told} == set(keys[1:])
    org.create_there(people(1, 9))
    assert names(reader.rest()) >= {"P9"}
    assert not any(p.whole for p in reader.pages)


def test_s16_deletions_that_the_org_has_trimmed_away_make_it_read_everything(make: Make) -> None:
    org = make()
    reader = Reader(org)
    org.create_there(people(2))
    reader.rest()
    org.control_post("/trim-deletions", {"keep_s": 0})
    org.advance(60.0)
    reader.rest()
    assert any(p.whole for p in reader.pages)


def test_what_is_deleted_past_the_recycle_bin_is_missed_by_the_comparison_of_keys(make: Make) -> None:
    org = make(changes="query")
    reader = Reader(org)
    keep, gone = org.create_there(people(2))
    reader.rest()
    org.control_post(f"/purge/{OBJECT}", [gone])
    assert not [r for r in reader.rest() if r.deleted], "a query does not see it"
    _, _, pages = drain(reader.source.run(reader.task, "deletes", None))
    assert [list(p.met) for p in pages] == [[keep]]
    assert all(p.whole for p in pages)
    org.settle()
    (looked,) = reader.source.read(reader.task, [gone])
    assert looked.deleted


# ------------------------------------------------------------------------------------------------ large windows


def test_s29_a_bulk_edit_of_5000_records_takes_few_calls(make: Make) -> None:
    org = make()
    reader = Reader(org)
    keys = org.create_there(people(5000))
    assert len(reader.rest()) == 5000
    org.control_post(f"/edit/{OBJECT}", [{"id": key, "Title__c": "Edited"} for key in keys])
    org.settle()
    org.forget_calls()
    told = reader.poll()
    assert {r.key for r in told} == set(keys)
    assert names(told) == {"Edited"}
    assert sum(org.counted().values()) == 2 + 3, org.counted()


def test_a_window_with_more_ids_than_one_answer_holds_is_split_and_then_queried(make: Make) -> None:
    org = make({"updated_ids": "500"})
    reader = Reader(org)
    keys = set(org.create_there(people(400)))
    org.settle()
    keys |= set(org.create_there(people(400, 400)))
    org.settle()
    keys |= set(org.create_there(people(1200, 800)))  # more in one minute than an answer holds
    told: list[Record] = reader.rest()
    for _ in range(4):
        told += reader.rest()
    assert {r.key for r in told} == keys
    assert any("EXCEEDED" in c or c.endswith("400") for c in org.calls()), "the limit was met"


def test_a_window_that_broke_off_goes_on_behind_its_last_page(make: Make) -> None:
    org = make()
    reader = Reader(org)
    keys = org.create_there(people(4500))
    org.settle()
    page: Page = next(iter(reader.source.run(reader.task, "poll", reader.cursor)))
    assert len(page.records) == 2000
    reader.cursor = page.cursor
    reader.other()
    org.forget_calls()
    told = reader.poll()
    assert len(told) == 2500
    assert {r.key for r in page.records} | {r.key for r in told} == set(keys)


@pytest.mark.parametrize("changes", ["updated", "query"])
def test_calls_per_1000_changes(make: Make, changes: str) -> None:
    org = make(changes=changes)
    reader = Reader(org)
    reader.rest()
    org.create_there(people(1000))
    org.settle()
    org.forget_calls()
    assert len(reader.poll()) == 1000
    most = {"updated": 3, "query": 1}[changes]
    assert sum(org.counted().values()) == most, org.counted()


def test_a_large_change_is_not_read_again_with_every_query(make: Make) -> None:
    org = make(changes="query")
    reader = Reader(org)
    org.create_there(people(5000))
    assert len(reader.rest()) == 5000
    org.forget_calls()
    for _ in range(10):
        org.advance(5.0)
        assert not reader.poll()
    assert sum(org.counted().values()) <= 10 + 3, org.counted()


def test_at_rest_nothing_is_asked_within_a_minute(make: Make) -> None:
    org = make()
    reader = Reader(org)
    reader.rest()
    org.forget_calls()
    for _ in range(3):
        reader.poll()
    assert sum(org.counted().values()) <= 2


# ------------------------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("changes", ["updated", "query", "events"])
@pytest.mark.parametrize("off_s", [-7200.0, 7200.0])
def test_s20_the_clock_of_the_org_is_the_only_one_that_counts(
    make: Make, monkeypatch: pytest.MonkeyPatch, changes: str, off_s: float
) -> None:
    now = Clock.now
    monkeypatch.setattr(Clock, "now", lambda self: now(self) + off_s)
    org = make(changes=changes)
    reader = Reader(org)
    keys = org.create_there(people(3))
    assert {r.key for r in reader.rest()} == set(keys)
    org.edit_there(keys[0], name="Again")
    assert names(reader.rest()) == {"Again"}


# ------------------------------------------------------------------------------------------------ first loads


def test_a_first_load_is_cut_into_spans_of_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.salesforce._PER_PART", 40)
    org = make()
    keys: list[str] = []
    for n in range(5):
        keys += org.create_there(people(40, 40 * n))
        org.advance(600.0)
    reader = Reader(org)
    parts = reader.source.parts(reader.task, None)
    assert len(parts) == 6
    told = [[r.key for r in drain(reader.source.load(reader.task, p))[0]] for p in parts]
    assert sorted(k for part in told for k in part) == sorted(keys)
    assert sum(1 for part in told if part) >= 3, "it is read side by side"


@pytest.mark.parametrize("load", ["soql", "bulk"])
def test_a_first_load_takes_a_condition(make: Make, load: str) -> None:
    org = make(load=load)
    org.create_there(people(20))
    org.settle()
    reader = Reader(org)
    (part,) = reader.source.parts(reader.task, "Title__c IN ('P3', 'P5') OR Title__c = 'P7'")
    assert names(drain(reader.source.load(reader.task, part))[0]) == {"P3", "P5", "P7"}
    with pytest.raises(Fatal, match="SOQL"):
        reader.source.parts(reader.task, "Title__c like")


def test_a_bulk_load_that_was_interrupted_goes_on_and_a_forgotten_job_is_begun_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.salesforce._BULK_PAGE", 30)
    monkeypatch.setattr("producers.salesforce._LOOK_S", 0.01)
    org = make(load="bulk")
    keys = org.create_there(people(100))
    org.settle()
    reader = Reader(org)
    (part,) = reader.source.parts(reader.task, None)
    told = set[str]()
    pages = 0
    while True:
        page = next(iter(reader.source.load(reader.task, part)))
        told |= {r.key for r in page.records}
        pages += bool(page.records)
        part = page.cursor
        if page.last:
            break
    assert told == set(keys)
    assert pages == 4
    assert reader.org.calls()[next(c for c in org.calls() if c.startswith("POST") and "jobs/query" in c)] == 1
    (part,) = reader.source.parts(reader.task, None)
    again = drain(reader.source.load(reader.task, {**part, "bulk": "750000000000000AAA"}))[0]
    assert {r.key for r in again} == set(keys)


def test_a_large_object_is_loaded_by_a_bulk_job(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.salesforce._BULK_FROM", 50)
    org = make()
    org.create_there(people(60))
    org.settle()
    reader = Reader(org)
    assert "bulk" in reader.source.parts(reader.task, None)[0]


def test_values_are_the_same_bytes_by_rest_and_by_bulk(make: Make) -> None:
    table = {
        "table": "Opportunity",
        "map": [
            {"column": c, "field": "name"}
            for c in ("Name", "Amount", "CloseDate", "IsPrivate", "Probability", "CreatedDate", "Description")
        ],
    }
    org = make(table=table, load="bulk")
    org.load(
        "Opportunity",
        [
            {"Name": "O", "StageName": "Prospecting", "CloseDate": "2026-12-01", "Amount": 1234567.1, "IsPrivate": True,
             "Probability": 20, "Description": 'two\nlines, "quoted"'}
        ],
    )  # fmt: skip
    reader = Reader(org)
    polled = reader.rest()
    loaded = [r for p in reader.source.parts(reader.task, None) for r in drain(reader.source.load(reader.task, p))[0]]
    for column in reader.task.columns.values():
        spelt = {column.encode(r.values.get(column.name)) for r in (*polled, *loaded)}
        assert len(spelt) == 1, (column.name, spelt)
    assert reader.task.columns["Amount"].encode(polled[0].values["Amount"])[1:].endswith(b"1234567.1")


# ------------------------------------------------------------------------------------------------ troubles


def test_s9_an_org_that_is_down_or_limited_is_left_alone_for_as_long_as_it_takes(make: Make) -> None:
    org = make()
    reader = Reader(org)
    org.settle()
    org.fault(kind="limit", times=None)
    with pytest.raises(Retry, match="REQUEST_LIMIT") as found:
        reader.poll()
    assert found.value.retry_after_s is not None
    assert found.value.retry_after_s >= 300
    calls = sum(org.calls().values())
    with pytest.raises(Retry):
        reader.poll()
    assert sum(org.counted().values()) <= calls, "nobody asks while it is paused"


@pytest.mark.parametrize(
    "fault", [{"kind": "edge"}, {"kind": "edge", "status": 406}, {"kind": "unavailable"}, {"kind": "unknown"}]
)
def test_s9_what_passes_by_itself_is_not_noticed(make: Make, fault: dict[str, Any]) -> None:
    org = make()
    reader = Reader(org)
    org.create_there(people(1))
    org.settle()
    org.fault(path="updated", **fault)
    assert names(reader.poll()) == {"P0"}


def test_s28_a_token_that_has_ended_is_renewed_without_a_word(make: Make) -> None:
    org = make()
    reader = Reader(org)
    org.create_there(people(1))
    org.settle()
    org.fault(kind="expire_tokens", path="updated")
    assert names(reader.poll()) == {"P0"}


def test_what_is_configured_wrongly_says_so(make: Make) -> None:
    org = make()
    with pytest.raises(Fatal, match=r"changes is 'often'"):
        SalesforceSource(org.context, dataclasses.replace(org.tenant, options={"changes": "often"}))
    source = org.source()
    with pytest.raises(Fatal, match="no object 'Nothing__c'"):
        source.columns(org.table.model_copy(update={"table": "Nothing__c"}))
