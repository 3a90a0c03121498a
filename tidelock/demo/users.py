"""The simulated people: what they edit, in the words of their own system, and a diary of all of it for the verification."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg

from tidelock.demo import records
from tidelock.demo.evidence import text
from tidelock.demo.records import ALPHA_2, NAMES, Person

_NAMES = {"crm": ("Carla", "Carlos"), "erp": ("Erik", "Erin"), "legacy": ("Lena",), "directory": ("Dana",)}


@dataclass
class Edit:
    """One thing somebody did, in the hub's terms. ``accepted``: whether the flows take it; ``parked_ok``: it is meant to be refused."""

    number: int
    system: str
    entity: str
    key: str
    op: str  # edit, create, delete, delta
    field: str = ""
    value: str | None = None
    began: float = 0.0
    ended: float = 0.0
    accepted: bool = True


@dataclass
class Diary:
    """Everything that was done, in the order in which it was committed."""

    edits: list[Edit] = field(default_factory=list)
    newest: float = field(default_factory=time.monotonic)
    _numbers: Any = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(
        self,
        began: float,
        system: str,
        entity: str,
        key: str,
        op: str,
        name: str = "",
        value: str | None = None,
        **more: Any,
    ) -> None:
        """Write down what has just been committed."""
        with self._lock:
            self.newest = time.monotonic()
            self.edits.append(
                Edit(next(self._numbers), system, entity, key, op, name, value, began, time.time(), **more)
            )


# Per (system, entity, field): table, key column, SET clause with one placeholder, and how a value in the hub's terms is typed there.
Spell = Callable[[random.Random, Any], Any]


def _same(_: random.Random, value: Any) -> Any:
    return value


def _cents(_: random.Random, value: Any) -> int:
    return int(Decimal(value) * 100)


_SETTERS: dict[tuple[str, str, str], tuple[str, str, str, Spell]] = {
    ("crm", "contact", "first_name"): ("contacts", "id", "first_name = %s", _same),
    ("crm", "contact", "last_name"): ("contacts", "id", "last_name = %s", _same),
    ("crm", "contact", "phone"): ("contacts", "id", "phone = %s", records.spell_phone),
    ("crm", "contact", "country"): ("contacts", "id", "country_code = %s", lambda _, v: ALPHA_2[v]),
    ("crm", "contact", "birthday"): ("contacts", "id", "birthday = %s", _same),
    ("crm", "contact", "status"): ("contacts", "id", "state = %s", lambda _, v: v[0].upper()),
    ("crm", "contact", "credit_limit"): ("contacts", "id", "credit_limit = %s", _same),
    ("crm", "contact", "newsletter"): ("contacts", "id", "newsletter = %s", _same),
    ("erp", "contact", "first_name"): (
        "persons",
        "person_id",
        "full_name = %s || ' ' || split_part(full_name, ' ', 2)",
        _same,
    ),
    ("erp", "contact", "last_name"): (
        "persons",
        "person_id",
        "full_name = split_part(full_name, ' ', 1) || ' ' || %s",
        _same,
    ),
    ("erp", "contact", "phone"): ("persons", "person_id", "tel = %s", records.spell_phone),
    ("erp", "contact", "country"): ("persons", "person_id", "country = %s", lambda r, v: r.choice(NAMES.get(v, (v,)))),
    ("erp", "contact", "birthday"): ("persons", "person_id", "born = to_char(%s::date, 'DD/MM/YYYY')", _same),
    ("erp", "contact", "credit_limit"): ("persons", "person_id", "limit_cents = %s", _cents),
    ("legacy", "contact", "phone"): ("people", "person_no", "phone = %s", lambda r, v: records.spell_phone(r, v, "DE")),
    ("legacy", "contact", "country"): ("people", "person_no", "land = %s", lambda r, v: r.choice(NAMES[v])),
    ("crm", "account", "name"): ("accounts", "id", "name = %s", _same),
    ("crm", "account", "industry"): ("accounts", "id", "industry = %s", _same),
    ("erp", "account", "name"): ("debtors", "debtor_id", "company = %s", _same),
    ("erp", "account", "balance"): ("debtors", "debtor_id", "balance_cents = %s", _cents),
    ("legacy", "account", "name"): ("firms", "firm_no", "firm = %s", _same),
    ("crm", "order", "total"): ("orders", "id", "total = %s", _same),
    ("erp", "order", "status"): (
        "sales_orders",
        "order_key",
        "state = %s",
        lambda _, v: {"pending": "P", "shipped": "S", "cancelled": "X"}[v],
    ),
    ("erp", "order", "note"): ("sales_orders", "order_key", "remark = %s", _same),
    ("directory", "user", "name"): ("logins", "login", "name = %s", _same),
    ("directory", "user", "role"): ("logins", "login", "level = %s", lambda _, v: 1 if v == "admin" else 2),
}
_ACTORS = {("crm", "contact"), ("crm", "account"), ("crm", "order")}


class Desk:
    """One system as its people see it. Not thread-safe: one thread per desk."""

    def __init__(self, system: str, dsn: str, diary: Diary, seed: int) -> None:
        self.system = system
        self.rng = random.Random(f"{seed}/{system}")
        self._diary = diary
        self._connection = psycopg.connect(dsn, autocommit=True, application_name=f"people at {system}")

    def close(self) -> None:
        """Go home."""
        self._connection.close()

    def keys(self, entity: str, name: str) -> dict[str, str]:
        """Return the native key of every record here by the value of one of its fields."""
        rows = self._connection.execute(f'select "{name}", key from canon."{entity}" order by key').fetchall()
        out: dict[str, str] = {}
        for value, key in rows:
            out.setdefault(str(value), str(key))
        return out

    def edit(self, entity: str, key: str, name: str, value: Any, *, accepted: bool = True) -> None:
        """Type a value, given in the hub's terms, into one field of a record; nothing happens if it is gone or has that value."""
        table, key_column, assign, spell = _SETTERS[self.system, entity, name]
        actor = ", changed_by = %s" if (self.system, entity) in _ACTORS else ""
        parameters = [spell(self.rng, value), *([self.rng.choice(_NAMES[self.system])] if actor else []), key]
        shown = text(name, value)
        began = time.time()
        with self._connection.transaction():
            self._connection.execute(f"select from {table} where {key_column}::text = %s for update", [key])
            if name != "phone":  # numbers are always new
                before = self._connection.execute(
                    f'select "{name}" from canon."{entity}" where key = %s', [key]
                ).fetchone()
                if before is None or text(name, before[0]) == shown:
                    return  # to type again what stands there is no edit, and nobody could tell that it was meant as one
            done = self._connection.execute(
                f"update {table} set {assign}{actor} where {key_column}::text = %s", parameters
            )
        if done.rowcount:
            self._diary.note(began, self.system, entity, key, "edit", name, shown, accepted=accepted)

    def count(self, sku: str, by: int) -> None:
        """Book articles in or out."""
        table, column, name = (
            ("stock", "sku", "on_hand") if self.system == "crm" else ("article_stock", "article", "quantity")
        )
        key = "sku" if self.system == "crm" else "stock_id"
        began = time.time()
        row = self._connection.execute(
            f"update {table} set {name} = {name} + %s where {column} = %s returning {key}::text", [by, sku]
        ).fetchone()
        if row:
            self._diary.note(began, self.system, "inventory", row[0], "delta", sku, str(by))

    def create_contact(self, p: Person) -> str | None:
        """Enter a new contact; return its key, or None if it has just arrived here from the other system."""
        row = records.crm_contact(self.rng, p) if self.system == "crm" else records.erp_person(self.rng, p)
        table, key = ("contacts", "id") if self.system == "crm" else ("persons", "person_id")
        try:
            return self._create("contact", table, key, row, p.email)
        except psycopg.errors.UniqueViolation:
            return None

    def create_order(self, number: str, account: str, lines: int) -> str:
        """Enter an order with its lines in one transaction; return its key."""
        total = Decimal(self.rng.randrange(1000, 90_000)) / 100
        head = {"order_no": number, "account_no": account, "order_date": "2026-07-01", "status": "open", "total": total}
        with self._connection.transaction():
            key = self._create("order", "orders", "id", head, number)
            for n in range(1, lines + 1):
                row = {
                    "order_no": number,
                    "line_no": n,
                    "sku": records.article(n),
                    "quantity": n,
                    "unit_price": Decimal("9.90"),
                }
                self._create("order_line", "order_lines", "order_no || '|' || line_no", row, f"{number}|{n}")
        return key

    def create_user(self, login: str) -> None:
        """Enter a new user in the directory."""
        self._create(
            "user",
            "logins",
            "login",
            {"login": login, "name": f"New {login}", "mail": f"{login}@example.com", "level": 2},
            login,
        )

    def delete(self, entity: str, key: str) -> None:
        """Delete a record."""
        table, column = {
            "contact": ("contacts", "id"),
            "order": ("orders", "id"),
            "order_line": ("order_lines", "order_no || '|' || line_no"),
            "user": ("logins", "login"),
        }[entity]
        began = time.time()
        if self._connection.execute(f"delete from {table} where ({column})::text = %s", [key]).rowcount:
            self._diary.note(began, self.system, entity, key, "delete")

    def _create(self, entity: str, table: str, key: str, row: dict[str, Any], value: str) -> str:
        began = time.time()
        names, marks = ", ".join(row), ", ".join(records.placeholder(c) for c in row)
        found = self._connection.execute(
            f"insert into {table} ({names}) values ({marks}) returning ({key})::text", list(row.values())
        ).fetchone()
        assert found is not None
        self._diary.note(began, self.system, entity, found[0], "create", "", value)
        return str(found[0])
