"""What the verification goes by: the golden records, the links, the decisions on record, and what stands in every system."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import psycopg
import yaml
from psycopg.rows import dict_row

from tidelock.demo.topics import Observer
from tidelock.errors import Reject

ENTITIES = ("account", "contact", "order", "order_line", "inventory", "user")
_MONEY = {"balance", "credit_limit", "total", "price"}


def text(name: str, value: Any) -> str | None:
    """Spell a field's value in one way, wherever it comes from."""
    if value is None or value == "":
        return None
    if name in _MONEY:
        try:
            return f"{Decimal(str(value)):.2f}"
        except InvalidOperation:
            return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value)


Rows = dict[str, dict[str, str | None]]  # a system's records in the hub's terms, by native key


@dataclass(frozen=True)
class Letter:
    """A dead letter, with the columns it wanted to write if it is a write."""

    stage: str
    system: str
    entity: str
    key: str
    kind: str
    message: str
    columns: frozenset[str] = frozenset()


@dataclass
class Evidence:
    """Everything at one moment."""

    golden: dict[str, dict[str, dict[str, Any] | None]] = field(default_factory=dict)
    links: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    ever: dict[str, dict[tuple[str, str], set[str]]] = field(default_factory=dict)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    rows: dict[tuple[str, str], Rows] = field(default_factory=dict)
    columns: dict[tuple[str, str], dict[str, set[str]]] = field(default_factory=dict)

    def value(self, entity: str, canonical_id: str, name: str) -> str | None:
        """Return a field of a golden record; None if it is empty or the record is gone."""
        record = self.golden[entity].get(canonical_id)
        return None if record is None else self.spelt(record, name)

    def spelt(self, record: dict[str, Any], name: str) -> str | None:
        """Spell a field of a golden record; a reference (``system:native key``) as the number of the record it points to."""
        found = record.get(name)
        if name != "account" or not found:
            return text(name, found)
        system, _, key = str(found).partition(":")
        account = self.golden["account"].get(self.links["account"].get((system, key), key))
        return f"? {found}" if account is None else text("number", account["number"])

    def decided(self, canonical_id: str, name: str, value: str | None) -> bool:
        """Return whether a conflict about this value of a field is on record."""
        return any(
            c["canonical_id"] == canonical_id
            and c["field"] == name
            and value in {text(name, json.loads(c[side])) for side in ("golden", "theirs")}
            for c in self.conflicts
        )

    def parked(self, canonical_id: str, name: str) -> bool:
        """Return whether the field waits for a person."""
        return any(
            c["canonical_id"] == canonical_id and c["field"] == name and c["outcome"] == "parked"
            for c in self.conflicts
        )

    def letter(self, system: str, entity: str, keys: set[str], name: str = "") -> Letter | None:
        """Return a dead letter of a record, by canonical id or native key; with a field, only one that carries it."""
        wanted = self.columns.get((system.partition("/")[0], entity), {}).get(name, set())
        for found in self.letters:
            same = (
                found.system in (system.partition("/")[0], "hub")
                and found.entity == entity
                and found.key.split("/", 1)[-1] in keys
            )
            if same and (not name or not found.columns or found.columns & wanted):
                return found
        return None


def gather(observer: Observer, dsns: dict[str, str], portals: Mapping[str, Rows], config_text: str) -> Evidence:
    """Read it all. Raises Retry."""
    out = Evidence(
        conflicts=observer.decoded("conflicts"), alerts=observer.decoded("alerts"), columns=_columns(config_text)
    )
    for entity in ENTITIES:
        out.golden[entity] = observer.golden(entity)
        out.links[entity], out.ever[entity] = observer.links(entity)
    for letter, raw in observer.dead_letters():
        out.letters.append(Letter(**letter, columns=_written(observer, raw)))
    for system, dsn in dsns.items():
        with psycopg.connect(dsn, row_factory=dict_row) as connection:
            views = connection.execute("select viewname from pg_views where schemaname = 'canon'").fetchall()
            for view in views:
                name = view["viewname"]
                found = connection.execute(f'select * from canon."{name}"').fetchall()
                out.rows[system, name] = {r["key"]: {k: text(k, v) for k, v in r.items() if k != "key"} for r in found}
    for system, rows in portals.items():
        out.rows[system, "contact"] = rows
    return out


def _columns(config_text: str) -> dict[tuple[str, str], dict[str, set[str]]]:
    """Return the columns that hold a field, by system and entity, as the configuration has them."""
    out: dict[tuple[str, str], dict[str, set[str]]] = {}
    for system, spec in yaml.safe_load(config_text)["systems"].items():
        for entity, table in spec["entities"].items():
            fields = out.setdefault((system, entity), {})
            for binding in table["map"]:
                for name in binding.get("fields", [binding.get("field")]):
                    fields.setdefault(name, set()).update(binding.get("columns", [binding.get("column")]))
    return out


def _written(observer: Observer, raw: bytes) -> frozenset[str]:
    try:
        return (
            frozenset(c["name"] for c in observer.codec.decode(raw)["columns"])
            if observer.codec.kind(raw) == "Write"
            else frozenset()
        )
    except Reject:
        return frozenset()  # a dead letter may hold anything, that is what it is for
