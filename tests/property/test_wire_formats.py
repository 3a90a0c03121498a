"""Everything that is joined and cut by hand is checked against fastavro on the published schemas."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import fastavro
from hypothesis import given
from hypothesis import strategies as st

import schemas
from tidelock.avro import (
    AVRO_TYPES,
    FieldType,
    decode_slice,
    encode_long,
    encode_slice,
    encode_string,
    from_value,
    splitter,
    to_value,
)
from tidelock.change import ChangeReader, ChangeWriter, Column, change_schema
from tidelock.envelopes import Entry, Receipt, Receipts, Write, encode_write_head

LONGS = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.STRING: st.text(),
    FieldType.INTEGER: LONGS,
    FieldType.NUMBER: st.floats(allow_nan=False),
    FieldType.DECIMAL: st.decimals(allow_nan=False, allow_infinity=False).map(str),
    FieldType.BOOLEAN: st.booleans(),
    FieldType.DATE: st.dates(),
    FieldType.TIMESTAMP: st.datetimes(timezones=st.just(dt.UTC)),
    FieldType.LOCAL_TIMESTAMP: st.datetimes(),
    FieldType.JSON: st.text(),
    FieldType.UUID: st.uuids().map(str),
    FieldType.BYTES: st.binary(),
}
TYPED = st.sampled_from(list(FieldType)).flatmap(lambda k: st.tuples(st.just(k), st.none() | VALUES[k]))
FIXED = st.binary(min_size=16, max_size=16)
NAMES = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=8)


def _read(schema: Any, body: bytes) -> Any:
    stream = io.BytesIO(body)
    value = fastavro.schemaless_reader(stream, fastavro.parse_schema(schema), None)
    assert not stream.read(), "fastavro leaves bytes over"
    return value


@given(TYPED)
def test_slices_are_avro_and_come_back(typed: tuple[FieldType, Any]) -> None:
    kind, value = typed
    raw = encode_slice(kind, value)
    if kind is not FieldType.UUID:  # fastavro returns UUID objects
        assert _read(["null", AVRO_TYPES[kind]], raw) == value
    assert decode_slice(kind, raw) == value
    assert splitter((kind, kind))(raw + raw, 0) == ([raw, raw], 2 * len(raw))
    assert from_value(to_value(kind, raw), 0) == (raw, len(to_value(kind, raw)))


@given(
    st.lists(TYPED, min_size=1, max_size=6), FIXED, FIXED, st.integers(0, 3), LONGS, LONGS, st.text(max_size=80),
    st.lists(st.none() | st.text(max_size=5), min_size=3, max_size=3), st.booleans(), st.booleans(),
)  # fmt: skip
def test_changes_are_avro_and_come_back(
    row: list[tuple[FieldType, Any]],
    event: bytes,
    pos: bytes,
    op: int,
    at: int,
    seen: int,
    key: str,
    who: list[str | None],
    gone: bool,
    old: bool,
) -> None:
    columns = tuple(Column(f"c{i}", kind) for i, (kind, _) in enumerate(row))
    schema = change_schema("crm", "contact", columns)
    slices = [encode_slice(kind, value) for kind, value in row]
    absent = ("c0",) if not gone else ()
    value = ChangeWriter(7, "crm", "default", "contact").write(
        event, pos, op, at, seen, key.encode(), None if gone else slices, slices if old else None, absent, *who
    )
    change = ChangeReader(schema).read(value, before=True)
    assert (change.event_id, change.position, change.op, change.source_time, change.captured_at) == (
        event,
        pos,
        op,
        at,
        seen,
    )
    assert (change.native_key, change.origin, change.write_id, change.actor) == (key, *who)
    assert change.after == (None if gone else slices)
    assert change.before == (slices if old else None)
    assert change.absent == frozenset(absent)
    plain = _without_logical(schema)
    known = _read(plain, value[5:])
    assert known["native_key"] == key
    assert (known["after"] is None) == gone
    assert known["absent"] == list(absent)


def _without_logical(schema: Any) -> Any:
    """Drop logical types, so that times outside Python's range can be read."""
    if isinstance(schema, dict):
        return {k: _without_logical(v) for k, v in schema.items() if k != "logicalType"}
    if isinstance(schema, list):
        return [_without_logical(s) for s in schema]
    return schema


@given(NAMES, st.text(), FIXED, st.integers(0, 2**31 - 1), LONGS, st.lists(st.text(), max_size=3), st.binary())
def test_entries_are_avro_and_come_back(
    kind: str, text: str, pos: bytes, part: int, offset: int, keys: list[str], payload: bytes
) -> None:
    entry = Entry(kind, text, text, text, text, pos, part, offset, tuple(keys), payload)
    body = entry.encode()
    assert Entry.decode(body, 0) == entry
    known = _read(schemas.load("entry"), body)
    assert (known["kind"], known["keys"], known["payload"], known["offset"]) == (kind, keys, payload, offset)


@given(
    st.booleans(), FIXED,
    st.lists(st.tuples(st.integers(0, 4), st.none() | st.text(), st.none() | FIXED, st.lists(NAMES, max_size=2), TYPED, st.none() | st.text()), max_size=4),
)  # fmt: skip
def test_receipts_are_avro_and_come_back(plain: bool, pos: bytes, rows: list[Any]) -> None:
    items = [
        Receipt(
            f"id{i}",
            i,
            outcome,
            key,
            own,
            tuple(refused),
            {"c": to_value(typed[0], encode_slice(*typed))},
            words,
            words,
        )
        for i, (outcome, key, own, refused, typed, words) in enumerate(rows)
    ]
    body = Receipts("crm", "default", "contact", 5, items, pos, plain).encode()
    back = Receipts.decode(body, 0)
    assert (back.system, back.plain, back.position, len(back.items)) == ("crm", plain, pos, len(items))
    for sent, got, (*_, typed, _words) in zip(items, back.items, rows, strict=True):
        assert (got.canonical_id, got.version, got.outcome, got.native_key) == (
            sent.canonical_id,
            sent.version,
            sent.outcome,
            sent.native_key,
        )
        assert got.position == (sent.position if sent.position is not None else pos)
        assert got.values == {"c": encode_slice(*typed)}
        assert (got.refused, got.kind, got.message) == (sent.refused, sent.kind, sent.message)
    assert len(_read(schemas.load("receipts"), body)["items"]) == len(items)


@given(st.none() | st.text(), LONGS, FIXED, st.none() | st.text(), st.lists(TYPED, max_size=4))
def test_writes_are_avro_and_come_back(
    key: str | None, at: int, event: bytes, actor: str | None, row: list[tuple[FieldType, Any]]
) -> None:
    head = encode_write_head(
        b"some-id", 3, 1, key, encode_string("crm"), at, event, actor, encode_string("seed"), encode_string("erp") * 3
    )
    slices = {f"c{i}": (encode_slice(*typed), to_value(typed[0], encode_slice(*typed))) for i, typed in enumerate(row)}
    columns = b"".join(encode_string(n) + v + v for n, (_, v) in slices.items())
    body = head + (encode_long(len(slices)) + columns if slices else b"") + b"\x00"
    write = Write.decode(body, 0)
    assert (write.native_key, write.source_time, write.event_id, write.actor, write.op) == (
        key,
        at,
        event,
        actor,
        "update",
    )
    assert write.columns == {n: (s, s) for n, (s, _) in slices.items()}
    assert len(_read(_without_logical(schemas.load("write")), body)["columns"]) == len(slices)
