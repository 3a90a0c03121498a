"""Rows of one table from pgoutput's bytes to Kafka values, by functions written for the table.

For every table version a function is generated that walks over the tuple once and joins the Avro value from slices of the
message: no Python value of a text is ever made. Its result is the one that `tidelock.change.ChangeWriter` gives, which the tests
check against a plain decoder.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from producers.base import Guard
from producers.columns import ENCODERS, Encode, some_long, some_text
from producers.pgoutput import UNCHANGED, Text
from tidelock.avro import NULL, FieldType, encode_long, encode_string, some_bytes
from tidelock.change import Column, event_id, key_digest, wire_header
from tidelock.errors import Fatal, Reject
from tidelock.nativekey import native_key
from tidelock.pgtypes import TYPES

ABSENT_NONE = b"\x00"
NO_ORIGIN = b"\x00"
PADDING = b"\x00\x00\x00\x00"
"""What has to stand behind a message: a null at its end is read with the four bytes behind it."""

_LENGTHS = [b"\x02" + encode_long(n) for n in range(4096)]
_TEXTS = (FieldType.STRING, FieldType.DECIMAL, FieldType.JSON, FieldType.UUID)

ChangeOf = Callable[[bytes, int, bytes, int, bytes, bytes], tuple[bytes, bytes]]
RowOf = Callable[[bytes, int], tuple[bytes, tuple[bytes, ...], tuple[str, ...], int]]


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of a table: its name, type id, and the type as the source spells it, ``numeric(12,2)``."""

    name: str
    oid: int
    source_type: str


@dataclass(frozen=True, slots=True)
class Names:
    """Whose rows these are."""

    system: str
    tenant: str
    entity: str


class RowPlan:
    """How rows of one version of one table are read.

    ``change(data, at, position, position × multiplier, middle, origin)`` returns (native key, Kafka value) of the tuple whose
    first column stands at ``at``; ``row(data, at)`` returns (native key, slices, absent columns, index behind). Both need
    `PADDING` behind the message. They raise Reject or ValueError for values that cannot be taken.
    """

    def __init__(
        self,
        names: Names,
        source: Sequence[SourceColumn],
        key: Sequence[str],
        guard: Guard,
        *,
        actor: str | None = None,
        check_utf8: bool = False,
    ) -> None:
        self.names = names
        self.source = tuple(source)
        at = {c.name: i for i, c in enumerate(source)}
        missing = [k for k in (*key, *([actor] if actor else [])) if k not in at]
        if missing:
            raise Fatal(
                f"{names.system}.{names.entity}: the captured table has no column {', '.join(missing)}",
                hint=f"it has {', '.join(at)}; correct `key` or `actor` of this entity, or the source's table",
            )
        self.key_at = tuple(at[k] for k in key)
        self._actor_at = at[actor] if actor else None
        self._encode: list[Encode | None] = []
        columns = []
        for c in source:
            replace = guard.replacing(c.name)
            kind = FieldType.STRING if replace else TYPES.get(c.oid, FieldType.STRING)
            if guard.dropped(c.name):
                self._encode.append(None)
                continue
            self._encode.append(_encoder(kind, replace, check_utf8))
            columns.append(Column(c.name, kind, c.source_type, c.name in key))
        self.columns = tuple(columns)
        self._salt = f"{names.system}\x1f{names.tenant}\x1f{names.entity}\x1f".encode()
        self.change: ChangeOf
        self.row: RowOf

    def compile(self, schema_id: int) -> None:
        """Write and load the functions, for values of a registered schema."""
        names = b"".join(encode_string(n) for n in (self.names.system, self.names.tenant, self.names.entity))
        scope: dict[str, Any] = {
            "head": struct.Struct(">BI").unpack_from,
            "L": _LENGTHS,
            "long": some_long,
            "big": some_bytes,
            "TRUE": b"\x02\x01",
            "FALSE": b"\x02\x00",
            "NULL": NULL,
            "blake2b": hashlib.blake2b,
            "from_bytes": int.from_bytes,
            "join": b"".join,
            "SALT": self._salt,
            "HEADER": wire_header(schema_id),
            "KEY": [encode_long(n) for n in range(256)],
            "encode_long": encode_long,
            "NO_ORIGIN": NO_ORIGIN,
            "NAMES": names,
            "PLAIN": b"\x00\x00" + names + ABSENT_NONE + b"\x02",
            "WHOLE": names + ABSENT_NONE + b"\x02",
            "absent_names": absent_names,
            "compose": compose_key,
        }
        for i, encode in enumerate(self._encode):
            scope[f"f{i}"] = encode
        exec("\n".join(self._source()), scope)  # noqa: S102 - our own text, made of column numbers only
        self.change, self.row = scope["change"], scope["row"]

    def key_of(self, texts: Sequence[Text]) -> bytes:
        """Return the native key of a row's or an old key's texts. Raises Reject (``null_key``) if a part is missing."""
        return compose_key(tuple(texts[i] for i in self.key_at))

    def slices_of(self, texts: Sequence[Text]) -> list[bytes]:
        """Encode a row's texts; what was not sent becomes null. Raises Reject or ValueError."""
        return [
            encode(text) if isinstance(text, bytes) else NULL
            for encode, text in zip(self._encode, texts, strict=True)
            if encode is not None
        ]

    def absent_of(self, texts: Sequence[Text]) -> tuple[str, ...]:
        """Name the columns that were not sent."""
        return tuple(
            c.name for c, e, t in zip(self.source, self._encode, texts, strict=True) if e is not None and t is UNCHANGED
        )

    def actor_of(self, texts: Sequence[Text]) -> str | None:
        """Return who changed the row, if the table says."""
        if self._actor_at is None:
            return None
        text = texts[self._actor_at]
        return text.decode(errors="replace") if isinstance(text, bytes) else None

    def event_id(self, key: bytes, position: bytes) -> bytes:
        """Return the event id of the change of a key at a position."""
        digest = key_digest(self.names.system, self.names.tenant, self.names.entity, key.decode())
        return event_id(digest, position)

    def _source(self) -> list[str]:
        walk: list[str] = []
        kinds = iter(self.columns)
        for i, encode in enumerate(self._encode):
            kind = next(kinds).type if encode is not None else None
            walk += self._walk(i, encode, kind)
        shown = [f"c{i}" for i, e in enumerate(self._encode) if e is not None]
        parts = ", ".join(shown)
        key = (
            f"k{self.key_at[0]}" if len(self.key_at) == 1 else f"compose(({', '.join(f'k{i}' for i in self.key_at)},))"
        )
        if len(self.key_at) == 1:
            walk.append(f"if {key} is None: compose((None,))")
        walk.append(f"key = {key}")
        front = "HEADER, event, pos, mid, size, key"
        who, plain = ("origin, ", "PLAIN")
        if self._actor_at is not None:
            a = f"a{self._actor_at}"
            who, plain = f"origin, NULL, {a} if origin == NO_ORIGIN else NULL, ", "WHOLE"
        lacking = "b'\\x00\\x00' + NAMES" if plain == "PLAIN" else "NAMES"
        return [
            "def change(d, i, pos, mixed, mid, origin):",
            "    gone = None",
            *(f"    {line}" for line in walk),
            "    event = (from_bytes(blake2b(SALT + key, digest_size=16).digest(), 'big') ^ mixed).to_bytes(16, 'big')",
            "    n = len(key)",
            "    size = KEY[n] if n < 256 else encode_long(n)",
            "    if gone is None:",
            f"        return key, join(({front}, {who}{plain}, {parts}, NULL))",
            f"    tail = {lacking} + absent_names(gone) + b'\\x02'",
            f"    return key, join(({front}, {who}tail, {parts}, NULL))",
            "",
            "def row(d, i):",
            "    gone = None",
            *(f"    {line}" for line in walk),
            f"    return key, ({parts},), tuple(gone or ()), i",
        ]

    def _walk(self, i: int, encode: Encode | None, kind: FieldType | None) -> list[str]:
        """Return the lines that read column ``i`` at ``d[i]`` and leave ``i`` behind it."""
        lines = ["k, n = head(d, i)", "i += 5", "if k == 116:", "    e = i + n"]
        otherwise = ["else:", "    i -= 4"]
        if i in self.key_at:
            lines.append(f"    k{i} = d[i:e]")
            otherwise.append(f"    k{i} = None")
        if i == self._actor_at:
            lines.append(f"    a{i} = big(d[i:e])")
            otherwise.append(f"    a{i} = NULL")
        if encode is not None:
            lines.append(f"    c{i} = {_expression(i, encode, kind)}")
            otherwise += [
                f"    c{i} = NULL",
                f"    if k == 117: gone = [*(gone or ()), {self.source[i].name!r}]",
            ]
        return [*lines, "    i = e", *otherwise]


def _expression(i: int, encode: Encode, kind: FieldType | None) -> str:
    if encode is some_bytes and kind in _TEXTS:
        return "L[n] + d[i:e] if n < 4096 else big(d[i:e])"
    if kind is FieldType.INTEGER:
        return "long(int(d[i:e]))"
    if kind is FieldType.BOOLEAN:
        return "TRUE if d[i] == 116 else FALSE"
    return f"f{i}(d[i:e])"


def _encoder(kind: FieldType, replace: Callable[[bytes], bytes] | None, check_utf8: bool) -> Encode:
    if replace is not None:
        return lambda text: some_bytes(replace(text))
    encode = ENCODERS[kind]
    return some_text if check_utf8 and encode is some_bytes else encode


def compose_key(parts: tuple[Text, ...]) -> bytes:
    """Spell a native key from its parts' bytes. Raises Reject (``null_key``)."""
    known = [p for p in parts if isinstance(p, bytes)]
    if len(known) != len(parts):
        raise Reject(
            "a part of the row's key is null or was not sent",
            kind="null_key",
            hint="`key` must name columns that are never null and belong to the table's replica identity",
        )
    if len(known) == 1:
        return known[0]
    whole = b"".join(known)
    if b"|" in whole or b"\\" in whole:
        return native_key([p.decode(errors="surrogateescape") for p in known]).encode(errors="surrogateescape")
    return b"|".join(known)


def absent_names(names: Sequence[str]) -> bytes:
    """Encode the names of absent columns as an Avro array."""
    if not names:
        return ABSENT_NONE
    return encode_long(len(names)) + b"".join([encode_string(n) for n in names]) + b"\x00"
