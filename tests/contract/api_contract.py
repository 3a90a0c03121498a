"""What every connector of an HTTP API has to do: inherit `SourceContract` and `TargetContract` and give them a `subject`.

A subject is one tenant of a vendor's system, empty at first, that can hold contacts with an e-mail address and a name; usually a simulator.
No Kafka takes part: what the engine around a source does with its pages is tested once, in `tests/integration`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import pytest

from producers.source import Cursor, Page, Source, Task
from sinks.base import Sink
from tests.contract.sink_contract import SinkContract, Subject
from tests.sinking import record
from tidelock.apis.records import Record
from tidelock.change import position
from tidelock.envelopes import APPLIED, REJECTED, UNSEEN_EDIT, Receipt
from tidelock.errors import Retry, Revoked


class ApiSubject(Subject, Protocol):
    """One tenant of a vendor's system, for sinks and sources. What a person does there is never our own writing."""

    def source(self) -> Source:
        """Make a new source of the tenant, as a restarted worker would."""

    def task(self, source: Source) -> Task:
        """Return the task of reading contacts: key, e-mail address, name, and the column with our canonical id if there is one."""

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Let a person make contacts (``email``, ``name``); return their keys."""

    def edit_there(self, key: str, **values: Any) -> None:
        """Let a person change ``email`` or ``name``."""

    def delete_there(self, key: str) -> None:
        """Let a person delete a contact."""

    def settle(self) -> None:
        """Let so much time pass there that what has been done is told by the next poll."""

    def fault(self, **fault: Any) -> None:
        """Order a fault of `simulators.faults`."""

    def revoke(self) -> None:
        """Take the tenant's credentials away, for good."""


def drain(pages: Iterable[Page]) -> tuple[list[Record], Cursor, list[Page]]:
    """Read pages to their end; return their records, the last cursor, and the pages."""
    seen = list(pages)
    assert seen, "a reading has one page at least, which says where it stands"
    return [r for page in seen for r in page.records], seen[-1].cursor, seen


class SourceContract:
    """What every source has to do."""

    NAMES: ClassVar[dict[str, str]] = {}
    """How the vendor calls ``email`` and ``name``."""
    MANY: ClassVar[int] = 230
    """More than one page of whatever the vendor's pages are."""
    SEES_DELETES: ClassVar[bool] = True
    """Whether polling tells of deletes; if not, the run ``deletes`` does."""
    READS_ALL_FIRST: ClassVar[bool] = False
    """Whether the first poll reads everything."""
    EMPTY: ClassVar[str] = "email"
    """Which of the two may be empty there."""

    @pytest.fixture
    def source(self, subject: ApiSubject) -> Any:
        """Return a source, and close it at the end."""
        made = subject.source()
        yield made
        made.close()

    def name(self, column: str) -> str:
        """Return what the vendor calls a column."""
        return self.NAMES.get(column, column)

    def begin(self, subject: ApiSubject, source: Source) -> tuple[Task, Cursor]:
        """Return the task and where polling begins."""
        task = subject.task(source)
        subject.settle()
        _, cursor, _ = drain(source.run(task, "poll", None))
        return task, cursor

    def test_polling_begins_without_telling_of_what_was_there_unless_it_reads_everything(
        self, subject: ApiSubject, source: Source
    ) -> None:
        keys = subject.create_there([{"email": "old@example.com", "name": "Old"}])
        subject.settle()
        records, cursor, _ = drain(source.run(subject.task(source), "poll", None))
        assert [r.key for r in records] == (keys if self.READS_ALL_FIRST else [])
        assert cursor

    def test_what_people_make_change_and_delete_is_told(self, subject: ApiSubject, source: Source) -> None:
        task, cursor = self.begin(subject, source)
        a, b = subject.create_there([{"email": "a@example.com", "name": "A"}, {"email": "b@example.com", "name": "B"}])
        subject.settle()
        records, cursor, _ = drain(source.run(task, "poll", cursor))
        assert {r.key for r in records} == {a, b}
        by_key = {r.key: r for r in records}
        assert by_key[a].values[self.name("email")] == "a@example.com"
        assert by_key[a].values[self.name("name")] == "A"
        assert not by_key[a].ours
        subject.edit_there(a, name="A2")
        subject.settle()
        changed, cursor, _ = drain(source.run(task, "poll", cursor))
        (edited,) = [r for r in changed if r.key == a and r.version != by_key[a].version]
        assert edited.values[self.name("name")] == "A2"
        assert edited.version > by_key[a].version
        subject.delete_there(b)
        subject.settle()
        kind = "poll" if self.SEES_DELETES else "deletes"
        told, _, pages = drain(source.run(task, kind, cursor))
        gone = {r.key: r for r in told if r.deleted}
        if any(p.whole for p in pages):
            met = {r.key for r in told if not r.deleted} | {k for p in pages for k in p.met}
            assert a in met
            assert b not in met
            gone |= {r.key: r for r in source.read(task, [b]) if r.deleted}
        assert set(gone) == {b}
        assert gone[b].version > by_key[b].version

    def test_reading_again_from_an_old_cursor_tells_the_same_versions(
        self, subject: ApiSubject, source: Source
    ) -> None:
        task, cursor = self.begin(subject, source)
        subject.create_there([{"email": f"p{i}@example.com", "name": f"P{i}"} for i in range(5)])
        subject.settle()
        once, _, _ = drain(source.run(task, "poll", cursor))
        other = subject.source()
        try:
            twice, _, _ = drain(other.run(subject.task(other), "poll", cursor))
        finally:
            other.close()
        assert {(r.key, r.version) for r in once} == {(r.key, r.version) for r in twice}
        assert len(once) == 5

    def test_at_rest_nothing_new_is_told(self, subject: ApiSubject, source: Source) -> None:
        task, cursor = self.begin(subject, source)
        subject.create_there([{"email": "a@example.com", "name": "A"}])
        subject.settle()
        first, cursor, _ = drain(source.run(task, "poll", cursor))
        for _ in range(2):
            subject.settle()
            again, cursor, _ = drain(source.run(task, "poll", cursor))
            assert {(r.key, r.version) for r in again} <= {(r.key, r.version) for r in first}

    def test_more_changes_than_a_page_holds_at_one_moment_are_all_told(
        self, subject: ApiSubject, source: Source
    ) -> None:
        """S14: many records share one timestamp; a reading that breaks off anywhere goes on behind the last page."""
        task, cursor = self.begin(subject, source)
        keys = subject.create_there([{"email": f"m{i}@example.com", "name": f"M{i}"} for i in range(self.MANY)])
        subject.settle()
        told: set[str] = set()
        for _ in range(self.MANY):  # a restart behind every page
            pages = source.run(task, "poll", cursor)
            page = next(pages, None)
            if page is None:
                break
            told |= {r.key for r in page.records}
            cursor = page.cursor
            if told == set(keys):
                break
        assert told == set(keys)

    def test_a_first_load_reads_every_record_once_and_goes_on_behind_any_page(
        self, subject: ApiSubject, source: Source
    ) -> None:
        if self.READS_ALL_FIRST:
            pytest.skip("this capture has no load of its own: its first poll reads everything")
        keys = subject.create_there([{"email": f"l{i}@example.com", "name": f"L{i}"} for i in range(self.MANY)])
        subject.settle()
        task = subject.task(source)
        told: list[str] = []
        for part in source.parts(task, None):
            cursor: Cursor | None = part
            while cursor is not None:
                page = next(source.load(task, cursor), None)
                if page is None:
                    break
                told += [r.key for r in page.records]
                cursor = None if page.last else page.cursor
        assert sorted(told) == sorted(keys)

    def test_single_records_are_read_and_missing_ones_are_told_as_deleted(
        self, subject: ApiSubject, source: Source
    ) -> None:
        a, b = subject.create_there([{"email": "a@example.com", "name": "A"}, {"email": "b@example.com", "name": "B"}])
        subject.delete_there(b)
        subject.settle()
        task = subject.task(source)
        found = {r.key: r for r in source.read(task, [a, b])}
        assert set(found) == {a, b}
        assert not found[a].deleted
        assert found[a].values[self.name("email")] == "a@example.com"
        assert found[b].deleted

    def test_null_and_absent_are_told_apart(self, subject: ApiSubject, source: Source) -> None:
        task, cursor = self.begin(subject, source)
        there = {"name": "No mail"} if self.EMPTY == "email" else {"email": "no-name@example.com"}
        (key,) = subject.create_there([there])
        subject.settle()
        (told,) = (r for r in drain(source.run(task, "poll", cursor))[0] if r.key == key)
        empty = self.name(self.EMPTY)
        assert empty in told.values
        assert task.columns[empty].encode(told.values[empty]) == b"\x00"

    def test_one_value_has_the_same_bytes_however_it_was_read(self, subject: ApiSubject, source: Source) -> None:
        task, cursor = self.begin(subject, source)
        (key,) = subject.create_there([{"email": "same@example.com", "name": "Ünïcode \U0001f600 'quoted'"}])
        subject.settle()
        (polled,) = (r for r in drain(source.run(task, "poll", cursor))[0] if r.key == key)
        (read,) = source.read(task, [key])
        loaded = polled
        if not self.READS_ALL_FIRST:
            loaded = next(
                r for part in source.parts(task, None) for r in drain(source.load(task, part))[0] if r.key == key
            )
        for column in task.columns.values():
            spelt = {column.encode(r.values.get(column.name)) for r in (polled, read, loaded)}
            assert len(spelt) == 1, column.name

    def test_an_unreachable_system_is_a_retry_and_passes(self, subject: ApiSubject, source: Source) -> None:
        task, cursor = self.begin(subject, source)
        subject.create_there([{"email": "a@example.com", "name": "A"}])
        subject.settle()
        restore = subject.interrupted()
        try:
            with pytest.raises(Retry):
                drain(source.run(task, "poll", cursor))
        finally:
            restore()
        assert len(drain(source.run(task, "poll", cursor))[0]) == 1

    def test_credentials_that_were_taken_away_are_said_to_be(self, subject: ApiSubject, source: Source) -> None:
        """S28."""
        task, cursor = self.begin(subject, source)
        subject.revoke()
        with pytest.raises(Revoked):
            drain(source.run(task, "poll", cursor))


class TargetContract(SinkContract):
    """What every sink of an HTTP API has to do beyond what all sinks have to."""

    UNIQUE_EMAIL: ClassVar[bool] = True
    """Whether the vendor refuses a second contact with one e-mail address."""
    BAD: ClassVar[dict[str, Any]] = {"email": "no address at all"}
    """What the vendor refuses in a contact."""
    CREATE_CALLS: ClassVar[str] = "POST"
    """The method of the calls that create records."""
    MARKS_OURS: ClassVar[bool] = True
    """Whether reading tells that the last change was ours."""

    def told(self, subject: ApiSubject, key: str) -> Record:
        """Return a record as the capture reads it."""
        source = subject.source()
        try:
            (found,) = source.read(subject.task(source), [key])
        finally:
            source.close()
        return found

    def test_a_create_whose_answer_was_lost_makes_no_second_record(self, sink: Sink, subject: ApiSubject) -> None:
        """S13."""
        subject.fault(kind="lost", method=self.CREATE_CALLS, path=self.CREATE_PATH, times=1)
        batch = [self.write(n, "create", email=f"{n}@example.com", name=n) for n in ("a", "b")]
        with pytest.raises(Retry):
            self.done(sink, batch)
        receipts = self.done(sink, batch)
        assert [r.outcome for r in receipts] == [APPLIED, APPLIED]
        assert sorted(r["email"] for r in subject.rows().values()) == ["a@example.com", "b@example.com"]
        assert {r.native_key for r in receipts} == set(subject.rows())

    CREATE_PATH: ClassVar[str] = "."
    """What the paths of creating calls have in them, so that the fault hits no other."""

    def test_a_column_that_somebody_has_changed_is_left_alone_and_named(self, sink: Sink, subject: ApiSubject) -> None:
        (key,) = self.created(sink, "a")
        subject.edit_there(key, name="Theirs")
        (receipt,) = self.done(
            sink, [self.write("a", "update", key, 2, name=("Ours", "a"), email=("new@example.com", "a@x.example"))]
        )
        name = self.NAMES.get("name", "name")
        assert receipt.outcome == APPLIED
        assert receipt.refused == (name,)
        assert receipt.values[name] == b"\x02\x0cTheirs"
        assert subject.rows() == {key: {"email": "new@example.com", "name": "Theirs"}}

    def test_a_receipt_stands_where_the_capture_meets_the_write(self, sink: Sink, subject: ApiSubject) -> None:
        (key,) = self.created(sink, "a")
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("A2", "a"))])
        assert receipt.position is not None
        subject.settle()
        ours = self.told(subject, key)
        assert position(*ours.version) >= receipt.position
        assert not self.MARKS_OURS or ours.ours
        subject.edit_there(key, name="A3")
        subject.settle()
        theirs = self.told(subject, key)
        assert position(*theirs.version) > receipt.position
        assert not theirs.ours

    def test_an_edit_before_the_write_stands_before_it(self, sink: Sink, subject: ApiSubject) -> None:
        (key,) = self.created(sink, "a")
        subject.edit_there(key, email="theirs@example.com")
        subject.settle()
        before = self.told(subject, key)
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("A2", "a"))])
        assert receipt.position is not None
        assert position(*before.version) < receipt.position

    def test_a_delete_waits_while_an_edit_may_not_have_been_told_of(
        self, sink: Sink, subject: ApiSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rule 2: a record that goes takes an edit with it that nobody has read yet."""
        monkeypatch.setattr("sinks.api._delete_wait_s", lambda *_: 600.0)
        a, b = self.created(sink, "a", "b")
        subject.edit_there(a, name="Last words")
        subject.settle()
        batch = [self.write("a", "delete", a, 2), self.write("b", "delete", b, 2)]
        first, second = self.done(sink, batch)
        assert (first.outcome, first.kind) == (REJECTED, UNSEEN_EDIT)
        assert second.outcome == APPLIED or (not self.MARKS_OURS and second.kind == UNSEEN_EDIT)
        assert subject.rows()[a]["name"] == "Last words"
        self.done(
            sink, [self.write("a", "update", a, 3, email=("new@example.com", "a@x.example"))]
        )  # hides whose edit was last
        assert self.done(sink, [self.write("a", "delete", a, 4)])[0].kind == UNSEEN_EDIT
        monkeypatch.setattr("sinks.api._delete_wait_s", lambda *_: 0.0)
        assert self.done(sink, [self.write("a", "delete", a, 5)])[0].outcome == APPLIED

    def test_one_bad_record_holds_up_none_of_the_others(self, sink: Sink, subject: ApiSubject) -> None:
        """S8."""
        batch = [
            self.write("good", "create", email="good@example.com", name="Good"),
            self.write("bad", "create", **{"email": "bad@example.com", "name": "Bad", **self.BAD}),
            self.write("fine", "create", email="fine@example.com", name="Fine"),
        ]
        receipts = self.carried_out(sink, batch)
        assert [r.outcome for r in receipts] == [APPLIED, REJECTED, APPLIED]
        assert receipts[1].message
        assert sorted(r["name"] for r in subject.rows().values()) == ["Fine", "Good"]

    def carried_out(self, sink: Sink, batch: Any) -> list[Receipt]:
        """Carry out a batch as the runner does: a bad one is found by halves."""
        from sinks.wrappers import Bisecting

        return Bisecting(sink).write(batch)

    def test_a_value_that_must_be_unique_is_answered_with_its_holder(self, sink: Sink, subject: ApiSubject) -> None:
        if not self.UNIQUE_EMAIL:
            pytest.skip("e-mail addresses need not be unique there")
        from tidelock.envelopes import TAKEN

        (holder,) = subject.create_there([{"email": "taken@example.com", "name": "Holder"}])
        subject.settle()
        (receipt,) = self.carried_out(sink, [self.write("a", "create", email="taken@example.com", name="A")])
        assert receipt.outcome == TAKEN
        assert receipt.native_key == holder

    def test_many_writes_take_few_calls_and_all_land(self, sink: Sink, subject: ApiSubject) -> None:
        names = [f"n{i}" for i in range(230)]
        batch = [self.write(n, "create", email=f"{n}@example.com", name=n) for n in names]
        receipts = self.done(sink, batch)
        assert [r.outcome for r in receipts] == [APPLIED] * len(names)
        assert [r.canonical_id for r in receipts] == [record(n) for n in names]
        assert len(subject.rows()) == len(names)

    def test_credentials_that_were_taken_away_are_said_to_be(self, sink: Sink, subject: ApiSubject) -> None:
        """S28."""
        (key,) = self.created(sink, "a")
        subject.revoke()
        with pytest.raises(Revoked):
            self.done(sink, [self.write("a", "update", key, 2, name=("A", "a"))])
