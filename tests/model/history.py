"""Random histories of a whole installation, and what must hold at their end (DESIGN section 12)."""

from __future__ import annotations

import random
from typing import Any

from tests.model.systems import System
from tests.model.world import ENTITY, FIELDS, World, named
from tidelock.config import Config, Policy
from tidelock.envelopes import TAKEN, TENANT_OFF, TENANT_WAITS, Entry

POLICIES = ("priority", "newest", "keep_golden", "non_null")


def config_of(r: random.Random, systems: list[System]) -> Config:
    """Make a configuration: two or three systems, full mesh or ring, a policy per field."""
    names = list(dict.fromkeys(s.system for s in systems))
    if len(names) == 3 and r.random() < 0.3:
        flows: list[dict[str, Any]] = [
            {"entity": ENTITY, "from": a, "to": b} for a, b in zip(names, names[1:] + names[:1], strict=True)
        ]
    else:
        flows = [{"entity": ENTITY, "from": a, "to": [b for b in names if b != a]} for a in names]
    return Config.model_validate(
        {
            "partitions": 2,
            "systems": {
                s.system: {
                    "capture": "replication" if s.log else "polling",
                    "dsn": "postgresql://nowhere/x",
                    "tenants": {o.tenant: {} for o in systems if o.system == s.system},
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
    """One random history: users, capture, stages, writes, receipts, restarts, re-deliveries in any order, then rest.

    A *contended* history begins with one record that stands in every system; users then edit few fields of it, in all systems at once,
    while writes to it are under way. The others wander: records come, meet, part and go. In most something is slow: receipts that come
    long after their writes, sinks, captures or the merge; there what they wait for piles up.
    """

    NAMES: tuple[str, ...] = ("alpha", "beta", "gamma")

    def __init__(self, seed: int) -> None:
        r = self.r = random.Random(seed)
        self.trace: list[str] = []
        self.contended = r.random() < 0.6
        self.deletes = not self.contended or r.random() < 0.3
        systems = [
            System(
                n, log=(log := r.random() < 0.5), unique=r.random() < 0.4, external_id=r.random() < 0.5,
                reformat=r.random() < 0.25, partial=log and r.random() < 0.5,
            )
            for n in self.NAMES[: len(self.NAMES) - r.choice([1, 1, 0])]
        ]  # fmt: skip
        for s in systems:  # whether our id stands in a column is configured for all tenants of a system
            s.external_id = next(o.external_id for o in systems if o.system == s.system)
        self.world = World(config_of(r, systems), systems)
        self.emails = ["p@x", "q@x", "r@x"][: 1 if self.contended else r.randint(1, 3)]
        self.columns = (
            r.sample(["name", "city", "points"], r.randint(1, 2)) if self.contended else ["name", "city", "points"]
        )
        self.edits: list[tuple[str, str, str, Any]] = []
        self.points = 1000
        self.serial = 0
        self.persons = not self.contended and r.random() < 0.4
        self.decided = False  # a person may well have asked for two of ours in one system
        self.slow = r.choice([(), ("receipt",), ("receipt",), ("sink",), ("capture", "poll"), ("merge",)])
        if self.contended:
            systems[0].create({"email": "p@x", "name": "n", "city": "c", "points": self.points})
            self.world.settle(r)

    def user(self) -> None:
        """Let somebody create, edit or delete a record in some system."""
        r = self.r
        s = r.choice(list(self.world.systems.values()))
        alive = [k for k, row in s.rows.items() if row.alive]
        if self.contended:
            act = "edit" if alive and not (self.deletes and r.random() < 0.1) else r.choice(["new", "delete"])
            if not self.deletes and act != "edit":
                return
        else:
            act = r.choice(["new", "edit", "edit", "edit", "mail", "delete", "decide" if self.persons else "edit"])
        self.serial += 1
        if act == "decide":
            self.person_decides()
        elif act == "new" or not alive:
            self.user_creates(s, r.choice(self.emails))
        elif act == "edit":
            self.user_edits(s, r.choice(alive), r.choice(self.columns))
        elif act == "mail":
            self.user_mails(s, r.choice(alive), r.choice(self.emails))
        else:
            self.user_deletes(s, r.choice(alive))

    def user_creates(self, s: System, email: str) -> None:
        """Create a record, unless the system does not allow another one with this e-mail."""
        if s.holder(email) is None:
            values = {"email": email, "name": f"n{self.serial}", "points": self.r.choice([None, 10, self.serial])}
            key = s.create(values)
            self.trace.append(f"{s.name} user creates {key} {values}")

    def user_edits(self, s: System, key: str, column: str) -> None:
        """Edit one column: mostly to a value never seen before, now and then to one that comes back."""
        r = self.r
        row = s.rows[key].values
        value: Any = r.choice([f"e{self.serial}", f"e{self.serial}", f"U{r.randint(0, 2)}", None])
        if column == "points":  # what is added is never the same twice, so that no two sums meet by chance
            added = r.choice([-1, 1]) * 4 ** min(self.serial, 28)
            value = (row["points"] or 0) + added
            self.points += added
        if s.stored(column, value) != row[column]:
            s.update(key, {column: value})
            self.edits.append((s.name, key, column, row[column]))
            self.trace.append(f"{s.name} user sets {key}.{column} = {value!r}")

    def user_mails(self, s: System, key: str, email: str) -> None:
        """Give a record another e-mail, unless the system does not allow it."""
        if s.holder(email, key) is None:
            s.update(key, {"email": email})
            self.trace.append(f"{s.name} user re-mails {key} to {email}")

    def user_deletes(self, s: System, key: str) -> None:
        """Delete a record."""
        s.delete(key)
        self.trace.append(f"{s.name} user deletes {key}")

    def person_decides(self) -> None:
        """Let somebody decide about identity, wisely or not."""
        r, w = self.r, self.world
        records, linked = sorted(w.golden()), sorted(w.linked())
        if not records or not linked:
            return
        system, key = r.choice(linked)
        kind = r.choice(["merge", "merge", "unlink", "split", "link"])
        cid = r.choice(records) if kind in ("merge", "link") else ""
        if kind == "merge":
            entry = Entry(kind, cid, keys=(r.choice(records),))
        else:
            entry = Entry(kind, cid, w.systems[system].system, w.systems[system].tenant, key)
        self.decided = True
        self.trace.append(f"a person decides: {kind} {entry.canonical_id} {entry.native_key} {entry.keys}")
        w.enter(entry, identity=True)

    def step(self) -> None:
        """Take one random step."""
        r, w = self.r, self.world
        x = r.random()
        if x < 0.25:
            self.user()
        elif x < 0.27:
            r.choice([w.restart_merge, w.restart_identify])()
        elif x < 0.30:
            self.abort(r.choice(["merge", "identify"]))
        elif x < 0.32:
            self.tell_again(r.choice(list(w.systems.values())))
        elif x < 0.34:
            self.redeliver(r.choice(list(w.systems.values())))
        else:
            moves = w.named_moves()
            if r.random() < 0.9:
                moves = [m for m in moves if m[0].partition(":")[0] not in self.slow]
            if moves:
                name, move = r.choice(moves)
                self.trace.append(name)
                move()

    def abort(self, stage: str) -> None:
        """Let a stage's transaction fail once before it goes through."""
        w = self.world
        topic = w.context.topics.journal(ENTITY) if stage == "merge" else w.context.topics.identity(ENTITY)
        for p in w.behind(stage, topic)[:1]:
            w.fold(stage, topic, p, abort=True)

    def tell_again(self, s: System) -> None:
        """Publish an old receipt again, as a sink does that crashed before its offsets were committed."""
        if s.told:
            self.world.tell_again(s, self.r.choice(s.told[-4:]))

    def redeliver(self, s: System, most: int = 2) -> None:
        """Let route see its last changes again, as after a crash before its offsets were committed."""
        w = self.world
        topic = w.cdc[s.name]
        for p in range(len(w.topics.get(topic, ()))):
            at = w.cursors["route", topic, p]
            w.cursors["route", topic, p] = max(0, at - self.r.randint(0, most))

    def run(self) -> None:
        """Run the history and check its end. Raises AssertionError naming what does not hold."""
        for _ in range(self.r.randint(5, 120)):
            self.step()
        if self.contended and self.r.random() < 0.5:
            self.last_word()
        self.finish()

    def last_word(self) -> None:
        """Let somebody edit behind writes that have landed, and let that be captured before any receipt is told."""
        for user in (False, True, False):
            if user:
                self.user()
            while moves := [move for name, move in self.world.named_moves() if not name.startswith("receipt")]:
                self.r.choice(moves)()

    def finish(self) -> None:
        """Let the world come to rest, and check it."""
        self.world.settle(self.r)
        self.check()
        self.again()

    # ------------------------------------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Check links, convergence, edits, the number of writes, counters and replay."""
        w = self.world
        linked, golden = w.linked(), w.golden()
        records = {cid.decode(): r for e in w.merge._entities.values() for cid, r in {**e.stale, **e.fresh}.items()}
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
                    assert self.decided or row.values["hub_id"] not in ours, (
                        f"two of ours in {s.name}: {key} and {ours[row.values['hub_id']]}"
                    )
                    ours[row.values["hub_id"]] = key
                if cid is None:
                    reported = (s.name, key) in quarantined or self.left_behind(s, key)
                    assert reported, f"{s.name} {key} is neither linked nor reported"
                    continue
                assert (cid, s.name) not in copies, f"{cid} has two copies in {s.name}"
                copies.add((cid, s.name))
                assert cid in golden, f"{s.name} {key} is linked to {cid}, which has no golden record"
                self.in_step(s, key, cid, golden[cid], records)
        for cid, value in golden.items():
            assert any(c == cid for c, _ in copies), f"{cid} lives without a copy: {value}"
        self.edits_kept(linked)
        if self.contended and not self.deletes:
            self.writes_few()
            self.counters_kept(golden)
        self.replay()

    def left_behind(self, s: System, key: str) -> bool:
        """Tell whether a row may be nobody's without anybody being told."""
        return False

    def quarantined(self) -> set[tuple[str, str]]:
        """Return the native records that identify has reported."""
        w = self.world
        out: set[tuple[str, str]] = set()
        for system in {s.system for s in w.systems.values()}:
            for messages in w.topics.get(w.context.topics.dlq("identify", system, ENTITY), ()):
                for m in messages:
                    value = m.value()
                    if value is not None and w.context.codec.kind(value) == "Change":
                        change = w.context.codec.change_reader(value).read(value)
                        out.add((named(f"{change.system}/{change.tenant}"), change.native_key))
        return out

    def in_step(self, s: System, key: str, cid: str, golden: dict[str, Any], records: dict[str, Any]) -> None:
        """Check that a copy shows the golden values, or is parked for a reason."""
        row = s.rows[key].values
        parked: set[str] = set()
        record = records.get(cid)
        if record is not None:
            copy = record.copies.get(s.place)
            assert copy is not None, f"{cid} does not know its copy {s.name} {key}"
            assert copy.flight is None, f"{cid} waits for a receipt from {s.name}"
            plan = self.world.plans[ENTITY]
            parked = {
                plan.systems[s.system].columns[c]
                for b in copy.parked
                if b >= 0
                for c in plan.systems[s.system].bindings[b].columns
            }
            parked |= {plan.fields[f].name for f in record.manual}
        for f in FIELDS:
            want = golden[f]
            if f in parked:
                continue
            assert row[f] in (want, s.stored(f, want)), f"{s.name} {key}.{f} is {row[f]!r}, golden {cid} says {want!r}"

    def edits_kept(self, linked: dict[tuple[str, str], str]) -> None:
        """Check that the last edit of a field in a system was golden once, or is in a recorded conflict."""
        w = self.world
        judged = self.judged()
        for (s, key, f), value in {(s, k, f): v for s, k, f, v in self.edits}.items():
            if w.systems[s].rows[key].alive and (s, key) in linked and str(value).lower().startswith("e"):
                assert (f, str(value).lower()) in judged, f"the edit {s} {key}.{f} = {value!r} is lost"

    def writes_few(self) -> None:
        """Check that no more writes reached a field of a system than there were edits of that field: each is written once."""
        for s in self.world.systems.values():
            for f in ("name", "city", "points"):
                tried = (w for _, w, receipt in s.told if receipt.kind not in (TENANT_WAITS, TENANT_OFF))
                wrote = sum(f in w.columns for w in tried)
                edits = sum(column == f for _, _, column, _ in self.edits)
                assert wrote <= edits + 1, f"{s.name}.{f} was written {wrote} times for {edits} edits: a loop"

    def counters_kept(self, golden: dict[str, dict[str, Any]]) -> None:
        """Check that a counter holds what everybody added to it."""
        if self.world.plans[ENTITY].fields[FIELDS.index("points")].policy is Policy.DELTA:
            for cid, value in golden.items():
                assert value["points"] == self.points, f"{cid} has {value['points']} points, not {self.points}"

    def again(self) -> None:
        """Deliver every change and every receipt once more: nothing may move. What was refused may be tried, and refused, again."""
        w = self.world
        rows = {s.name: {k: (dict(row.values), row.alive) for k, row in s.rows.items()} for s in w.systems.values()}
        golden, told = w.golden(), {s.name: len(s.told) for s in w.systems.values()}
        for s in w.systems.values():
            topic = w.cdc[s.name]
            for p in range(len(w.topics.get(topic, ()))):
                w.cursors["route", topic, p] = 0
            for receipt in list(s.told):
                w.tell_again(s, receipt)
        w.settle(self.r, timers=0)
        for s in w.systems.values():
            effective = [
                (write, receipt)
                for _, write, receipt in s.told[told[s.name] :]
                if receipt.outcome != TAKEN
                and not (write.op == "create" and receipt.native_key in rows[s.name])  # met a row, and made nothing
            ]
            assert not effective, f"delivered again, and {s.name} was written: {effective}"
        assert golden == w.golden(), "delivered again, and golden records changed"
        assert rows == {
            s.name: {k: (dict(row.values), row.alive) for k, row in s.rows.items()} for s in w.systems.values()
        }

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


class TenantHistory(History):
    """A history in which a system has several tenants: each has, or may have, a copy of every record, and takes no writes at times."""

    NAMES = ("alpha", "beta/north", "beta/south", "gamma")

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        if self.r.random() < 0.7:
            self.turn()

    def step(self) -> None:
        """Take one random step; now and then a tenant goes down, or comes back."""
        if self.r.random() < 0.04:
            self.turn()
        else:
            super().step()

    def turn(self) -> None:
        """Let a tenant take no more writes, or take them again."""
        s = self.r.choice([s for s in self.world.systems.values() if s.system != s.name])
        kind = self.r.choice([TENANT_WAITS, TENANT_OFF])
        s.refuse = None if s.refuse is not None else lambda _write, _values: kind
        self.trace.append(f"{s.name} {'takes writes' if s.refuse is None else kind}")

    def finish(self) -> None:
        """Let all tenants take writes before the end."""
        for s in self.world.systems.values():
            s.refuse = None
        super().finish()


def _last(w: World, topic: str) -> dict[bytes | None, bytes | None]:
    return {m.key(): m.value() for messages in w.topics.get(topic, ()) for m in messages}
