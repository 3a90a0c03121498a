"""Random edits by people in two systems, exactly once each whatever dies meanwhile, and what must be true of them in the end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import psycopg

from tests.fix_installation import COLUMNS, TABLES, Installation
from tests.patience import DEADLINE_S

_LEDGER = "create table if not exists test_ledger (edit bigint primary key)"


@dataclass
class Contact:
    """What is known of one contact: the last value that each side set, and all that was counted."""

    number: str
    deleted: bool = False
    score: int = 0
    last: dict[tuple[str, str], str] = field(default_factory=dict)  # (system, field) → value


class Load:
    """Edit both systems at once: `edit` makes one edit, `check` says whether all of them are accounted for at rest.

    Every edit is one transaction with a row in a ledger of the same database, so that one whose commit nobody heard of can be
    tried again. ``city`` is edited in crm only, ``phone`` in erp only, ``name`` and the counter ``score`` in both.
    """

    def __init__(self, installation: Installation, name: str, seed: int) -> None:
        self._at = installation
        self._name = name
        self._random = random.Random(seed)
        self._number = 0
        self.contacts: dict[str, Contact] = {}
        self.edits = 0
        for system in TABLES:
            installation.execute(system, _LEDGER)
            installation.execute(system, "truncate test_ledger")

    def edit(self) -> bool:
        """Make one edit somewhere; return False if the database was away."""
        self._number += 1
        draw, system = self._random.random(), self._random.choice(list(TABLES))
        alive = [c for c in self.contacts.values() if not c.deleted]
        if draw < 0.2 or len(alive) < 10:
            return self._insert(system)
        contact = self._random.choice(alive)
        if draw < 0.25:
            if self._change(system, contact, None, None):
                contact.deleted = True
        elif draw < 0.5:
            if self._change(system, contact, "score", "1"):
                contact.score += 1
        else:
            name = self._random.choice(["name", {"crm": "city", "erp": "phone"}[system]])
            value = f"{system}{self._number}"
            if self._change(system, contact, name, value):
                contact.last[system, name] = value
        return True

    def _insert(self, system: str) -> bool:
        contact = Contact(f"{self._name}-{self._number:05}")
        table, key = TABLES[system]
        name = COLUMNS[system]["name"]
        value = f"{system}{self._number}"
        self._once(system, f"insert into {table} ({key}, {name}) values (%s, %s)", contact.number, value)
        contact.last[system, "name"] = value
        self.contacts[contact.number] = contact
        return True

    def _change(self, system: str, contact: Contact, name: str | None, value: str | None) -> bool:
        table, key = TABLES[system]
        if name is None:
            return self._once(system, f"delete from {table} where {key} = %s", contact.number)
        column = COLUMNS[system][name]
        to = f"{column} + %s::int" if name == "score" else "%s"
        return self._once(system, f"update {table} set {column} = {to} where {key} = %s", value, contact.number)

    def _once(self, system: str, statement: str, *values: object) -> bool:
        """Make one edit whatever happens to the server; return whether it met a row."""
        for _ in range(50):
            try:
                with self._at.db(system).transaction():
                    known = self._at.execute(
                        system, "insert into test_ledger values (%s) on conflict do nothing", self._number
                    )
                    if not known:
                        return True  # its commit went through, only the answer did not
                    met = self._at.execute(system, statement, *values)
                    if not met:
                        raise psycopg.Rollback
                self.edits += bool(met)
                return bool(met)
            except psycopg.OperationalError:  # the server died: take a new connection, and look in the ledger
                self._at.stack.postgres.wait_healthy(DEADLINE_S)
        raise AssertionError(f"{system} did not come back")

    def check(self) -> None:
        """Fail unless every edit stands in the end, or lost to one that may win."""
        rows = self._at.rows("crm")
        mine = [r for r in rows if r[0].startswith(f"{self._name}-")]
        numbers = [r[0] for r in mine]
        assert len(numbers) == len(set(numbers)), f"twice: {sorted({n for n in numbers if numbers.count(n) > 1})}"
        alive = {n for n, c in self.contacts.items() if not c.deleted}
        assert set(numbers) == alive, f"lost: {sorted(alive - set(numbers))}, undead: {sorted(set(numbers) - alive)}"
        for number, name, city, phone, score in mine:
            contact = self.contacts[number]
            assert city == contact.last.get(("crm", "city")), (number, "city", city, contact)
            assert phone == contact.last.get(("erp", "phone")), (number, "phone", phone, contact)
            assert name in {contact.last.get((s, "name")) for s in TABLES}, (number, "name", name, contact)
            assert score == contact.score, (number, "score", score, contact)
