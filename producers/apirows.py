"""Changes of records that came from an HTTP API, as Kafka values: typed columns, hidden ones hidden, what was not told absent."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from producers.base import Guard
from producers.source import Task
from tidelock.apis.records import ApiColumn, Record
from tidelock.avro import NULL, FieldType, some_bytes
from tidelock.change import DELETE, OURS, Column, event_id, key_digest, position
from tidelock.config import TableSpec
from tidelock.context import Context


def wanted(table: TableSpec) -> tuple[str, ...]:
    """Return the columns that an entity's table has for us: its key, what is mapped, and what the connector itself needs."""
    names = dict.fromkeys(table.key)
    for binding in table.map:
        names.update(dict.fromkeys(binding.column_names))
    for extra in (table.canonical_id, table.actor, *table.disable):
        if extra is not None:
            names[extra] = None
    return tuple(names)


def hide(guard: Guard, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they may stand in a topic: sensitive columns are left out, or are what takes their place."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if guard.dropped(name):
            continue
        replace = guard.replacing(name)
        out[name] = value if replace is None or value is None else replace(str(value).encode()).decode()
    return out


class ApiRows:
    """Turn records of one entity of one tenant into changes. Raises Retry or Fatal from the registry when made."""

    def __init__(self, context: Context, system: str, tenant: str, task: Task) -> None:
        self._table = task.table
        self._guard = Guard(context.config.prefix, task.table)
        self._columns = [c for c in task.columns.values() if not self._guard.dropped(c.name)]
        self._replacing = {c.name: r for c in self._columns if (r := self._guard.replacing(c.name)) is not None}
        self._digest = (system, tenant, task.entity)
        shown = tuple(
            Column(
                c.name,
                FieldType.STRING if c.name in self._replacing else c.type,
                c.source_type,
                c.name in task.table.key,
            )
            for c in self._columns
        )
        topic = context.topics.cdc(system, task.entity)
        self._writer = context.codec.change_writer(topic, system, tenant, task.entity, shown)

    def change(self, record: Record, op: int, *, hidden: bool = False) -> bytes:
        """Return the change of a record; a deleted one is a delete whatever ``op`` says. Raises Reject for values that are none.

        ``hidden``: its sensitive columns are hidden already (`hide`).
        """
        at = position(*record.version)
        event = event_id(key_digest(*self._digest, record.key), at)
        after: list[bytes] | None = None
        absent: list[str] = []
        actor = record.actor
        if record.deleted:
            op = DELETE
        else:
            after = []
            values = record.values
            for column in self._columns:
                if column.name in values:
                    after.append(self._encode(column, values[column.name], hidden=hidden))
                elif (column.name,) == self._table.key:
                    after.append(self._encode(column, record.key))
                else:
                    after.append(NULL)
                    absent.append(column.name)
            if self._table.actor is not None and values.get(self._table.actor) is not None:
                actor = str(values[self._table.actor])
        return self._writer.write(
            event,
            at,
            op,
            record.at,
            time.time_ns() // 1000,
            record.key.encode(),
            after,
            origin=OURS if record.ours else None,
            write_id=record.write_id,
            actor=actor,
            absent=tuple(absent),
        )

    def show(self, record: Record, *, hidden: bool = False) -> bytes:
        """Spell a record that cannot be encoded as JSON, for the dead letter; hidden columns stay hidden."""
        values = record.values if hidden else hide(self._guard, record.values)
        return json.dumps({"key": record.key, "values": values}, default=str).encode()

    def _encode(self, column: ApiColumn, value: Any, *, hidden: bool = False) -> bytes:
        replace = self._replacing.get(column.name)
        if replace is None:
            return column.encode(value)
        if value is None:
            return NULL
        text = str(value).encode()
        return some_bytes(text if hidden else replace(text))
