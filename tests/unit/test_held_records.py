"""A held record keeps what all its changes have told, however they leave columns out, change their schema, or overtake one another."""

from __future__ import annotations

from typing import Any, cast

import pytest

from processors.identify import IdentifyStage
from processors.identity_rows import Sight
from tests.unit.test_identify import COLUMNS, Bench, State, entry, first_id, of
from tidelock.avro import NULL, FieldType, decode_slice, encode_slice
from tidelock.change import CREATE, DELETE, UPDATE, Change, Column, event_id, key_digest, position
from tidelock.envelopes import Entry

TEXT = FieldType.STRING
NOTE, FAX = Column("note", TEXT), Column("fax", TEXT)
WIDE = (*COLUMNS, NOTE)
BEFORE = (*COLUMNS, FAX)  # the table as it was, or as it will be
NUMBERED = (*COLUMNS, Column("note", FieldType.INTEGER))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def change(
    bench: Bench, at: int, columns: tuple[Column, ...] = WIDE, *, key: str = "18", system: str = "crm", **told: Any
) -> bytes:
    """Make a change that tells these columns and leaves out all others; told nothing at all, it is a delete."""
    writer = bench.codec.change_writer(f"cdc.{system}.contact", system, "default", "contact", columns)
    row = [encode_slice(c.type, told[c.name]) if c.name in told else NULL for c in columns]
    absent = tuple(c.name for c in columns if c.name not in told)
    event = event_id(key_digest(system, "default", "contact", key), position(at))
    op = DELETE if not told else UPDATE if absent else CREATE
    return writer.write(event, position(at), op, 10, 20 + at, key.encode(), row if told else None, absent=absent)


def whole(**told: Any) -> dict[str, Any]:
    return {"id": 18, "email": "ann@example.org", "phone": None, "hub_id": None, "note": "n1"} | told


def send(bench: Bench, payload: bytes) -> list[Any]:
    return bench.put(bench.unknown("crm", "18", payload))


def rival(bench: Bench) -> str:
    """Let there be a record with the match key, and a copy of it in crm."""
    bench.new("crm", "17", "ann@example.org")
    return first_id("crm", "17")


def leaves(bench: Bench, cid: str) -> list[Any]:
    return of(bench.put(Entry("left", cid, "crm", "default", "17", position(99))), "journal.contact")


def read(bench: Bench, payload: bytes) -> tuple[Change, dict[str, Any]]:
    """Return a change and what it tells."""
    c = bench.codec.change_reader(payload).read(payload)
    values = zip(c.columns, c.after or (), strict=True)
    return c, {k.name: decode_slice(k.type, v) for k, v in values if k.name not in c.absent}


def told_at_once(bench: Bench, rows: list[Any]) -> dict[str, Any]:
    """Return what a record is told when a held copy is linked; the changes that follow may only repeat some of it, each at its position."""
    first, *rest = rows
    linked = entry(first)
    assert linked.kind == "linked"
    c, row = read(bench, linked.payload)
    assert (c.position, c.absent) == (linked.position, frozenset())
    last = linked.position
    for _, cid, payload, *_ in rest:
        later, told = read(bench, payload)
        assert cid.decode() == linked.canonical_id
        assert later.position > last
        assert told.items() <= row.items()
        last = later.position
    return row


def test_what_later_changes_leave_out_is_kept_and_told_in_one_row_when_it_is_linked(bench: Bench) -> None:
    cid = rival(bench)
    send(bench, change(bench, 1, **whole()))
    send(bench, change(bench, 2, note="n2"))
    send(bench, change(bench, 3, phone="555"))
    rows = leaves(bench, cid)
    assert told_at_once(bench, rows) == whole(note="n2", phone="555")
    linked = entry(rows[0])
    assert (linked.canonical_id, linked.position) == (cid, position(1))
    assert read(bench, linked.payload)[0].captured_at == 23, "it is as new as its newest change"
    assert [read(bench, r[2])[0].position for r in rows[1:]] == [position(2), position(3)]


def test_the_match_key_may_stand_in_an_earlier_change(bench: Bench) -> None:
    """Without its e-mail it would be nobody's double, and a record of its own."""
    rival(bench)
    assert of(send(bench, change(bench, 1, **whole())), "dlq.identify.crm.contact")
    assert send(bench, change(bench, 2, note="n2")) == []
    rows = send(bench, change(bench, 3, email="bob@example.org"))
    assert entry(of(rows, "journal.contact")[0]).canonical_id == first_id("crm", "18")
    assert read(bench, entry(rows[0]).payload)[1] == whole(email="bob@example.org", note="n2")


@pytest.mark.parametrize("older", [BEFORE, NUMBERED])
def test_what_another_schema_told_goes_before_in_a_change_of_its_own(bench: Bench, older: tuple[Column, ...]) -> None:
    """A column that is no more, or that has another type now, can stand in no row of the new schema; merge reads each by its own."""
    cid = rival(bench)
    first: dict[str, Any] = {"id": 18, "email": "ann@example.org", "phone": "1", "hub_id": None, older[-1].name: 7}
    send(bench, change(bench, 1, older, **first))
    send(bench, change(bench, 2, note="new", email="ann@example.org"))
    send(bench, change(bench, 3, phone="2"))
    told = leaves(bench, cid)
    linked = entry(told[0])
    assert (linked.kind, linked.position) == ("linked", position(1))
    expected: dict[str, Any] = {"id": 18, "hub_id": None} | ({"fax": "7"} if older is BEFORE else {})
    assert read(bench, linked.payload)[1] == expected
    c, row = read(bench, told[1][2])
    assert (c.position, row) == (position(2), {"note": "new", "email": "ann@example.org", "phone": "2"})
    c, row = read(bench, told[2][2])
    assert (c.position, row, len(told)) == (position(3), {"phone": "2"}, 3)


def test_a_delete_ends_what_was_kept(bench: Bench) -> None:
    cid = rival(bench)
    send(bench, change(bench, 1, **whole()))
    send(bench, change(bench, 2, note="n2"))
    send(bench, change(bench, 3))
    send(bench, change(bench, 4, **whole(note=None)))
    (row,) = leaves(bench, cid)
    assert read(bench, entry(row).payload)[1] == whole(note=None)


def test_however_many_changes_come_no_more_than_a_row_is_kept(bench: Bench) -> None:
    rival(bench)
    send(bench, change(bench, 1, **whole(note="n" * 1000)))
    sizes = set()
    for at in range(2, 60, 2):
        send(bench, change(bench, at, note="n" * 1000))
        send(bench, change(bench, at + 1, phone="5" * 10))
        sizes.add(len(bench.state.stored[b"h:crm/default/18"]))
    assert max(sizes) - min(sizes) < 10
    assert max(sizes) < 2000


@pytest.mark.parametrize("queued", [False, True])
def test_a_change_that_was_overtaken_fills_what_the_newer_one_leaves_out(bench: Bench, queued: bool) -> None:
    """It was with a record that it is not of, and comes back late; its own column counts, what the newer one tells does not."""
    cid = rival(bench)
    if queued:  # it waits for a create instead of being held
        bench.put(Entry("release", cid, "erp", "default"))
        bench.new("erp", "900", "zoe@example.org")
    send(bench, change(bench, 1, **whole()))
    send(bench, change(bench, 4, phone="4"))
    late = change(bench, 3, note="n3", phone="3")
    back = bench.put(Entry("bounce", "another", "crm", "default", "18", position(3), payload=late))
    assert of(back, "journal.contact") == []
    if queued:
        bench.put(Entry("release", first_id("erp", "900"), "crm", "default"))
    assert told_at_once(bench, leaves(bench, cid)) == whole(note="n3", phone="4")


def test_a_part_that_comes_before_the_whole_waits_for_it(bench: Bench) -> None:
    """A row that was deleted and made anew: its second change comes the short way, its first by way of the dead record."""
    rival(bench)
    send(bench, change(bench, 1))
    rows = send(bench, change(bench, 3, note="n3"))
    assert of(rows, "journal.contact") == [], "who it is cannot be known from a note"
    assert "part of its row" in bench.codec.decode(of(rows, "ops.alerts")[0][2])["message"]
    made = change(bench, 2, **whole(email="bob@example.org"))
    rows = bench.put(Entry("bounce", "another", "crm", "default", "18", position(2), payload=made))
    linked = entry(of(rows, "journal.contact")[0])
    assert read(bench, linked.payload)[1] == whole(email="bob@example.org", note="n3")


def test_restarts_between_partial_changes_change_no_byte(bench: Bench) -> None:
    cid = rival(bench)
    send(bench, change(bench, 1, BEFORE, id=18, email="ann@example.org", phone="1", hub_id=None, fax="7"))
    send(bench, change(bench, 2, note="n2"))
    send(bench, change(bench, 4, phone="4"))
    late = change(bench, 3, note="n3")
    bench.put(Entry("bounce", "another", "crm", "default", "18", position(3), payload=late))
    leaves(bench, cid)
    messages = cast("list[Any]", bench.fed)
    at_once, one_by_one = State(), State()
    whole_run = list(IdentifyStage(bench.context, bench.plans).process(messages, at_once))
    at_once.commit()
    single: list[Any] = []
    for message in messages:
        single += IdentifyStage(bench.context, bench.plans).process([cast("Any", message)], one_by_one)
        one_by_one.commit()
    assert single == whole_run
    assert one_by_one.stored == at_once.stored == bench.state.stored
    assert b"h:crm/default/18" not in bench.state.stored


def test_a_row_with_earlier_changes_comes_back_as_it_was() -> None:
    sight = Sight("crm/t", "17", position(9), ("a",), "", False, 3, 70_000, b"newest", (b"first", b"", b"second"))
    assert Sight.decode("crm/t", "17", sight.encode()) == sight
