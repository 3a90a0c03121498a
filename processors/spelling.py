"""How writes are spelt on the wire (schemas/write.avsc): joined from slices, without a Python value of any column."""

from __future__ import annotations

from processors.edits import Readers
from processors.effects import Send
from processors.plan import SystemPlan
from processors.record import Record
from tidelock.avro import NULL, VALUE_TAGS, FieldType, encode_long, encode_string, fits
from tidelock.envelopes import encode_write_head

_TEXT = VALUE_TAGS[FieldType.STRING]


class Spelling:
    """Spell the writes to one place."""

    def __init__(self, system: SystemPlan, readers: Readers, header: bytes) -> None:
        self.system, self.tenant = system.system, system.tenant
        self._plan = system
        self._readers = readers
        self._header = header
        self._names = encode_string(system.system) + encode_string(system.tenant) + encode_string(system.entity)
        self._columns = [encode_string(c) for c in system.columns]
        # None: the branch of texts, for a nullable text as a slice and as a generic value is the same bytes
        self._tags = [None if VALUE_TAGS[k] == _TEXT else VALUE_TAGS[k] for k in system.write_types]
        self._known: dict[str, bytes] = {}

    def write(self, cid: bytes, record: Record, send: Send) -> bytes:
        """Return the wire-format value of a write: its head, then every column with its value and its base."""
        cause, flight, bases = send.cause, send.flight, send.bases
        parts = [
            self._header,
            encode_write_head(
                cid,
                flight.version,
                flight.op,
                send.native_key,
                self._text(cause.system),
                cause.time,
                cause.event_id,
                cause.actor,
                self._text(cause.rule),
                self._names,
            ),
        ]
        if flight.columns:
            names, tags = self._columns, self._tags
            parts.append(encode_long(len(flight.columns)))
            if bases:
                copy = record.copies.get(send.place)
                types = None if copy is None else self._readers.get(self._plan, copy.schema_id).types
                for c, raw in flight.columns.items():
                    tag = tags[c]
                    base = bases.get(c, NULL)
                    parts += (
                        names[c],
                        raw if tag is None or not raw[0] else tag + raw[1:],
                        _base(base, types[c] if types is not None else None, tag) if base[0] else NULL,
                    )
            else:
                for c, raw in flight.columns.items():
                    tag = tags[c]
                    parts += (names[c], raw if tag is None or not raw[0] else tag + raw[1:], NULL)
        parts.append(b"\x00")
        return b"".join(parts)

    def _text(self, text: str) -> bytes:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = encode_string(text)
        return known


def _base(base: bytes, kind: FieldType | None, tag: bytes | None) -> bytes:
    """Spell what stands there as a generic value: as capture types it, or as we write it if nobody has captured it since."""
    if kind is not None and (spelt := VALUE_TAGS[kind]) != (tag or _TEXT) and fits(kind, base):
        return spelt + base[1:]
    return base if tag is None else tag + base[1:]
