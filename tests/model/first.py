"""Random first starts: systems that hold some of the same records already are read at different paces, while people work in them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Container
from functools import partial

from tests.model.systems import System
from tests.model.world import ENTITY, World
from tidelock.change import SNAPSHOT
from tidelock.config import Config


class FirstStart:
    """One first start. No e-mail stands twice in a system when it begins, and at no time may it stand there twice later.

    Where people delete it may, until all is at rest: what was made of a record that dies meanwhile is still to be removed. And one that
    outlives the record it was a copy of may meet what another copy, read later, was made into: that is ambiguous, and reported.
    """

    def __init__(self, seed: int, config: Callable[[random.Random, list[System]], Config]) -> None:
        r = self.r = random.Random(seed)
        self.trace: list[str] = []
        systems = [
            System(n, log=r.random() < 0.6, external_id=r.random() < 0.5)
            for n in ("alpha", "beta", "gamma")[: r.choice([2, 2, 3])]
        ]
        self.world = World(config(r, systems), systems, seeded=False)
        self.serial = 0
        self.most_waiting = 0
        for n in range(r.randint(1, 8)):
            for s in r.sample(systems, r.randint(1, len(systems))):
                s.create({"email": f"m{n}@x", "name": f"{s.name} {n}", "city": "c", "points": n})
        self.unread = {s.name: list(s.rows) for s in systems}  # what the seed has still to read
        self.unmarked = {s.name for s in systems}
        for s in systems:
            s.captured.clear()
            s.dirty.clear()
            r.shuffle(self.unread[s.name])
        self.deletes = r.random() < 0.3
        self.pace = {s.name: r.choice([0.02, 0.2, 1.0]) for s in systems}

    def run(self) -> None:
        """Run to the end of all seeds and to rest; check for doubles at every step, and that all is in step at the end."""
        r, w = self.r, self.world
        users = r.randint(0, 12)
        for _ in range(20_000):
            moves = w.named_moves() + self.seed_moves()
            if users and r.random() < 0.1:
                users -= 1
                self.user()
            elif r.random() < 0.04:
                self.trouble()
            elif moves:
                name, move = r.choice(moves)
                self.trace.append(name)
                move()
                if name.startswith("sink") and not self.deletes:
                    self.no_doubles()
            elif not self.unmarked:
                break
        else:
            raise AssertionError("it does not come to rest")
        self.in_step()
        self.later()

    def seed_moves(self) -> list[tuple[str, Callable[[], None]]]:
        """List what seeds can do next: read a row or, when all they have read stands in the topic, mark their end there."""
        out: list[tuple[str, Callable[[], None]]] = []
        for s in self.world.systems.values():
            if self.unread[s.name]:
                if self.r.random() < self.pace[s.name]:
                    out.append((f"read:{s.name}", partial(self.read, s)))
            elif s.name in self.unmarked and not any(seen.op == SNAPSHOT for seen in s.captured):
                out.append((f"mark:{s.name}", partial(self.mark, s)))
        return out

    def read(self, s: System) -> None:
        """Read one row; one that is gone meanwhile is not met."""
        key = self.unread[s.name].pop()
        if s.rows[key].alive:
            s.reread(key)

    def mark(self, s: System) -> None:
        """End a seed; sometimes its marks come twice, because what gave them crashed before it noted so."""
        self.world.mark(s)
        if self.r.random() < 0.8:
            self.unmarked.discard(s.name)

    def user(self) -> None:
        """Let somebody edit or delete a row, read or not, or add one that nobody has."""
        r = self.r
        s = r.choice(list(self.world.systems.values()))
        alive = [k for k, row in s.rows.items() if row.alive]
        self.serial += 1
        act = r.choice(["new", "edit", "edit", "delete" if self.deletes else "edit"])
        self.trace.append(f"{s.name} user: {act}")
        if act == "new" or not alive:
            s.create({"email": f"u{self.serial}@x", "name": "new"})
        elif act == "edit":
            s.update(r.choice(alive), {"name": f"e{self.serial}"})
        else:
            s.delete(r.choice(alive))

    def trouble(self) -> None:
        """Let a stage start again or its transaction fail, or route see its last messages, marks among them, once more."""
        r, w = self.r, self.world
        what = r.choice(["merge", "identify", "abort", "again"])
        self.trace.append(what)
        topic = w.context.topics.identity(ENTITY)
        if what == "merge":
            w.restart_merge()
        elif what == "identify":
            w.restart_identify()
        elif what == "abort" and w.behind("identify", topic):
            w.fold("identify", topic, 0, abort=True)
        elif what == "again":
            cdc = w.cdc[r.choice(list(w.systems))]
            for p in range(len(w.topics.get(cdc, ()))):
                w.cursors["route", cdc, p] = max(0, w.cursors["route", cdc, p] - r.randint(0, 3))

    def waiting(self) -> int:
        """Return how many creates wait, as `tidelock status` is told."""
        last: dict[bytes | None, int] = {}
        for messages in self.world.topics.get(self.world.context.topics.ops("signals"), ()):
            for m in messages:
                if (m.key() or b"").startswith(b"waiting/"):
                    last[m.key()] = json.loads(m.value() or b'{"creates": 0}')["creates"]
                    self.most_waiting = max(self.most_waiting, sum(last.values()))
        return sum(last.values())

    def reported(self) -> set[tuple[str, str]]:
        """Return what identify has kept aside as ambiguous and reported, as (system, key); nothing unless people delete."""
        w, linked = self.world, self.world.linked()
        out: set[tuple[str, str]] = set()
        for s in w.systems.values():
            for messages in w.topics.get(w.context.topics.dlq("identify", s.system, ENTITY), ()):
                keys = [(m.key() or b"").decode().partition("/") for m in messages]
                out |= {(s.name, native) for tenant, _, native in keys if tenant == s.tenant}
        out = {native for native in out if native not in linked}
        assert self.deletes or not out, f"{out} are reported as ambiguous"
        return out

    def no_doubles(self, aside: Container[tuple[str, str]] = ()) -> None:
        """Check that no system holds an e-mail twice, what is kept aside not counted."""
        for s in self.world.systems.values():
            held = Counter(
                row.values["email"] for key, row in s.rows.items() if row.alive and (s.name, key) not in aside
            )
            twice = [mail for mail, n in held.items() if n > 1]
            assert not twice, f"{s.name} holds {twice} twice"

    def in_step(self) -> None:
        """Check that nothing waits any more and that all systems hold the same records with the same values."""
        w = self.world
        assert not self.waiting(), "creates wait for ever"
        (state,) = w.states["identify"].kept.values()
        assert not [k for k in state if k[:2] in (b"c:", b"C:")], "creates that waited are left over"
        aside = self.reported()
        self.no_doubles(aside)
        held = {
            s.name: {
                row.values["email"]: (row.values["name"], row.values["city"])
                for key, row in s.rows.items()
                if row.alive and (s.name, key) not in aside
            }
            for s in w.systems.values()
        }
        first, *others = held.values()
        assert all(other == first for other in others), held

    def later(self) -> None:
        """Read a system again, marks and all, and add a record: nothing waits any more, and nothing else moves."""
        w, waited = self.world, self.most_waiting
        s = self.r.choice(list(w.systems.values()))
        for key, row in s.rows.items():
            if row.alive:
                s.reread(key)
        w.settle(self.r)
        self.in_step()
        s.create({"email": "late@x", "name": "late"})
        w.settle(self.r)
        w.mark(s)
        w.settle(self.r)
        self.in_step()
        assert self.most_waiting == waited, "a later create had to wait"
