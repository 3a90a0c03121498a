"""Random histories of a product and its customers' orgs: tenants give their records an owner, and the product alone can change it."""

from __future__ import annotations

import random
from typing import Any

from tests.model.history import POLICIES, History
from tests.model.scene import FIELD_SPECS, columns, configure
from tests.model.systems import System
from tests.model.world import ENTITY, World

CUSTOMERS = ("acme", "bolt")
BOUND = columns(email="string", name="string", city="string", points="integer", customer="string")


class OwnerHistory(History):
    """A history in which every contact belongs to a customer.

    In half of them the product's users move contacts from one customer to another, and persons decide about identity. In the others
    nobody does, so nothing that is typed in one org may ever be seen in the other.
    """

    def __init__(self, seed: int) -> None:
        r = self.r = random.Random(seed)
        self.trace: list[str] = []
        self.contended = False
        self.deletes = True
        self.moving = r.random() < 0.5
        self.persons = self.moving and r.random() < 0.3
        self.decided = False
        self.on_exit = r.choice(["keep", "delete", "disable"])
        external = r.random() < 0.5
        log = r.random() < 0.5
        systems = [
            System("product", log=log, columns=BOUND, external_id=r.random() < 0.5, partial=log and r.random() < 0.5)
        ]
        if r.random() < 0.3:
            systems.append(System("erp", log=r.random() < 0.5, columns=BOUND))
        systems += [  # their rows come whole, as APIs tell them
            System(
                f"org/{c}", log=r.random() < 0.5, unique=r.random() < 0.4, external_id=external,
                reformat=r.random() < 0.25,
            )
            for c in CUSTOMERS
        ]  # fmt: skip
        names = list(dict.fromkeys(s.system for s in systems))
        flows = [{"from": a, "to": [b for b in names if b != a], "on_exit": self.on_exit} for a in names]
        policies = {f: {"policy": r.choice(POLICIES)} for f in ("name", "city")}
        config = configure(
            systems,
            fields={**{f: {**spec, **policies.get(f, {})} for f, spec in FIELD_SPECS.items()}, "customer": {}},
            flows=flows,
            tables={"org": {"map": [{"column": f, "field": f} for f in FIELD_SPECS], "disable": {"points": 0}}},
            tenants={f"org/{c}": {"fields": {"customer": c}} for c in CUSTOMERS},
            delete_against_edit=r.choice(["delete_wins", "edit_wins"]),
            oscillation=50,
        )
        self.world = World(config, systems)
        self.emails = ["p@x", "q@x", "r@x"][: r.randint(1, 3)]
        self.columns = ["name", "city", "points"]
        self.edits: list[tuple[str, str, str, Any]] = []
        self.typed: dict[str, str] = {}  # value → the org in which it was typed
        self.bystanders = self.restored = 0
        self.points = 1000
        self.serial = 0
        self.slow = r.choice([(), ("receipt",), ("sink",), ("capture", "poll"), ("merge",)])

    def step(self) -> None:
        """Take one random step; now and then all comes to rest, and a former customer does something with a copy it has kept."""
        if self.moving and self.r.random() < 0.08:
            self.world.settle(self.r)
            self.former_customer()
        else:
            super().step()

    def former_customer(self) -> None:
        """Let an edit, or a delete, of a copy that is left behind reach nobody."""
        w, r = self.world, self.r
        golden = w.golden()
        kept = [
            (place, key, cid)
            for (place, key), cid in sorted(w.linked().items())
            if "/" in place and golden[cid]["customer"] != place.partition("/")[2]
        ]
        if not kept:
            return
        place, key, cid = r.choice(kept)
        self.serial += 1
        self.bystanders += 1
        if r.random() < 0.7:
            word = f"left{self.serial}"
            w.systems[place].update(key, {r.choice(["name", "city"]): word})
            self.trace.append(f"{place} former customer writes {word} into {key}")
            w.settle(r)
            seen = [s.name for s in w.systems.values() for row in s.rows.values() if word in str(row.values).lower()]
            assert seen == [place], f"what the former customer wrote into {place} {key} is seen in {seen}"
        else:
            # A record that stood only here is nowhere after it, and so ends: whose it was makes no difference to that.
            elsewhere = any(c == cid and at != (place, key) for at, c in w.linked().items())
            w.systems[place].delete(key)
            self.trace.append(f"{place} former customer deletes {key}")
            w.settle(r)
            assert not elsewhere or cid in w.golden(), (
                f"the former customer's delete of {place} {key} has deleted {golden[cid]}"
            )

    def user_restores(self, s: System) -> None:
        """Put a contact into an org that carries the id of a record of the other customer: from a recycle bin, or copied."""
        held = {row.values["hub_id"] for row in s.rows.values() if row.alive}  # vendors keep such a column unique
        others = [cid for cid, v in sorted(self.world.golden().items()) if v["customer"] not in (None, s.tenant)]
        others = [cid for cid in others if cid not in held]
        if others and s.external_id:
            values = {"email": f"{self.serial}@x", "name": f"n{self.serial}", "hub_id": self.r.choice(others)}
            self.typed[values["name"]] = s.name
            key = s.create(values)
            self.restored += 1
            self.trace.append(f"{s.name} user restores {key} {values}")

    def user(self) -> None:
        """Let somebody do what users do, or move a contact to another customer, or to nobody."""
        s = self.r.choice([x for x in self.world.systems.values() if "/" not in x.name])
        alive = [k for k, row in s.rows.items() if row.alive]
        if self.moving and alive and self.r.random() < 0.25:
            key, customer = self.r.choice(alive), self.r.choice([*CUSTOMERS, *CUSTOMERS, None])
            s.update(key, {"customer": customer})
            self.trace.append(f"{s.name} user moves {key} to {customer}")
        elif self.r.random() < 0.05:
            self.serial += 1
            self.user_restores(self.r.choice([x for x in self.world.systems.values() if "/" in x.name]))
        else:
            super().user()

    def user_creates(self, s: System, email: str) -> None:
        """Create a contact; who knows customers says whose it is, but for some."""
        if s.holder(email) is None:
            values: dict[str, Any] = {"email": email, "name": f"n{self.serial}", "points": self.serial}
            if "/" in s.name:
                self.typed[values["name"]] = s.name
            else:
                values["customer"] = self.r.choice([*CUSTOMERS, *CUSTOMERS, None])
            key = s.create(values)
            self.trace.append(f"{s.name} user creates {key} {values}")

    def user_edits(self, s: System, key: str, column: str) -> None:
        """Edit a column, and remember what was typed in an org."""
        super().user_edits(s, key, column)
        value = s.rows[key].values[column]
        if "/" in s.name and column != "points" and str(value) == f"e{self.serial}":
            self.typed[value] = s.name

    # ------------------------------------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Check what always holds, and that no customer has seen anything of the other."""
        super().check()
        w = self.world
        golden = w.golden()
        for (place, key), cid in w.linked().items():
            customer = place.partition("/")[2]
            if customer and not self.moving:
                assert golden[cid]["customer"] == customer, f"{place} {key} is linked to a record of {golden[cid]}"
        if self.moving:
            return
        for s in w.systems.values():
            for key, row in s.rows.items():
                for f in ("name", "city"):
                    typed = self.typed.get(str(row.values[f]).lower(), s.name)
                    assert "/" not in s.name or typed == s.name, f"{s.name} {key} shows what was typed in {typed}"
        said: dict[bytes, set[str | None]] = {}
        for messages in w.topics.get(w.context.topics.hub(ENTITY), ()):
            for m in messages:
                whose = w.context.codec.decode(m.value() or b"")["customer"] if m.value() else None
                said.setdefault(m.key() or b"", set()).update({whose} - {None})
        assert all(len(customers) < 2 for customers in said.values()), f"nobody has moved a contact: {said}"
        if not self.quarantined():
            self.all_there(golden)

    def all_there(self, golden: dict[str, dict[str, Any]]) -> None:
        """Check that every contact of a customer stands in that customer's org, unless the org refused it."""
        linked = {(cid, place) for (place, _), cid in self.world.linked().items()}
        records = {
            cid.decode(): r for e in self.world.merge._entities.values() for cid, r in {**e.stale, **e.fresh}.items()
        }
        for cid, value in golden.items():
            place = f"org/{value['customer']}"
            refused = cid in records and place in records[cid].parked
            assert not value["customer"] or (cid, place) in linked or refused, f"{cid} {value} is not in {place}"

    def left_behind(self, s: System, key: str) -> bool:
        """Tell whether an org may hold a row that is nobody's: of a record that moved away, and died elsewhere."""
        return self.moving and "/" in s.name

    def in_step(self, s: System, key: str, cid: str, golden: dict[str, Any], records: dict[str, Any]) -> None:
        """Check a copy, unless its record belongs to somebody else by now."""
        customer = s.name.partition("/")[2]
        if not customer or golden["customer"] == customer:
            super().in_step(s, key, cid, golden, records)
