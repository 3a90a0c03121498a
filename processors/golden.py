"""The golden record as others read it: its Avro schema per entity and its bytes for ``hub.<entity>``."""

from __future__ import annotations

from typing import Any

from processors.plan import EntityPlan
from processors.record import Record
from tidelock.avro import AVRO_TYPES, encode_bytes, encode_long, encode_string
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
                "name": "provenance",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "FieldProvenance",
                        "fields": [
                            {"name": "place", "type": "string", "doc": "system/tenant"},
                            {"name": "source_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
                            {"name": "event_id", "type": {"type": "fixed", "name": "EventId", "size": 16}},
                            {"name": "actor", "type": ["null", "string"]},
                            {"name": "rule", "type": "string"},
                            {"name": "fields", "type": {"type": "array", "items": "string"}},
                        ],
                    },
                },
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


_OWN = {"canonical_id", "version", "provenance"}


class GoldenWriter:
    """Encode golden records of one entity."""

    def __init__(self, plan: EntityPlan, header: bytes) -> None:
        self._header = header
        self._names = [encode_string(f.name) for f in plan.fields]
        self._all = encode_long(len(plan.fields)) + b"".join(self._names) + b"\x00"

    def encode(self, cid: bytes, record: Record) -> bytes:
        """Return the wire-format value; the same record gives the same bytes."""
        groups: dict[int, list[int]] = {}
        for i, by in enumerate(record.by):
            if by:
                groups.setdefault(by, []).append(i)
        parts = [self._header, encode_bytes(cid), encode_long(record.version)]
        if groups:
            parts.append(encode_long(len(groups)))
            for by, fields in groups.items():
                p = record.sources[by - 1]
                parts += (encode_string(p.place), encode_long(p.time), p.event_id)
                parts.append(b"\x00" if p.actor is None else b"\x02" + encode_string(p.actor))
                parts.append(encode_string(p.rule))
                if len(fields) == len(self._names):
                    parts.append(self._all)
                else:
                    parts.append(encode_long(len(fields)))
                    parts += [self._names[i] for i in fields]
                    parts.append(b"\x00")
        parts.append(b"\x00")
        parts += record.values
        return b"".join(parts)
