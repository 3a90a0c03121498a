"""An environment with accounts and contacts that refer to them, as the connector sees it: for what the contract's contacts have no columns for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from producers.apirows import wanted
from producers.dynamics import DynamicsSource
from producers.source import Task
from simulators.server import Running
from sinks.dynamics import DynamicsSink
from tests.sinking import SYSTEM, write
from tidelock.apis.records import ApiColumn, Record
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import Receipt, Write
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry

NOWHERE = "127.0.0.1:9"


def bound(table: str, *columns: str, **more: Any) -> dict[str, Any]:
    """Make a table whose columns are bound to fields of their own names."""
    binding = [{"column": c, "field": c} for c in columns]
    return {"table": table, "key": [f"{table}id"], "map": binding, **more}


class Organisation:
    """One simulated environment, with the tables and fields that a test wants."""

    def __init__(
        self,
        running: Running,
        data: Path,
        tables: Mapping[str, Mapping[str, Any]],
        fields: Mapping[str, Mapping[str, Any]],
        *,
        credentials: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        given = running.ready["credentials"]
        self.running = running
        self.control = httpx.Client(base_url=f"{running.http}/_control", timeout=60.0)
        entities = {
            name: {"fields": {b["field"]: fields.get(b["field"], {}) for b in table["map"]}}
            for name, table in tables.items()
        }
        config = Config.model_validate(
            {
                "data": str(data),
                "systems": {
                    SYSTEM: {
                        "kind": "dynamics",
                        "capture": "dynamics",
                        "url": running.http,
                        "credentials": credentials or {n: given[n] for n in ("tenant", "client_id", "client_secret")},
                        "options": {"login": running.http, **(options or {})},
                        "entities": tables,
                    },
                    "crm": {"capture": "replication", "entities": {n: dict(t) for n, t in tables.items()}},
                },
                "entities": entities,
                "flows": [{"entity": name, "from": "crm", "to": SYSTEM} for name in tables],
            }
        )
        self.context = Context(config, KafkaClients(NOWHERE), Codec(Registry(f"http://{NOWHERE}")), f"sink.{SYSTEM}")
        self.context.access.central = None
        self.context.access.tenants.central = None
        self.tenant = self.context.access.tenants.get(SYSTEM, "default")
        self.source = DynamicsSource(self.context, self.tenant)
        self.sink = DynamicsSink(self.context, SYSTEM)

    def close(self) -> None:
        """Close connections."""
        self.sink.close()
        self.source.close()
        self.control.close()
        self.context.access.close()

    def post(self, path: str, body: Any) -> Any:
        """Do something behind the vendor's back."""
        got = self.control.post(path, json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def load(self, kind: str, *rows: Mapping[str, Any]) -> list[str]:
        """Let a person make rows; return their keys."""
        return [str(i) for i in self.post(f"/load/{kind}", list(rows))["ids"]]

    def row(self, kind: str, key: str) -> dict[str, Any]:
        """Return a row as the simulator has it."""
        listed = self.control.get(f"/records/{kind}").json()
        return next(r for r in listed if r[f"{kind}id"] == key)

    def columns(self, entity: str) -> dict[str, ApiColumn]:
        """Return the columns of an entity's table."""
        return self.source.columns(self.context.config.systems[SYSTEM].entities[entity])

    def task(self, entity: str) -> Task:
        """Return the task of reading an entity."""
        table, columns = self.context.config.systems[SYSTEM].entities[entity], self.columns(entity)
        return Task(entity, table, {n: columns[n] for n in wanted(table)})

    def read(self, entity: str, key: str) -> Record:
        """Return a record as a capture reads it alone."""
        (found,) = self.source.read(self.task(entity), [key])
        return found

    def polled(self, entity: str) -> dict[str, Record]:
        """Return all records as polling reads them at first."""
        return {r.key: r for page in self.source.run(self.task(entity), "poll", None) for r in page.records}

    def make(self, who: object, entity: str, op: str, key: str | None = None, **columns: Any) -> Write:
        """Make a write; bytes are taken as they are."""
        plain = {n: v for n, v in columns.items() if not isinstance(v, bytes)}
        made = write(who, op, key, 1, entity=entity, **plain)
        raw = {n: (v, b"\x00") for n, v in columns.items() if isinstance(v, bytes)}
        return dataclasses.replace(made, columns={**made.columns, **raw})

    def write(self, *writes: Write) -> list[Receipt]:
        """Carry out writes of one entity."""
        outcomes: Sequence[Receipt] = self.sink.write(list(writes))
        return list(outcomes)
