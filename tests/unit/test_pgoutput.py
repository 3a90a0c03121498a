"""Decoding of pgoutput: the generated functions against a plain decoder, and the rarer messages against bytes by hand."""

from __future__ import annotations

import datetime as dt
import io
import struct
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.base import Guard
from producers.columns import ENCODERS, some_long, some_text, unescape_copy
from producers.pgoutput import UNCHANGED, read_begin, read_message, read_relation, read_truncate, read_tuple
from producers.rows import NO_ORIGIN, PADDING, Names, RowPlan, SourceColumn, compose_key
from producers.snapshot import _unseen
from producers.stream import _MASK, _MULTIPLIER, read_receipts
from tidelock import avro
from tidelock.avro import NULL, FieldType, encode_slice, encode_string
from tidelock.change import CREATE, UPDATE, ChangeWriter, change_schema, event_id, key_digest, position
from tidelock.config import Binding, Sensitive, TableSpec
from tidelock.errors import Fatal, Reject
from tidelock.nativekey import native_key, split_native_key

NAMES = Names("crm", "acme", "contact")
OURS = b"\x02" + encode_string("tidelock")

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
moments = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001 - the zone is added where there is one


def _spell(moment: dt.datetime, zone: str) -> str:
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    date = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
    return f"{date} {moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}{fraction}{zone}"


# Type id → strategy of (the server's text, the value as `encode_slice` takes it).
VALUES: dict[int, tuple[FieldType, st.SearchStrategy[tuple[str, Any]]]] = {
    25: (FieldType.STRING, text.map(lambda v: (v, v))),
    20: (FieldType.INTEGER, st.integers(-(2**63), 2**63 - 1).map(lambda v: (str(v), v))),
    701: (FieldType.NUMBER, st.floats(allow_nan=False).map(lambda v: (repr(v), v))),
    1700: (FieldType.DECIMAL, st.decimals(allow_nan=False, allow_infinity=False).map(lambda v: (str(v), str(v)))),
    16: (FieldType.BOOLEAN, st.booleans().map(lambda v: ("t" if v else "f", v))),
    1082: (FieldType.DATE, st.dates().map(lambda v: (v.isoformat(), v))),
    1184: (FieldType.TIMESTAMP, moments.map(lambda v: (_spell(v, "+00"), v.replace(tzinfo=dt.UTC)))),
    1114: (FieldType.LOCAL_TIMESTAMP, moments.map(lambda v: (_spell(v, ""), v))),
    3802: (FieldType.JSON, text.map(lambda v: (v, v))),
    2950: (FieldType.UUID, st.uuids().map(lambda v: (str(v), str(v)))),
    17: (FieldType.BYTES, st.binary(max_size=20).map(lambda v: ("\\x" + v.hex(), v))),
    3614: (FieldType.STRING, text.map(lambda v: (v, v))),  # tsvector: any type we know nothing of
}


def _tuple(texts: list[Any]) -> bytes:
    out = struct.pack(">H", len(texts))
    for t in texts:
        if t is None:
            out += b"n"
        elif t is UNCHANGED:
            out += b"u"
        else:
            raw = t.encode() if isinstance(t, str) else t
            out += b"t" + struct.pack(">I", len(raw)) + raw
    return out


def _table(**more: Any) -> TableSpec:
    return TableSpec(table="contact", key=("id",), map=(Binding(column="id", field="x"),), **more)


def _plan(columns: list[SourceColumn], table: TableSpec | None = None, actor: str | None = None) -> RowPlan:
    table = table or _table()
    plan = RowPlan(NAMES, columns, table.key, Guard("", table), actor=actor)
    plan.compile(7)
    return plan


def _change(
    plan: RowPlan, texts: list[Any], pos: bytes, op: int = CREATE, origin: bytes = NO_ORIGIN
) -> tuple[bytes, bytes]:
    data = b"N" + _tuple(texts) + PADDING
    middle = avro.encode_long(op) + avro.encode_long(1_700_000_000_000_000) + avro.encode_long(5)
    return plan.change(data, 3, pos, int.from_bytes(pos, "big") * _MULTIPLIER & _MASK, middle, origin)


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[SourceColumn], list[Any], list[Any]]:
    """Columns, the texts of one row, and its values; the first column is the key."""
    oids = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=12))
    key = draw(text.filter(bool))
    columns = [SourceColumn("id", 25, "text")]
    texts: list[Any] = [key]
    values: list[Any] = [key]
    for i, oid in enumerate(oids):
        columns.append(SourceColumn(f"c{i}", oid, "t"))
        kind = draw(st.sampled_from(["value", "value", "null", "unchanged"]))
        spelt, value = draw(VALUES[oid][1])
        texts.append(spelt if kind == "value" else None if kind == "null" else UNCHANGED)
        values.append(value if kind == "value" else None)
    return columns, texts, values


@given(rows(), st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_generated_functions_agree_with_the_plain_decoder(
    row: tuple[list[SourceColumn], list[Any], list[Any]], lsn: int, seq: int, ours: bool
) -> None:
    columns, texts, values = row
    plan = _plan(columns)
    pos = position(lsn, seq)
    key, value = _change(plan, texts, pos, UPDATE, OURS if ours else NO_ORIGIN)
    native = texts[0]
    slices = [encode_slice(c.type, v) for c, v in zip(plan.columns, values, strict=True)]
    absent = tuple(c.name for c, t in zip(columns, texts, strict=True) if t is UNCHANGED)
    wanted = ChangeWriter(7, "crm", "acme", "contact").write(
        event_id(key_digest("crm", "acme", "contact", native), pos),
        pos,
        UPDATE,
        1_700_000_000_000_000,
        5,
        native.encode(),
        slices,
        absent=absent,
        origin="tidelock" if ours else None,
    )
    assert key == native.encode()
    assert value == wanted
    parsed, end = read_tuple(_tuple(texts), 0)
    assert end == len(_tuple(texts))
    assert plan.slices_of(parsed) == slices
    assert plan.absent_of(parsed) == absent
    data = _tuple(texts) + PADDING
    assert plan.row(data, 2) == (key, tuple(slices), absent, len(data) - len(PADDING))


def test_a_value_is_read_by_fastavro_with_the_registered_schema() -> None:
    columns = [
        SourceColumn("id", 20, "bigint"),
        SourceColumn("größe", 1700, "numeric(12,2)"),
        SourceColumn("at", 1184, ""),
    ]
    plan = _plan(columns)
    _, value = _change(plan, ["42", "12.50", "2026-11-24 02:18:35.5+00"], position(1, 2))
    schema = fastavro.parse_schema(change_schema("crm", "contact", plan.columns))
    read: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
    moment = dt.datetime(2026, 11, 24, 2, 18, 35, 500_000, tzinfo=dt.UTC)
    assert list(read["after"].values()) == [42, "12.50", moment]
    assert plan.columns[1].source_type == "numeric(12,2)"
    assert plan.columns[0].key


@given(st.integers(-(2**63), 2**63 - 1))
def test_longs_are_encoded_as_the_core_does(n: int) -> None:
    assert some_long(n) == avro.some_long(n)


@pytest.mark.parametrize("n", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_rejected(n: int) -> None:
    with pytest.raises(Reject) as caught:
        some_long(n)
    assert caught.value.kind == "number_out_of_range"


@pytest.mark.parametrize(
    ("oid", "spelt", "kind"),
    [
        (1082, "infinity", "infinite_date"),
        (1184, "-infinity", "infinite_date"),
        (1114, "infinity", "infinite_date"),
        (1082, "0044-03-15 BC", "date_out_of_range"),
        (1184, "0044-03-15 00:00:00+00 BC", "date_out_of_range"),
        (1184, "12026-01-01 00:00:00+00", "date_out_of_range"),
        (1082, "12026-01-01", "date_out_of_range"),
        (1184, "2026-01-01 00:00:00+01", "date_out_of_range"),
    ],
)
def test_dates_that_nobody_can_express_are_rejected(oid: int, spelt: str, kind: str) -> None:
    plan = _plan([SourceColumn("id", 25, "text"), SourceColumn("d", oid, "")])
    with pytest.raises(Reject) as caught:
        _change(plan, ["1", spelt], position(1, 1))
    assert caught.value.kind == kind
    assert caught.value.hint


def test_a_cached_second_does_not_hide_a_date_before_our_era() -> None:
    encode = ENCODERS[FieldType.LOCAL_TIMESTAMP]
    encode(b"0044-03-15 00:00:00")
    with pytest.raises((Reject, ValueError)):
        encode(b"0044-03-15 00:00:00 BC")


def test_bytes_that_are_no_utf8_are_rejected_where_a_database_may_hold_them() -> None:
    with pytest.raises(Reject) as caught:
        some_text(b"caf\xe9")
    assert caught.value.kind == "not_utf8"


def test_a_null_key_is_rejected() -> None:
    plan = _plan([SourceColumn("id", 25, "text")])
    with pytest.raises(Reject) as caught:
        _change(plan, [None], position(1, 1))
    assert caught.value.kind == "null_key"


@given(st.lists(st.text(st.sampled_from("a|\\b"), max_size=5), min_size=1, max_size=4))
def test_native_keys_are_spelt_and_taken_apart(parts: list[str]) -> None:
    spelt = native_key(parts)
    assert split_native_key(spelt, len(parts)) == parts
    assert compose_key(tuple(p.encode() for p in parts)) == spelt.encode()


def test_a_native_key_with_another_number_of_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="2 parts"):
        split_native_key("a|b|c", 2)


def test_composite_keys_are_in_the_order_of_the_configuration() -> None:
    table = TableSpec(table="line", key=("order_no", "line_no"), map=(Binding(column="line_no", field="x"),))
    plan = _plan([SourceColumn("line_no", 23, "int"), SourceColumn("order_no", 25, "text")], table)
    key, _ = _change(plan, ["3", "A|1"], position(1, 1))
    assert key == b"A\\|1|3"


@given(st.one_of(st.none(), st.binary(max_size=30).filter(lambda b: b"\x00" not in b)))
def test_copy_escapes_are_taken_out(value: bytes | None) -> None:
    if value is None:
        assert unescape_copy(b"\\N") is None
        return
    escaped = value.replace(b"\\", b"\\\\")
    for ch, sign in (("\b", "b"), ("\f", "f"), ("\n", "n"), ("\r", "r"), ("\t", "t"), ("\v", "v")):
        escaped = escaped.replace(ch.encode(), b"\\" + sign.encode())
    assert unescape_copy(escaped) == value


def test_sensitive_columns_never_leave() -> None:
    table = TableSpec(
        table="contact",
        map=(
            Binding(column="id", field="x"),
            Binding(column="iban", sensitive=Sensitive.DROP),
            Binding(column="born", sensitive=Sensitive.MASK),
            Binding(column="email", sensitive=Sensitive.HASH),
        ),
    )
    columns = [SourceColumn(n, o, "") for n, o in (("id", 20), ("iban", 25), ("born", 1082), ("email", 25))]
    plan = _plan(columns, table)
    assert [c.name for c in plan.columns] == ["id", "born", "email"]
    assert plan.columns[1].type is FieldType.STRING
    _, value = _change(plan, ["1", "CH93SECRET", "1990-02-03", "a@b.org"], position(1, 1))
    assert b"SECRET" not in value
    assert b"1990" not in value
    assert b"a@b.org" not in value
    slices = plan.slices_of([b"1", b"CH93SECRET", b"1990-02-03", b"a@b.org"])
    assert slices[1] == encode_slice(FieldType.STRING, "***")
    assert len(slices[2]) == 1 + 2 + 64
    assert slices[2] == plan.slices_of([b"2", None, None, b"a@b.org"])[2]
    assert plan.slices_of([b"2", None, None, None])[1] == NULL


def test_a_sensitive_key_is_refused() -> None:
    table = TableSpec(table="contact", map=(Binding(column="id", sensitive=Sensitive.HASH),))
    with pytest.raises(Fatal, match="part of the key"):
        Guard("", table)


def test_the_actor_is_taken_from_its_column_unless_the_change_is_ours() -> None:
    columns = [SourceColumn("id", 20, "bigint"), SourceColumn("by", 25, "text")]
    plan = _plan(columns, actor="by")
    reader_schema = fastavro.parse_schema(change_schema("crm", "contact", plan.columns))
    for origin, actor in ((NO_ORIGIN, "eve"), (OURS, None)):
        _, value = _change(plan, ["1", "eve"], position(1, 1), origin=origin)
        read: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), reader_schema, None)
        assert (read["actor"], read["origin"]) == (actor, "tidelock" if origin != NO_ORIGIN else None)


def test_a_key_that_the_table_lacks_is_fatal() -> None:
    with pytest.raises(Fatal, match="no column id"):
        _plan([SourceColumn("number", 20, "bigint")])


def test_rare_messages_are_read() -> None:
    begin = struct.pack(">QqI", 0x1_0000_00AB, 1_000_000, 77)
    assert read_begin(begin, 0) == (0x1_0000_00AB, 946_684_801_000_000, 77)
    relation = struct.pack(">I", 4711) + b"public\x00contact\x00d" + struct.pack(">H", 2)
    relation += b"\x01id\x00" + struct.pack(">Ii", 20, -1) + b"\x00bal\x00" + struct.pack(">Ii", 1700, 786438)
    read = read_relation(relation, 0)
    assert (read.oid, read.schema, read.table, read.identity) == (4711, "public", "contact", "d")
    assert [(c.name, c.oid, c.typmod, c.key) for c in read.columns] == [
        ("id", 20, -1, True),
        ("bal", 1700, 786438, False),
    ]
    assert read_truncate(struct.pack(">IBII", 2, 1, 4711, 4712), 0) == [4711, 4712]
    message = b"\x01" + struct.pack(">Q", 99) + b"tidelock.receipts\x00" + struct.pack(">I", 3) + b"abc" + PADDING
    got = read_message(message, 0)
    assert (got.transactional, got.lsn, got.prefix, got.content) == (True, 99, "tidelock.receipts", b"abc")


def test_receipts_messages_are_cut() -> None:
    def pack(entity: bytes, partition: int, body: bytes) -> bytes:
        return struct.pack(">H", len(entity)) + entity + struct.pack(">HI", partition, len(body)) + body

    content = pack(b"contact", 3, bytes(16) + b"one") + pack(b"order", 0, bytes(16) + b"two")
    assert read_receipts(content) == [("contact", 3, bytes(16) + b"one"), ("order", 0, bytes(16) + b"two")]
    with pytest.raises(ValueError, match="ends before"):
        read_receipts(content[:-1])


@pytest.mark.parametrize(
    ("snapshot", "seen", "unseen"),
    [
        ("100:105:", {99: 10}, False),
        ("100:105:101,103", {101: 10}, True),  # in the log before the mark, still running for the snapshot
        ("100:105:101", {101: 60}, False),  # behind the mark: the window has it
        ("100:105:", {107: 10}, True),  # newer than all the snapshot knows
        ("4294967295:4294967298:", {1: 10}, False),  # 64-bit ids of the snapshot, 32-bit ids of the stream
        ("4294967295:4294967298:4294967297", {1: 10}, True),
    ],
)
def test_a_chunk_that_missed_an_earlier_transaction_is_noticed(
    snapshot: str, seen: dict[int, int], unseen: bool
) -> None:
    assert _unseen(snapshot, 50, seen) is unseen
