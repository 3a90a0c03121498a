"""A change: one captured change of one record in one system, and its Avro form with a typed row.

The envelope is schemas/change.avsc; its row type is made from the source's own columns by `change_schema`. `ChangeWriter`
joins slices, `ChangeReader` cuts them: neither builds a Python value of the row. Both are checked against fastavro.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import Any

import schemas
from tidelock.avro import (
    AVRO_TYPES,
    NULL,
    FieldType,
    decode_bytes,
    decode_long,
    decode_moment,
    decode_string,
    encode_bytes,
    encode_long,
    encode_string,
    splitter,
)

OPS = ("create", "update", "delete", "snapshot")
CREATE, UPDATE, DELETE, SNAPSHOT = range(4)
ZERO_POSITION = bytes(16)
OURS = "tidelock"  # the origin of our own writes


def position(major: int, minor: int = 0) -> bytes:
    """Make a position: two unsigned 64-bit numbers, big-endian, so that positions compare as bytes.

    What they are depends on the capture: commit LSN + number within the transaction (log), queue id (triggers),
    snapshot xmin + time of reading in microseconds (polling).
    """
    return major.to_bytes(8, "big") + minor.to_bytes(8, "big")


def show_position(pos: bytes) -> str:
    """Spell a position for people: ``major/minor`` in hexadecimal, as PostgreSQL spells an LSN where it is one."""
    major, minor = int.from_bytes(pos[:8], "big"), int.from_bytes(pos[8:], "big")
    return f"{major >> 32:X}/{major & 0xFFFFFFFF:08X}+{minor}"


def event_id(key_digest: bytes, pos: bytes) -> bytes:
    """Return the 16-byte id of the change at a position; ``key_digest`` comes from `key_digest`.

    Cheap on purpose: it is computed for every change. The digest already spreads the keys.
    """
    return (
        int.from_bytes(key_digest, "big") ^ (int.from_bytes(pos, "big") * 0x9E3779B97F4A7C15F39CC0605CEDC835 & _MASK)
    ).to_bytes(16, "big")


_MASK = (1 << 128) - 1


def key_digest(system: str, tenant: str, entity: str, native_key: str) -> bytes:
    """Return the 16-byte digest of a record's full native name, one half of its event ids."""
    return hashlib.blake2b(f"{system}\x1f{tenant}\x1f{entity}\x1f{native_key}".encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a source's row: its name, type, the source's own name of the type, and whether it is part of the key."""

    name: str
    type: FieldType
    source_type: str = ""
    key: bool = False


def change_schema(system: str, entity: str, columns: tuple[Column, ...]) -> dict[str, Any]:
    """Make the Avro schema of one system's and entity's changes. Column names are kept as Avro aliases-free names.

    Every column is nullable with default null, so that adding and dropping columns are BACKWARD compatible.
    """
    schema = copy.deepcopy(schemas.load("change"))
    schema["namespace"] = f"tidelock.{avro_name(system)}"
    schema["name"] = f"Change_{avro_name(entity)}"
    schema["tidelock.system"], schema["tidelock.entity"] = system, entity
    row = {
        "type": "record",
        "name": f"Row_{avro_name(entity)}",
        "fields": [
            {
                "name": avro_name(c.name),
                "type": ["null", AVRO_TYPES[c.type]],
                "default": None,
                "tidelock.column": c.name,
                "tidelock.type": c.type.value,
                "tidelock.source_type": c.source_type,
                **({"tidelock.key": True} if c.key else {}),
            }
            for c in columns
        ],
    }
    for f in schema["fields"]:
        if f["name"] == "after":
            f["type"] = ["null", row]
        elif f["name"] == "before":
            f["type"] = ["null", row["name"]]
    return schema


def avro_name(name: str) -> str:
    """Spell a name within Avro's ``[A-Za-z_][A-Za-z0-9_]*``."""
    out = "".join(ch if ch.isascii() and (ch.isalnum() or ch == "_") else f"_x{ord(ch):x}_" for ch in name)
    return out if not out[:1].isdigit() else f"_{out}"


def schema_columns(schema: dict[str, Any]) -> tuple[Column, ...]:
    """Read the columns back out of a schema that `change_schema` made."""
    row = next(f["type"][1] for f in schema["fields"] if f["name"] == "after")
    return tuple(
        Column(
            f["tidelock.column"],
            FieldType(f["tidelock.type"]),
            f.get("tidelock.source_type", ""),
            f.get("tidelock.key", False),
        )
        for f in row["fields"]
    )


def wire_header(schema_id: int) -> bytes:
    """Return the five bytes of the Confluent wire format that stand before every value."""
    return b"\x00" + schema_id.to_bytes(4, "big")


class ChangeWriter:
    """Join the parts of changes of one (system, tenant, entity, schema id) into wire-format values."""

    def __init__(self, schema_id: int, system: str, tenant: str, entity: str) -> None:
        self._header = wire_header(schema_id)
        self._names = encode_string(system) + encode_string(tenant) + encode_string(entity)
        self._plain = b"\x00\x00\x00" + self._names  # no origin, no write id, no actor

    def write(
        self,
        event: bytes,
        pos: bytes,
        op: int,
        source_time: int,
        captured_at: int,
        native_key: bytes,
        after: list[bytes] | None,
        before: list[bytes] | None = None,
        absent: tuple[str, ...] = (),
        origin: str | None = None,
        write_id: str | None = None,
        actor: str | None = None,
    ) -> bytes:
        """Return the Kafka value. ``after`` and ``before`` are slices in schema order; times are microseconds.

        A column named in ``absent`` still needs a slice in ``after`` (`NULL`).
        """
        if origin is write_id is actor is None:
            who = self._plain
        else:
            who = _maybe(origin) + _maybe(write_id) + _maybe(actor) + self._names
        parts = [
            self._header,
            event,
            pos,
            _OPS[op],
            encode_long(source_time),
            encode_long(captured_at),
            encode_bytes(native_key),
            who,
            _encode_names(absent) if absent else b"\x00",
        ]
        if after is None:
            parts.append(b"\x00")
        else:
            parts.append(b"\x02")
            parts += after
        if before is None:
            parts.append(b"\x00")
        else:
            parts.append(b"\x02")
            parts += before
        return b"".join(parts)


_OPS = [encode_long(i) for i in range(len(OPS))]


def _maybe(text: str | None) -> bytes:
    return NULL if text is None else b"\x02" + encode_string(text)


def _encode_names(texts: tuple[str, ...]) -> bytes:
    return encode_long(len(texts)) + b"".join(encode_string(t) for t in texts) + b"\x00"


@dataclass(slots=True)
class Change:
    """A decoded change; row values are slices in the order of ``columns``."""

    event_id: bytes
    position: bytes
    op: int
    source_time: int
    captured_at: int
    native_key: str
    origin: str | None
    write_id: str | None
    actor: str | None
    system: str
    tenant: str
    entity: str
    absent: frozenset[str]
    columns: tuple[Column, ...]
    after: list[bytes] | None
    before: list[bytes] | None = field(default=None)


_NOTHING: frozenset[str] = frozenset()


class ChangeReader:
    """Cut wire-format values of one schema id into `Change` objects."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.columns = schema_columns(schema)
        self.index = {c.name: i for i, c in enumerate(self.columns)}
        self._split = splitter(tuple(c.type for c in self.columns))
        self.system: str = schema["tidelock.system"]
        self.entity: str = schema["tidelock.entity"]
        self._names = (
            b""  # system, tenant and entity of the last change as they are spelt, which are those of nearly every one
        )
        self._named = ("", "", "")

    def read(self, value: bytes, *, before: bool = False) -> Change:
        """Return the change; ``before`` is cut only when asked for. Raises IndexError or ValueError on malformed bytes."""
        op = value[37] >> 1
        source_time, at = decode_moment(value, 38)
        captured_at, at = decode_moment(value, at)
        native_key, at = decode_bytes(value, at)
        origin = write_id = actor = None
        if value[at : at + 3] == b"\x00\x00\x00":
            at += 3
        else:
            origin, at = _read_maybe(value, at)
            write_id, at = _read_maybe(value, at)
            actor, at = _read_maybe(value, at)
        if self._names and value.startswith(self._names, at):
            at += len(self._names)
            system, tenant, entity = self._named
        else:
            start = at
            system, at = decode_string(value, at)
            tenant, at = decode_string(value, at)
            entity, at = decode_string(value, at)
            if at <= len(value):  # else the bytes end here, and they must not be taken for the names
                self._names, self._named = value[start:at], (system, tenant, entity)
        absent = _NOTHING
        if value[at] == 0:
            at += 1
        else:
            texts, at = read_strings(value, at)
            absent = frozenset(texts)
        after = rows_before = None
        if value[at] == 2:
            after, at = self._split(value, at + 1)
        else:
            at += 1
        if at >= len(value):
            raise ValueError("the change ends before its before-image")
        if before and value[at] == 2:
            rows_before, at = self._split(value, at + 1)
        return Change(
            value[5:21],
            value[21:37],
            op,
            source_time,
            captured_at,
            native_key.decode(),
            origin,
            write_id,
            actor,
            system,
            tenant,
            entity,
            absent,
            self.columns,
            after,
            rows_before,
        )


def _read_maybe(data: bytes, at: int) -> tuple[str | None, int]:
    if data[at] == 0:
        return None, at + 1
    raw, at = decode_bytes(data, at + 1)
    return raw.decode(), at


def read_strings(data: bytes, at: int) -> tuple[list[str], int]:
    """Read an Avro array of strings; return it with the index behind it."""
    out: list[str] = []
    while True:
        count, at = decode_long(data, at)
        if count == 0:
            return out, at
        if count < 0:  # a block that also says its size in bytes
            count = -count
            _, at = decode_long(data, at)
        for _ in range(count):
            raw, at = decode_bytes(data, at)
            out.append(raw.decode())


def value_event_id(value: bytes) -> bytes:
    """Read the event id of a wire-format change without decoding it."""
    return value[5:21]


def value_position(value: bytes) -> bytes:
    """Read the position of a wire-format change without decoding it."""
    return value[21:37]
