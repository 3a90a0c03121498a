"""The captured tables of one system: which entity they are, and for every version of their columns a compiled plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from producers.base import Guard, Publisher
from producers.catalog import TableName
from producers.rows import ChangeOf, Names, RowPlan, SourceColumn
from tidelock.change import ChangeWriter, Column, change_schema
from tidelock.context import Context
from tidelock.errors import Fatal, Reject


class Window(Protocol):
    """Somebody who must know which keys pass while something else is read."""

    def seen(self, key: bytes, *, partial: bool) -> None:
        """Take note of a changed key; ``partial``: the change did not carry every column."""

    def void(self) -> None:
        """Take note that the whole table was emptied."""


class Plan(RowPlan):
    """A row plan with its registered schema; ``writer`` is the general form for the rarer changes."""

    writer: ChangeWriter


class Table:
    """One captured table: its current plan, how to send, and counts since they were last fetched."""

    __slots__ = ("captured", "change", "echoes", "entity", "name", "plan", "publisher", "send", "sensitive", "windows")

    def __init__(self, entity: str, name: TableName, publisher: Publisher, *, sensitive: bool) -> None:
        self.entity = entity
        self.name = name
        self.publisher = publisher
        self.send = publisher.sender(entity)
        self.sensitive = sensitive
        self.windows: list[Window] = []
        self.captured = 0
        self.echoes = 0
        self.plan: Plan
        self.change: ChangeOf

    def reject(self, key: bytes, original: bytes, reason: Reject) -> None:
        """Make a dead letter of a row that cannot be taken; its bytes are left out where columns are sensitive."""
        if self.sensitive:
            original = b""  # the source's own bytes hold what no topic may see; the key says where to look
        self.publisher.dead_letter(self.entity, key, original, reason)

    def use(self, plan: Plan) -> None:
        """Make a plan the current one."""
        self.plan = plan
        self.change = plan.change


class Tables:
    """Make plans and keep them; each version of a table is registered and compiled once. Raises Fatal if it is refused."""

    def __init__(self, context: Context, system: str, publisher: Publisher) -> None:
        self._context = context
        self._system = system
        self._spec = context.config.systems[system]
        self._guards = {e: Guard(context.config.prefix, t) for e, t in self._spec.entities.items()}
        self._plans: dict[tuple[str, tuple[SourceColumn, ...]], Plan] = {}
        self.check_utf8 = False
        self.by_entity = {
            e: Table(e, TableName.parse(t.table), publisher, sensitive=self._guards[e].active)
            for e, t in self._spec.entities.items()
        }
        self.by_name = {(t.name.schema, t.name.table): t for t in self.by_entity.values()}

    def plan(self, entity: str, source: Sequence[SourceColumn]) -> Plan:
        """Return the plan for a version of a table's columns, registering its schema at the first time."""
        known = self._plans.get((entity, tuple(source)))
        if known is not None:
            return known
        spec, tenant = self._spec.entities[entity], self._spec.only_tenant
        plan = Plan(
            Names(self._system, tenant, entity),
            source,
            spec.key,
            self._guards[entity],
            actor=spec.actor,
            check_utf8=self.check_utf8,
        )
        topic = self._context.topics.cdc(self._system, entity)
        schema = change_schema(self._system, entity, plan.columns)
        try:
            number = self._context.codec.registry.register(f"{topic}-value", schema)
        except Fatal as error:
            raise self._incompatible(entity, plan.columns, error) from error
        plan.writer = ChangeWriter(number, self._system, tenant, entity)
        plan.compile(number)
        self._plans[entity, tuple(source)] = plan
        return plan

    def _incompatible(self, entity: str, columns: tuple[Column, ...], error: Fatal) -> Fatal:
        table = self.by_entity[entity]
        before = {c.name: c for c in table.plan.columns} if hasattr(table, "plan") else {}
        changed = [
            f"{c.name}: {before[c.name].source_type} → {c.source_type}"
            for c in columns
            if c.name in before and before[c.name].type is not c.type
        ]
        what = f"columns {'; '.join(changed)}" if changed else "columns of another type than before"
        return Fatal(
            f"table {table.name} of system {self._system} has {what}, which readers of the earlier changes could not "
            f"read: {error.message}",
            hint="give the changed column another name there (old and new may stand side by side), or set the column's old "
            "type back; a new `prefix` starts afresh",
        )
