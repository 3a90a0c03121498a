"""The parts of sinks that need no server."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import fastavro
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from sinks.base import Lost
from sinks.instructions import decode_write, fold
from sinks.packs import Fate, audit_bodies, decode_memo, encode_memo, is_plain, logged, plain_receipt, receipts_bodies
from sinks.references import parents_first
from sinks.wrappers import Bisecting, Breaker, Retrying
from tests.sinking import config_of, encoded, write
from tidelock.avro import encode_slice, to_value
from tidelock.envelopes import APPLIED, REJECTED, TAKEN, Receipt, Receipts, Write
from tidelock.errors import Fatal, Reject, Retry
from tidelock.nativekey import native_key, split_native_key
from tidelock.pgtypes import TYPES, array, from_text, to_text, to_texts

VALUES = st.one_of(st.none(), st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.binary(max_size=300))


class Header:
    """Stands for the codec."""

    def header(self, _name: str) -> bytes:
        """Return a wire header."""
        return b"\0\0\0\0\1"


@given(
    st.dictionaries(st.text(min_size=1), st.tuples(VALUES, VALUES), max_size=70),
    st.sampled_from(["create", "update", "delete"]),
    st.text(),
)
def test_writes_are_read_as_fastavro_wrote_them(columns: dict[str, Any], op: str, key: str) -> None:
    w = write("a", op, key)
    w.columns.update(write("a").columns)
    wanted = {
        **{
            n: getattr(w, n)
            for n in (
                "canonical_id",
                "version",
                "op",
                "native_key",
                "source",
                "source_time",
                "event_id",
                "actor",
                "rule",
            )
        },
        **{n: getattr(w, n) for n in ("system", "tenant", "entity")},
        "columns": [{"name": n, "value": v, "base": b} for n, (v, b) in columns.items()],
    }
    out = io.BytesIO()
    schema = fastavro.parse_schema(schemas.load("write"))
    fastavro.schemaless_writer(out, schema, wanted)
    read = decode_write(b"\0\0\0\0\1" + out.getvalue())
    again = io.BytesIO(encoded(Header(), read)[5:])  # type: ignore[arg-type]
    assert fastavro.schemaless_reader(again, schema, None) == fastavro.schemaless_reader(
        io.BytesIO(out.getvalue()), schema, None
    )


def test_a_write_that_is_cut_off_anywhere_is_an_error() -> None:
    raw = encoded(Header(), write("a", "update", "k", email=("new", "old"), score=(5, None)))  # type: ignore[arg-type]
    for n in range(5, len(raw)):
        with pytest.raises((IndexError, ValueError)):
            decode_write(raw[:n])
        assert decode_write(raw).entity == "contact"  # what was cut off has left nothing behind


def test_folding_keeps_the_later_value_and_the_earlier_base() -> None:
    first, second = (
        write("a", "update", "k", 1, x=("2", "1"), y=("b", "a")),
        write("a", "update", "k", 2, x=("3", "2"), z=(True, None)),
    )
    both = fold(first, second)
    assert both is not None
    wanted = write("a", "update", "k", 2, x=("3", "1"), y=("b", "a"), z=(True, None))
    assert (both.version, both.op, both.columns) == (2, "update", wanted.columns)
    assert fold(write("a", "delete", "k"), second) is None
    assert fold(first, write("a", "delete", "k")) is None
    created = fold(write("a", "create", x="1"), second)
    assert created is not None
    assert (created.op, created.native_key) == ("create", None)


@given(
    st.lists(st.one_of(st.none(), st.text().map(str.encode)).filter(lambda t: t is None or b"\0" not in t), max_size=5)
)
def test_arrays_are_what_psycopg_reads(texts: list[bytes | None]) -> None:
    loaded = psycopg.adapt.Transformer().get_loader(1009, psycopg.pq.Format.TEXT).load(array(texts))
    assert [None if t is None else t.encode() for t in loaded] == texts


def test_zero_characters_are_rejected_not_cut() -> None:
    both: list[list[bytes | None]] = [[b"a\0b"], [None, b"a\0b"]]
    for texts in both:
        with pytest.raises(Reject, match="zero character"):
            array(texts)


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        (23, b"-5"),
        (1700, b"1.50"),
        (16, b"t"),
        (1082, b"2024-02-29"),
        (1184, b"2024-02-29 12:00:01.5+00"),
        (1114, b"0001-01-01 00:00:00"),
        (17, b"\\x00ff"),
        (25, b"a"),
        (3802, b'{"a": 1}'),
        (701, b"0.1"),
        (1184, b"infinity"),
        (1082, b"0044-03-15 BC"),
    ],
)
def test_texts_of_the_server_come_back_as_they_were(oid: int, text: bytes) -> None:
    value = from_text(text, oid)
    assert to_text(value, oid) == text
    assert to_texts([value, b"\0"], oid) == [text, None]
    assert from_text(None, oid) == b"\0"


@given(st.datetimes())
def test_moments_survive(moment: Any) -> None:
    kind = TYPES[1114]
    value = to_value(kind, encode_slice(kind, moment))
    assert from_text(to_text(value, 1114), 1114) == value


def test_packs_and_memos_are_read_back() -> None:
    plain = plain_receipt(write("a", "update", "7", 3))
    odd = Receipt("cid", 4, REJECTED, None, b"p" * 16, ("x",), {"x": b"\x02\x02v"}, "kind", "message")
    assert is_plain(write("a", "update", "7", 3), plain)
    assert not is_plain(write("a", "update", "8", 3), plain)
    (body,) = receipts_bodies("s", "t", "e", 9, [plain.encode(), odd.encode()])
    assert body == Receipts("s", "t", "e", 9, [plain, odd]).encode()
    many = receipts_bodies("s", "t", "e", 9, [plain.encode()] * 20_000)
    assert len(many) > 1
    assert sum(len(Receipts.decode(b, 0).items) for b in many) == 20_000
    memo = decode_memo(encode_memo([(5, Fate.of(odd)), (2**40, Fate.of(plain))]))
    assert memo == {5: Fate.of(odd), 2**40: Fate.of(plain)}
    (audit,) = audit_bodies("s", "t", "e", "w", 9, [(REJECTED, b"bytes")])
    read = fastavro.schemaless_reader(io.BytesIO(audit), fastavro.parse_schema(schemas.load("audit")), None)
    assert isinstance(read, dict)
    assert read["items"] == [{"outcome": "rejected", "write": b"bytes"}]
    assert logged("contact", 258, b"body") == b"\0\x07contact\x01\x02\0\0\0\x04body"


class Fussy:
    """A sink that fails for records it does not like."""

    def __init__(self, bad: dict[str, Exception]) -> None:
        self.bad = bad
        self.calls = 0

    def setup(self) -> None: ...

    def close(self) -> None: ...

    def write(self, batch: Sequence[Write]) -> list[Receipt]:
        """Fail if there is a bad one among them."""
        self.calls += 1
        for w in batch:
            if w.native_key in self.bad:
                raise self.bad[w.native_key]
        return [Receipt(w.canonical_id, w.version, APPLIED, w.native_key) for w in batch]


def outcomes(sink: Any, n: int) -> list[int]:
    return [o.outcome for o in Bisecting(sink).write([write(i, "update", i) for i in range(n)])]


def test_the_bad_records_of_a_batch_are_found_and_only_these_rejected() -> None:
    sink = Fussy({"3": Reject("no", kind="bad"), "90": RuntimeError("what?")})
    found = outcomes(sink, 100)
    assert [i for i, o in enumerate(found) if o == REJECTED] == [3, 90]
    assert sink.calls < 40


def test_if_every_record_fails_for_unknown_reasons_it_is_an_outage() -> None:
    with pytest.raises(Retry, match="every record"):
        outcomes(Fussy({str(i): RuntimeError("down") for i in range(4)}), 4)
    assert outcomes(Fussy({str(i): Reject("no", kind="bad") for i in range(4)}), 4) == [REJECTED] * 4


def test_what_the_destination_says_of_itself_passes_through() -> None:
    for error in (Retry("later"), Fatal("never"), Lost("gone")):
        sink = Fussy({"1": error})
        with pytest.raises(type(error)):
            outcomes(sink, 8)
        assert sink.calls == 1


def test_taken_values_are_tried_once_more_after_the_others() -> None:
    class Chain(Fussy):
        freed = False

        def write(self, batch: Sequence[Write]) -> list[Receipt]:
            if len(batch) > 1:
                raise Reject("taken", kind="unique")
            (w,) = batch
            if w.native_key == "0" and not self.freed:
                return [Receipt(w.canonical_id, w.version, TAKEN)]
            self.freed = True
            return [Receipt(w.canonical_id, w.version, APPLIED)]

    assert outcomes(Chain({}), 2) == [APPLIED, APPLIED]


def test_passing_troubles_are_tried_again_and_lost_connections_are_not() -> None:
    errors: list[Exception] = [Retry("busy", retry_after_s=0.0), Retry("busy", retry_after_s=0.0)]

    def work() -> str:
        if errors:
            raise errors.pop()
        return "done"

    retrying = Retrying()
    assert retrying.run(work) == "done"
    assert retrying.attempts == 3
    errors = [Retry("not reached"), Lost("gone")]
    with pytest.raises(Lost):
        retrying.run(work)
    assert len(errors) == 1


def test_the_breaker_rests_longer_each_time_and_as_long_as_asked() -> None:
    breaker = Breaker(least_s=1.0, most_s=3.0)
    assert [breaker.failed(Retry("x")) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert breaker.failed(Retry("x", retry_after_s=60.0)) == 60.0
    assert 59 < breaker.left_s <= 60
    assert breaker.passed()
    assert not breaker.passed()


def test_parents_stand_before_children() -> None:
    assert parents_first(config_of("postgresql://nowhere"), "erp") == ["contact", "order"]


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_native_keys_are_taken_apart_as_they_were_spelt(parts: list[str]) -> None:
    assert split_native_key(native_key(parts), len(parts)) == parts
