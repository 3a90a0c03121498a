"""The golden record as others read it: its Avro schema per entity and its bytes for ``hub.<entity>``."""

from __future__ import annotations

from typing import Any

from processors.plan import EntityPlan
from processors.record import Record
from tidelock.avro import AVRO_TYPES, NULL, encode_bytes, encode_long, encode_moment, encode_string
from tidelock.change import avro_name


def hub_schema(plan: EntityPlan) -> dict[str, Any]:
    """Make the Avro schema of an entity's golden record: its fields, typed and nullable, then where each value came from."""
    return {
        "type": "record",
        "name": f"Golden_{avro_name(plan.name)}",
        "namespace": "tidelock",
        "doc": "The hub's merged value of one record. A record that is gone is a tombstone.",
        "fields": [
            {"name": "canonical_id", "type": "string"},
            {"name": "version", "type": "long"},
            {
                "name": "sources",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Provenance",
                        "fields": [
                            {"name": "place", "type": "string", "doc": "system/tenant"},
                            {"name": "source_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
                            {"name": "event_id", "type": {"type": "fixed", "name": "EventId", "size": 16}},
                            {"name": "actor", "type": ["null", "string"]},
                            {"name": "rule", "type": "string"},
                        ],
                    },
                },
            },
            {
                "name": "provenance",
                "type": {"type": "array", "items": "int"},
                "doc": "per field, in their order: which of the sources its value came from; -1: never set",
            },
            *(
                {
                    "name": f"f_{f.name}" if f.name in _OWN else f.name,
                    "type": ["null", AVRO_TYPES[f.type]],
                    "default": None,
                }
                for f in plan.fields
            ),
        ],
    }


_OWN = {"canonical_id", "version", "sources", "provenance"}
_ZIGZAG = bytes([1, *range(0, 126, 2)])  # index into sources + 1 → the int before it, as Avro spells it


class GoldenWriter:
    """Encode golden records of one entity."""

    def __init__(self, plan: EntityPlan, header: bytes) -> None:
        self._header = header
        self._count = encode_long(len(plan.fields))
        self._texts: dict[str, bytes] = {}

    def encode(self, cid: bytes, record: Record) -> bytes:
        """Return the wire-format value; the same record gives the same bytes."""
        parts = [self._header, encode_bytes(cid), encode_long(record.version)]
        sources = record.sources
        if sources:
            parts.append(encode_long(len(sources)))
            for p in sources:
                parts += (
                    self._text(p.place),
                    encode_moment(p.time),
                    p.event_id,
                    NULL if p.actor is None else b"\x02" + encode_string(p.actor),
                    self._text(p.rule),
                )
        parts += (b"\x00", self._count, bytes(record.by).translate(_TABLE), b"\x00")
        parts += record.values
        return b"".join(parts)

    def _text(self, text: str) -> bytes:
        known = self._texts.get(text)
        if known is None:
            known = self._texts[text] = encode_string(text)
        return known


_TABLE = _ZIGZAG + bytes(256 - len(_ZIGZAG))
