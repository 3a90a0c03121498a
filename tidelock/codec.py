"""Avro with the registry: which schema id is which envelope, and the slow, general way for envelopes off the hot path."""

from __future__ import annotations

import io
from typing import Any

import fastavro

import schemas
from tidelock.change import ChangeReader, ChangeWriter, Column, change_schema, wire_header
from tidelock.errors import Reject
from tidelock.registry import Registry


class Codec:
    """Make and read wire-format values of one installation; ``prefix`` keeps its subjects apart."""

    def __init__(self, registry: Registry, prefix: str = "") -> None:
        self.registry = registry
        self.prefix = prefix
        self._headers: dict[str, bytes] = {}
        self._parsed: dict[int, Any] = {}
        self._kinds: dict[int, str] = {}
        self._readers: dict[int, ChangeReader] = {}

    def header(self, name: str) -> bytes:
        """Return the wire header of a fixed envelope (a name of `schemas.names`), registering it at first use."""
        known = self._headers.get(name)
        if known is None:
            known = wire_header(self.registry.register(f"{self.prefix}tidelock.{name}", schemas.load(name)))
            self._headers[name] = known
        return known

    def encode(self, name: str, value: dict[str, Any]) -> bytes:
        """Encode a fixed envelope by fastavro."""
        header = self.header(name)
        out = io.BytesIO()
        out.write(header)
        fastavro.schemaless_writer(out, self._schema(int.from_bytes(header[1:5], "big")), value)
        return out.getvalue()

    def decode(self, data: bytes) -> dict[str, Any]:
        """Decode any wire-format value by its own schema. Raises Reject (``not_avro``, ``unknown_schema``, ``bad_avro``)."""
        number = schema_id(data)
        try:
            value = fastavro.schemaless_reader(io.BytesIO(data[5:]), self._schema(number), None)
        except (EOFError, IndexError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise Reject(f"the value does not fit schema id {number}: {error!r}", kind="bad_avro") from error
        assert isinstance(value, dict)
        return value

    def kind(self, data: bytes) -> str:
        """Return the name of a value's envelope: ``Change`` for every change, else the record's own name.

        Raises Reject (``not_avro``, ``unknown_schema``).
        """
        number = schema_id(data)
        known = self._kinds.get(number)
        if known is None:
            schema = self.registry.schema(number)
            known = "Change" if "tidelock.system" in schema else str(schema.get("name", ""))
            self._kinds[number] = known
        return known

    def change_reader(self, data: bytes) -> ChangeReader:
        """Return the reader for a change. Raises Reject if the value is no change."""
        number = schema_id(data)
        known = self._readers.get(number)
        if known is None:
            schema = self.registry.schema(number)
            if "tidelock.system" not in schema:
                raise Reject(f"schema id {number} ({schema.get('name')}) is not that of a change", kind="not_a_change")
            known = self._readers[number] = ChangeReader(schema)
        return known

    def change_writer(
        self, topic: str, system: str, tenant: str, entity: str, columns: tuple[Column, ...]
    ) -> ChangeWriter:
        """Register the typed schema of a change topic and return a writer for it."""
        number = self.registry.register(f"{topic}-value", change_schema(system, entity, columns))
        return ChangeWriter(number, system, tenant, entity)

    def _schema(self, number: int) -> Any:
        known = self._parsed.get(number)
        if known is None:
            known = self._parsed[number] = fastavro.parse_schema(self.registry.schema(number))
        return known


def schema_id(data: bytes | None) -> int:
    """Read the schema id of a wire-format value. Raises Reject (``not_avro``) if it is none."""
    if data is None or len(data) < 5 or data[0] != 0:
        raise Reject(
            f"the value is not Avro in the Confluent wire format (it starts with {bytes(data[:5]).hex(' ') if data else 'nothing'})",
            kind="not_avro",
        )
    return int.from_bytes(data[1:5], "big")
