"""The messages of PostgreSQL's pgoutput plug-in (protocol version 2, text format) that are met once in a while.

Inserts, updates and deletes are the hot path and are read by code made for each table in `producers.rows`; here is the plain
form of everything else. Source: PostgreSQL manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# Microseconds from 1970 to 2000, PostgreSQL's own epoch.
PG_EPOCH_MICROS = 946_684_800_000_000
NULL_KIND, TEXT_KIND, UNCHANGED_KIND = b"n"[0], b"t"[0], b"u"[0]

_BEGIN = struct.Struct(">QqI")


class Unchanged:
    """The one value that says: a large column was not sent because it did not change."""


UNCHANGED = Unchanged()
Text = bytes | None | Unchanged


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as the stream describes it; ``typmod`` is -1 where the type has none."""

    name: str
    oid: int
    typmod: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the stream describes it; ``identity`` is ``d`` (primary key), ``n``, ``f`` (whole row) or ``i`` (an index)."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """What ``pg_logical_emit_message`` wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


def read_begin(data: bytes, at: int) -> tuple[int, int, int]:
    """Return (LSN of the commit record, commit time in µs since 1970, transaction id) of the body of ``B``."""
    lsn, time, xid = _BEGIN.unpack_from(data, at)
    return lsn, time + PG_EPOCH_MICROS, xid


def read_commit(data: bytes, at: int) -> tuple[int, int]:
    """Return (LSN of the commit record, LSN behind the transaction) of the body of ``C``."""
    return int.from_bytes(data[at + 1 : at + 9], "big"), int.from_bytes(data[at + 9 : at + 17], "big")


def read_origin(data: bytes, at: int) -> str:
    """Return the origin's name of the body of ``O``."""
    return _text(data, at + 8)[0]


def read_relation(data: bytes, at: int) -> Relation:
    """Return the table of the body of ``R``."""
    oid = _u32(data, at)
    schema, at = _text(data, at + 4)
    table, at = _text(data, at)
    identity = chr(data[at])
    count = int.from_bytes(data[at + 1 : at + 3], "big")
    at += 3
    columns = []
    for _ in range(count):
        key = bool(data[at] & 1)
        name, at = _text(data, at + 1)
        columns.append(
            RelationColumn(name, _u32(data, at), int.from_bytes(data[at + 4 : at + 8], "big", signed=True), key)
        )
        at += 8
    return Relation(oid, schema or "pg_catalog", table, identity, tuple(columns))


def read_truncate(data: bytes, at: int) -> list[int]:
    """Return the ids of the tables of the body of ``T``."""
    count = _u32(data, at)
    return [_u32(data, at + 5 + 4 * i) for i in range(count)]


def read_message(data: bytes, at: int) -> LogicalMessage:
    """Return the content of the body of ``M``."""
    transactional, lsn = bool(data[at] & 1), int.from_bytes(data[at + 1 : at + 9], "big")
    prefix, at = _text(data, at + 9)
    size = _u32(data, at)
    return LogicalMessage(transactional, lsn, prefix, data[at + 4 : at + 4 + size])


def read_tuple(data: bytes, at: int) -> tuple[list[Text], int]:
    """Return the texts of a row (``None``: null, `UNCHANGED`: not sent) and the index behind it; ``at`` is at its count."""
    count = int.from_bytes(data[at : at + 2], "big")
    at += 2
    out: list[Text] = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == TEXT_KIND:
            size = _u32(data, at)
            at += 4
            out.append(data[at : at + size])
            at += size
        elif kind == NULL_KIND:
            out.append(None)
        elif kind == UNCHANGED_KIND:
            out.append(UNCHANGED)
        else:
            raise ValueError(f"a column of kind {chr(kind)!r}: the stream must be in text format")
    return out, at


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\x00", at)
    return data[at:end].decode(), end + 1
