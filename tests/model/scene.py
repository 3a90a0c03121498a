"""A scripted installation: what named scenarios and policy tests say about a `World`, in few words.

`Scene.run` lets everything happen that is not held back, in a fixed order; what is held back is named as `World.named_moves` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from processors import record as records
from processors.record import Record
from tests.model.systems import System
from tests.model.world import ENTITY, World
from tidelock.avro import FieldType
from tidelock.change import Column
from tidelock.config import Config
from tidelock.envelopes import Entry, Write

FIELD_SPECS: Mapping[str, Mapping[str, Any]] = {"email": {}, "name": {}, "city": {}, "points": {"type": "integer"}}


def columns(**kinds: str) -> tuple[Column, ...]:
    """Make the columns of a simulated table: a key, these, and one for our id."""
    inner = (Column(n, FieldType(kind), kind) for n, kind in kinds.items())
    text = FieldType.STRING
    return (Column("id", text, "text", key=True), *inner, Column("hub_id", text, "text"))


def configure(
    systems: Sequence[System],
    *,
    fields: Mapping[str, Mapping[str, Any]] = FIELD_SPECS,
    flows: Sequence[Mapping[str, Any]] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    tenants: Mapping[str, Mapping[str, Any]] | None = None,
    **entity: Any,
) -> Config:
    """Make a configuration of one entity: every field bound to the column of its name, every system to every other, unless told otherwise.

    ``tenants``: what the configuration says of one that has a name ``system/tenant``.
    """
    names = list(dict.fromkeys(s.system for s in systems))
    mesh = [{"from": a, "to": [b for b in names if b != a]} for a in names]
    captures = {(True, True): "replication", (True, False): "polling"}
    return Config.model_validate(
        {
            "partitions": 2,
            "systems": {
                s.system: {
                    "capture": captures.get((s.captured_at_all, s.log), "none"),
                    "dsn": "postgresql://nowhere/x",
                    "tenants": {
                        o.tenant: (tenants or {}).get(o.name, {})
                        for o in systems
                        if o.system == s.system and "/" in o.name
                    }
                    or None,
                    "entities": {
                        ENTITY: {
                            "table": ENTITY,
                            "canonical_id": "hub_id" if s.external_id else None,
                            "map": [{"column": f, "field": f} for f in fields],
                            **(tables or {}).get(s.system, {}),
                        }
                    },
                }
                for s in systems
            },
            "entities": {ENTITY: {"match": [["email"]], "priority": names, "fields": fields, **entity}},
            "flows": [{"entity": ENTITY, **flow} for flow in flows or mesh],
        }
    )


class Scene:
    """A world with a script. ``systems`` are names, or systems where one must be special; further options are `configure`'s."""

    def __init__(self, *systems: str | System, **options: Any) -> None:
        made = [System(s) if isinstance(s, str) else s for s in systems]
        self.config = configure(made, **options)
        self.world = World(self.config, made)

    def __getitem__(self, name: str) -> System:
        return self.world.systems[name]

    def seed(self, system: str = "alpha", **values: Any) -> str:
        """Create a record, let it come everywhere, and return its native key there."""
        key = self[system].create({"email": "p@x", "name": "n", "city": "c", "points": 10} | values)
        self.run()
        return key

    def run(self, *hold: str, only: Sequence[str] = (), most: int = 5000) -> None:
        """Do whatever can be done, except moves held back by name or by kind (``sink`` is every ``sink:…``)."""
        for _ in range(most):
            for name, move in self.world.named_moves():
                names = {name, name.partition(":")[0]}
                if names.isdisjoint(hold) and (not only or not names.isdisjoint(only)):
                    move()
                    break
            else:
                return
        raise AssertionError(f"still busy after {most} steps: a loop")

    def settle(self, timers: int = 3) -> None:
        """Run to the end, with timers."""
        self.run()
        for _ in range(timers):
            if self.world.timers():
                self.run()

    # ------------------------------------------------------------------------------------------------ what there is

    @property
    def cid(self) -> str:
        """Return the canonical id of the only living record."""
        (cid,) = self.world.golden()
        return cid

    @property
    def golden(self) -> dict[str, Any]:
        """Return the only living golden record."""
        (value,) = self.world.golden().values()
        return value

    def rows(self, system: str) -> list[dict[str, Any]]:
        """Return the living rows of a system."""
        return [row.values for row in self[system].rows.values() if row.alive]

    def row(self, system: str) -> dict[str, Any]:
        """Return the only living row of a system."""
        (row,) = self.rows(system)
        return row

    def key(self, system: str) -> str:
        """Return the key of the only living row of a system."""
        (key,) = (k for k, row in self[system].rows.items() if row.alive)
        return key

    def values(self, column: str) -> set[Any]:
        """Return what all living rows of all systems have in a column."""
        return {row[column] for s in self.world.systems for row in self.rows(s)}

    def writes(self, system: str, since: int = 0) -> list[Write]:
        """Return the writes a system has been given."""
        place = self[system].place
        return [w for w in self.world.writes[since:] if f"{w.system}/{w.tenant}" == place]

    def conflicts(self) -> list[dict[str, Any]]:
        """Return the recorded conflicts."""
        return self.world.decoded(self.world.context.topics.ops("conflicts"))

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts."""
        return self.world.decoded(self.world.context.topics.ops("alerts"))

    def record(self, cid: str = "") -> Record:
        """Return what merge has kept of a record (the only one unless named)."""
        name = (cid or self.cid).encode()
        found = [kept[name] for kept in self.world.states["merge"].kept.values() if name in kept]
        (value,) = found
        return records.decode(value)[1]

    def entries(self) -> list[str]:
        """Return the kinds of the entries that the journal holds."""
        t, codec = self.world.context.topics, self.world.context.codec
        values = [m.value() or b"" for messages in self.world.topics.get(t.journal(ENTITY), ()) for m in messages]
        return [Entry.decode(v).kind for v in values if codec.kind(v) == "Entry"]

    def messages(self) -> int:
        """Return how many messages all topics hold."""
        return sum(len(messages) for parts in self.world.topics.values() for messages in parts)

    # ------------------------------------------------------------------------------------------------ persons and tools

    def enter(self, kind: str, cid: str = "", system: str = "", *, identity: bool = False, **more: Any) -> None:
        """Let a person or a tool put an entry into the record's journal, or into the identity topic."""
        name, _, tenant = system.partition("/")
        self.world.enter(Entry(kind, cid or self.cid, name, tenant or "default", **more), identity=identity)

    def agree(self, *fields: str) -> None:
        """Check that every system shows the golden values, as it spells them."""
        golden = self.golden
        for s in self.world.systems.values():
            row = self.row(s.name)
            for f in fields or ("email", "name", "city", "points"):
                assert row[f] in (golden[f], s.stored(f, golden[f])), (
                    f"{s.name}.{f} is {row[f]!r}, golden {golden[f]!r}"
                )
