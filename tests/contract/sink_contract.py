"""What every sink has to do: inherit `SinkContract` in a test module and give it a `subject`.

A subject makes sinks of one empty destination that can hold a contact with ``email`` (unique) and ``name``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import pytest

from sinks.base import Done, Kept, Scope, Sink, Transactional
from tests.sinking import write
from tidelock.envelopes import APPLIED, MISSING, STALE, Receipt, Write
from tidelock.errors import Retry


class Subject(Protocol):
    """A destination under test."""

    def sink(self) -> Sink:
        """Make a new sink of the destination, as a restarted worker would."""

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands in the destination: ``email`` and ``name`` by native key."""

    def interrupted(self) -> Callable[[], None]:
        """Make the destination unreachable; the result makes it reachable again."""


class SinkContract:
    """The tests. Every one of them starts with an empty destination."""

    SCOPE: ClassVar[Scope] = ("contract", 0)
    NAMES: ClassVar[Mapping[str, str]] = {}
    """How the destination calls ``email`` and ``name``, if it does not call them so."""

    def write(self, who: object, op: str = "update", key: object = None, version: int = 1, /, **columns: Any) -> Write:
        """Make a write to the destination's own columns."""
        return write(who, op, key, version, **{self.NAMES.get(n, n): v for n, v in columns.items()})

    @pytest.fixture
    def sink(self, subject: Subject) -> Any:
        """Return a sink that is set up, and close it at the end."""
        made = subject.sink()
        made.setup()
        if isinstance(made, Transactional):
            made.claim("contract", {self.SCOPE: "id"})
        yield made
        made.close()

    def done(self, sink: Sink, batch: Sequence[Write]) -> list[Receipt]:
        """Carry out a batch for good."""
        outcomes = sink.write(batch)
        if isinstance(sink, Transactional):
            sink.commit(Done({self.SCOPE: Kept(1, 0)}))
        return outcomes

    def created(self, sink: Sink, *names: str) -> list[str]:
        """Create contacts and return their native keys."""
        receipts = self.done(sink, [self.write(n, "create", email=f"{n}@x.example", name=n) for n in names])
        assert [r.outcome for r in receipts] == [APPLIED] * len(names)
        return [str(r.native_key) for r in receipts]

    def test_there_is_one_outcome_per_write_in_order(self, sink: Sink, subject: Subject) -> None:
        keys = self.created(sink, "a", "b", "c")
        assert {k: r["email"] for k, r in subject.rows().items()} == dict(
            zip(keys, ["a@x.example", "b@x.example", "c@x.example"], strict=True)
        )
        batch = [
            self.write("c", "update", keys[2], 2, name=("C", "c")),
            self.write("a", "delete", keys[0], 2),
            self.write("b", "update", keys[1], 2, name=("B", "b")),
        ]
        outcomes = self.done(sink, batch)
        assert [(o.canonical_id, o.version, o.outcome) for o in outcomes] == [
            (w.canonical_id, w.version, APPLIED) for w in batch
        ]
        assert subject.rows() == {
            keys[1]: {"email": "b@x.example", "name": "B"},
            keys[2]: {"email": "c@x.example", "name": "C"},
        }

    def test_a_write_touches_only_its_columns(self, sink: Sink, subject: Subject) -> None:
        (key,) = self.created(sink, "a")
        self.done(sink, [self.write("a", "update", key, 2, email=("new@x.example", "a@x.example"))])
        assert subject.rows() == {key: {"email": "new@x.example", "name": "a"}}

    def test_null_is_written_as_null(self, sink: Sink, subject: Subject) -> None:
        (key,) = self.created(sink, "a")
        self.done(sink, [self.write("a", "update", key, 2, name=(None, "a"))])
        assert subject.rows() == {key: {"email": "a@x.example", "name": None}}

    def test_an_update_of_nothing_is_missing_and_a_delete_of_nothing_is_done(self, sink: Sink) -> None:
        (key,) = self.created(sink, "a")
        self.done(sink, [self.write("a", "delete", key, 2)])
        assert [o.outcome for o in self.done(sink, [self.write("a", "update", key, 3, name=("x", "a"))])] == [MISSING]
        assert [o.outcome for o in self.done(sink, [self.write("a", "delete", key, 4)])] == [APPLIED]

    def test_the_same_write_again_changes_nothing_more(self, sink: Sink, subject: Subject) -> None:
        (key,) = self.created(sink, "a")
        again = self.write("a", "update", key, 2, name=("A", "a"))
        self.done(sink, [again])
        before = subject.rows()
        (outcome,) = self.done(sink, [dataclasses.replace(again)])
        assert outcome.outcome in (APPLIED, STALE)
        # A sink that checks bases sees that the base is gone and says what stands there: the very value.
        name = self.NAMES.get("name", "name")
        assert outcome.refused in ((), (name,))
        assert not outcome.refused or name in outcome.values
        assert subject.rows() == before

    def test_an_unreachable_destination_is_a_retry_and_passes(self, sink: Sink, subject: Subject) -> None:
        (key,) = self.created(sink, "a")
        restore = subject.interrupted()
        try:
            with pytest.raises(Retry):
                self.done(sink, [self.write("a", "update", key, 2, name=("A", "a"))])
        finally:
            restore()
        if isinstance(sink, Transactional):
            sink.abort()
            sink.claim("contract", {self.SCOPE: "id"})
        self.done(sink, [self.write("a", "update", key, 2, name=("A", "a"))])
        assert subject.rows()[key]["name"] == "A"
