"""Random histories of a whole installation, and what must hold at their end (DESIGN section 12)."""

from __future__ import annotations

import random
from typing import Any

from tests.model.world import ENTITY, FIELDS, System, World
from tidelock.avro import decode_slice
from tidelock.config import Config

POLICIES = ("priority", "newest", "keep_golden", "non_null")


def config_of(r: random.Random, systems: list[System]) -> Config:
    """Make a configuration: two or three systems, full mesh or ring, a policy per field."""
    names = [s.name for s in systems]
    if len(names) == 3 and r.random() < 0.3:
        flows = [{"entity": ENTITY, "from": a, "to": b} for a, b in zip(names, names[1:] + names[:1], strict=True)]
    else:
        flows = [{"entity": ENTITY, "from": a, "to": [b for b in names if b != a]} for a in names]
    return Config.model_validate(
        {
            "partitions": 2,
            "systems": {
                s.name: {
                    "capture": "replication" if s.log else "polling",
                    "dsn": "postgresql://nowhere/x",
                    "entities": {
                        ENTITY: {
                            "table": ENTITY,
                            "canonical_id": "hub_id" if s.external_id else None,
                            "map": [{"column": f, "field": f} for f in FIELDS],
                        }
                    },
                }
                for s in systems
            },
            "entities": {
                ENTITY: {
                    "match": [["email"]],
                    "priority": names,
                    "delete_against_edit": r.choice(["delete_wins", "edit_wins"]),
                    "oscillation": 50,
                    "fields": {
                        "email": {"policy": "priority"},
                        "name": {"policy": r.choice(POLICIES)},
                        "city": {"policy": r.choice(POLICIES)},
                        "points": {"type": "integer", "policy": r.choice(["delta", "max", "newest"])},
                    },
                }
            },
            "flows": flows,
        }
    )


class History:
    """One random history: users, capture, stages, writes, restarts, re-deliveries in any order, then rest."""

    def __init__(self, seed: int) -> None:
        r = self.r = random.Random(seed)
        self.trace: list[str] = []
        systems = [
            System(n, log=r.random() < 0.5, unique=r.random() < 0.4, external_id=r.random() < 0.5, reformat=r.random() < 0.25)
            for n in ("alpha", "beta", "gamma")[: r.choice([2, 2, 3])]
        ]
        self.world = World(config_of(r, systems), systems)
        self.emails = ["p@x", "q@x", "r@x"][: r.randint(1, 3)]
        self.edits: list[tuple[str, str, str, Any]] = []
        self.serial = 0

    def user(self) -> None:
        """Let somebody create, edit or delete a record in some system."""
        r = self.r
        s = r.choice(list(self.world.systems.values()))
        alive = [k for k, row in s.rows.items() if row.alive]
        act = r.choice(["new", "edit", "edit", "edit", "mail", "delete"]) if alive else "new"
        self.serial += 1
        if act == "new":
            email = r.choice(self.emails)
            if s.holder(email):
                return
            values = {"email": email, "name": f"n{self.serial}", "points": r.choice([None, 10, self.serial])}
            key = s.create(values)
            self.trace.append(f"{s.name} user creates {key} {values}")
        elif act == "edit":
            key = r.choice(alive)
            column = r.choice(["name", "city", "points"])
            value: Any = self.serial + 100 if column == "points" else r.choice([f"u{self.serial}", f"U{r.randint(0, 2)}", None])
            if s.stored(column, value) != s.rows[key].values[column]:
                s.update(key, {column: value})
                self.edits.append((s.name, key, column, s.rows[key].values[column]))
                self.trace.append(f"{s.name} user sets {key}.{column} = {value!r}")
        elif act == "mail":
            key, email = r.choice(alive), r.choice(self.emails)
            if not s.holder(email, key):
                s.update(key, {"email": email})
                self.trace.append(f"{s.name} user re-mails {key} to {email}")
        else:
            key = r.choice(alive)
            s.delete(key)
            self.trace.append(f"{s.name} user deletes {key}")

    def step(self) -> None:
        """Take one random step."""
        r, w = self.r, self.world
        x = r.random()
        t = w.context.topics
        if x < 0.25:
            self.user()
        elif x < 0.28:
            r.choice([w.restart_merge, w.restart_identify])()
        elif x < 0.32:
            topic, stage = r.choice([(t.journal(ENTITY), "merge"), (t.identity(ENTITY), "identify")])
            for p in w.behind(stage, topic)[:1]:
                w.fold(stage, topic, p, abort=True)
        elif x < 0.35:
            s = r.choice(list(w.systems.values()))
            for p in w.behind("sink", w.sync[s.name])[:1]:
                w.write(s, p, twice=True)
        elif x < 0.38:
            self.redeliver()
        else:
            moves = w.moves()
            if moves:
                r.choice(moves)()

    def redeliver(self) -> None:
        """Let route see its last changes again, as after a crash before its offsets were committed."""
        w, r = self.world, self.r
        s = r.choice(list(w.systems.values()))
        topic = w.cdc[s.name]
        for p in range(len(w.topics.get(topic, ()))):
            at = w.cursors["route", topic, p]
            w.cursors["route", topic, p] = max(0, at - r.randint(0, 2))

    def run(self) -> None:
        """Run the history and check its end. Raises AssertionError naming what does not hold."""
        for _ in range(self.r.randint(5, 120)):
            self.step()
        self.world.settle(self.r)
        self.check()

    # ------------------------------------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Check links, convergence, edits and replay."""
        w = self.world
        linked, golden = w.linked(), w.golden()
        records = {key[2].decode(): rec for key, rec in w.merge._records.items()}
        quarantined = self.quarantined()
        copies: set[tuple[str, str]] = set()
        for s in w.systems.values():
            ours: dict[str, str] = {}
            for key, row in s.rows.items():
                cid = linked.get((s.name, key))
                if not row.alive:
                    assert cid is None, f"{s.name} {key} is dead and still linked to {cid}"
                    continue
                if row.values["hub_id"]:
                    assert row.values["hub_id"] not in ours, f"two of ours in {s.name}: {key} and {ours[row.values['hub_id']]}"
                    ours[row.values["hub_id"]] = key
                if cid is None:
                    assert (s.name, key) in quarantined, f"{s.name} {key} is neither linked nor reported"
                    continue
                assert (cid, s.name) not in copies, f"{cid} has two copies in {s.name}"
                copies.add((cid, s.name))
                assert cid in golden, f"{s.name} {key} is linked to {cid}, which has no golden record"
                self.in_step(s, key, cid, golden[cid], records)
        for cid, value in golden.items():
            assert any(c == cid for c, _ in copies), f"{cid} lives without a copy: {value}"
        self.edits_kept(linked, golden)
        self.replay()

    def quarantined(self) -> set[tuple[str, str]]:
        """Return the native records that identify has reported."""
        w = self.world
        out: set[tuple[str, str]] = set()
        for s in w.systems:
            for messages in w.topics.get(w.context.topics.dlq("identify", s, ENTITY), ()):
                for m in messages:
                    value = m.value()
                    if value is not None:
                        out.add((s, w.context.codec.change_reader(value).read(value).native_key))
        return out

    def in_step(self, s: System, key: str, cid: str, golden: dict[str, Any], records: dict[str, Any]) -> None:
        """Check that a copy shows the golden values, or is parked for a reason."""
        row = s.rows[key].values
        parked: set[str] = set()
        record = records.get(cid)
        if record is not None:
            place = f"{s.name}/default"
            copy = record.copies.get(place)
            assert copy is not None, f"{cid} does not know its copy {s.name} {key}"
            assert copy.flight is None, f"{cid} waits for a receipt from {s.name}"
            plan = self.world.plans[ENTITY]
            parked = {plan.systems[s.name].columns[c] for b in copy.parked if b >= 0 for c in plan.systems[s.name].bindings[b].columns}
            parked |= {plan.fields[f].name for f in record.manual}
        for f in FIELDS:
            want = golden[f]
            if f in parked:
                continue
            assert row[f] in (want, s.stored(f, want)), f"{s.name} {key}.{f} is {row[f]!r}, golden {cid} says {want!r}"

    def edits_kept(self, linked: dict[tuple[str, str], str], golden: dict[str, dict[str, Any]]) -> None:
        """Check that the last edit a log saw of a field is in some golden record's history or in a recorded conflict."""
        w = self.world
        last = {(s, k, f): v for s, k, f, v in self.edits}
        judged = self.judged()
        for (s, key, f), value in last.items():
            system = w.systems[s]
            if not system.log or not system.rows[key].alive or (s, key) not in linked:
                continue
            if f == "points" or value is None or not str(value).lower().startswith("u") or len(str(value)) < 3:
                continue
            assert (f, str(value).lower()) in judged, f"the edit {s} {key}.{f} = {value!r} is lost"

    def judged(self) -> set[tuple[str, str]]:
        """Return (field, value) of everything that was ever golden, or lost or won a recorded conflict."""
        w = self.world
        codec, t = w.context.codec, w.context.topics
        out: set[tuple[str, str]] = set()
        for messages in w.topics.get(t.hub(ENTITY), ()):
            for m in messages:
                if m.value() is not None:
                    value = codec.decode(m.value() or b"")
                    out |= {(f, str(value[f]).lower()) for f in FIELDS}
        for messages in w.topics.get(t.ops("conflicts"), ()):
            for m in messages:
                value = codec.decode(m.value() or b"")
                out |= {(value["field"], value[side].strip('"').lower()) for side in ("golden", "theirs")}
        return out

    def replay(self) -> None:
        """Fold the same journals into fresh state: the golden records must come out byte for byte."""
        w = self.world
        t = w.context.topics
        again = World(w.config, [])
        again.registry = w.registry
        again.context = again._context()
        again.restart_merge()
        for messages in w.topics.get(t.journal(ENTITY), ()):
            for m in messages:
                again.produce(t.journal(ENTITY), m.key(), m.value(), m.partition())
        for p in again.behind("merge", t.journal(ENTITY)):
            while p in again.behind("merge", t.journal(ENTITY)):
                again.fold("merge", t.journal(ENTITY), p)
        assert _last(w, t.hub(ENTITY)) == _last(again, t.hub(ENTITY)), "the same journal gives other golden records"


def _last(w: World, topic: str) -> dict[bytes | None, bytes | None]:
    return {m.key(): m.value() for messages in w.topics.get(topic, ()) for m in messages}


def spell(value: bytes) -> Any:
    """Decode a string slice, for messages of tests."""
    from tidelock.avro import FieldType

    return decode_slice(FieldType.STRING, value)
