"""What stands in the demo's systems before anybody edits: overlapping records, spelt as each system spells them."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from tidelock.demo.portals import Place

FIRST_NAMES = [
    "Ada",
    "Alan",
    "Barbara",
    "Claude",
    "Dorothy",
    "Edsger",
    "Frances",
    "Grace",
    "Hedy",
    "Ivan",
    "Jean",
    "John",
    "Katherine",
    "Leslie",
    "Margaret",
    "Niklaus",
    "Radia",
    "Sophie",
    "Tim",
    "Whitfield",
]
LAST_NAMES = [
    "Allen",
    "Berners",
    "Borg",
    "Codd",
    "Dahl",
    "Engelbart",
    "Floyd",
    "Gray",
    "Hamilton",
    "Hopper",
    "Iverson",
    "Johnson",
    "Kay",
    "Lamport",
    "Liskov",
    "McCarthy",
    "Naur",
    "Perlman",
    "Ritchie",
    "Shannon",
    "Tarjan",
    "Vaughan",
    "Wilkes",
    "Yao",
]
COUNTRIES = ("USA", "DEU", "GBR", "FRA", "CAN", "ESP", "ITA", "JPN")
ALPHA_2 = {"USA": "US", "DEU": "DE", "GBR": "GB", "FRA": "FR", "CAN": "CA", "ESP": "ES", "ITA": "IT", "JPN": "JP"}
NAMES = {
    "USA": ("United States", "USA", "US"),
    "DEU": ("Germany", "Deutschland"),
    "GBR": ("United Kingdom", "UK", "Great Britain"),
    "FRA": ("France",),
    "CAN": ("Canada",),
    "ESP": ("Spain", "España"),
    "ITA": ("Italy",),
    "JPN": ("Japan",),
}
INDUSTRIES = ("retail", "industry", "services", "public")
CREDIT_LIMIT = Decimal(1_000_000)  # more than the ERP takes

# Who is where, by number: every pair of systems overlaps, and each has records of its own.
CONTACTS = {"crm": range(200), "erp": range(40, 220), "legacy": range(150, 260)}
ACCOUNTS = {"crm": range(70), "erp": range(10, 80), "legacy": range(5, 55)}
ORDERS = {"crm": range(100), "erp": range(70)}
ARTICLES = {"crm": range(50), "erp": range(10, 60)}
LOGINS = {"directory": range(30), "crm": range(10)}
SHARED_MAILBOX = 60  # two contacts of the CRM have this contact's address


@dataclass(frozen=True)
class Person:
    """A contact in the hub's terms."""

    email: str
    first_name: str
    last_name: str
    phone: str | None
    country: str
    birthday: dt.date
    status: str
    credit_limit: Decimal
    newsletter: bool
    account_no: str | None


def account_no(i: int) -> str:
    """Return the number of an account."""
    return f"A-{1000 + i}"


def order_no(i: int) -> str:
    """Return the number of an order."""
    return f"O-{5000 + i}"


def article(i: int) -> str:
    """Return the number of an article."""
    return f"SKU-{100 + i}"


def phone(rng: random.Random, i: int) -> str:
    """Make a number that exists nowhere else, in E.164."""
    if i % 4 == 0:
        return f"+4930{20_000_000 + i * 1000 + rng.randrange(1000)}"
    return f"+1{rng.choice((212, 312, 415))}{rng.choice((234, 367, 489, 678, 742))}{i * 7 % 10_000:04d}"


def person(rng: random.Random, i: int) -> Person:
    """Make a person; the number makes it unlike all others."""
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    return Person(
        email=f"{first}.{last}.{i}@example.com".lower(),
        first_name=first,
        last_name=last,
        phone=phone(rng, i),
        country=rng.choice(COUNTRIES),
        birthday=dt.date(1950, 1, 1) + dt.timedelta(days=rng.randrange(18_000)),
        status="active" if i >= 40 or i % 5 else "inactive",
        credit_limit=Decimal(rng.randrange(100, 50_000)) + Decimal(rng.randrange(100)) / 100,
        newsletter=rng.random() < 0.5,
        account_no=account_no(10 + i % 60),
    )


# ------------------------------------------------------------------------------------------------- how each system spells it


def spell_phone(rng: random.Random, number: str | None, region: str = "US") -> str | None:
    """Spell a number as people of a region type it."""
    if number is None:
        return None
    if number.startswith("+1"):
        area, exchange, line = number[2:5], number[5:8], number[8:]
        if region != "US":
            return f"+1 {area} {exchange} {line}"
        return rng.choice(
            (f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"+1 {area} {exchange} {line}", number)
        )
    rest = number[5:]
    if region == "DE":
        return rng.choice((f"030 {rest}", f"030/{rest}", f"0049 30 {rest}"))
    return f"+49 30 {rest}"


def crm_contact(rng: random.Random, p: Person) -> dict[str, Any]:
    """Return a row of crm.contacts."""
    return {
        "first_name": p.first_name,
        "last_name": p.last_name,
        "email": p.email if rng.random() < 0.8 else p.email.title(),
        "phone": spell_phone(rng, p.phone),
        "country_code": ALPHA_2[p.country],
        "birthday": p.birthday,
        "state": "A" if p.status == "active" else "I",
        "credit_limit": p.credit_limit,
        "newsletter": p.newsletter,
        "account_id": p.account_no,
        "tax_id": f"TAX-{rng.randrange(10**6):06d}",
    }


def erp_person(rng: random.Random, p: Person) -> dict[str, Any]:
    """Return a row of erp.persons."""
    return {
        "full_name": f"{p.first_name} {p.last_name}",
        "mail": p.email,
        "tel": spell_phone(rng, p.phone),
        "country": rng.choice(NAMES[p.country]),
        "born": p.birthday.strftime("%d/%m/%Y"),
        "active": str(int(p.status == "active")),
        "limit_cents": int(p.credit_limit * 100),
        "debtor_id": p.account_no,
    }


def legacy_person(rng: random.Random, p: Person, number: int) -> dict[str, Any]:
    """Return a row of legacy.people."""
    return {
        "person_no": number,
        "full_name": f"{p.last_name}, {p.first_name}",
        "mail": p.email.upper(),
        "phone": spell_phone(rng, p.phone, "DE"),
        "land": rng.choice(NAMES[p.country]),
        "born": p.birthday.strftime("%d.%m.%Y"),
        "stat": int(p.status == "active"),
    }


def _vary(rng: random.Random, p: Person, i: int) -> Person:
    """Return what another system believes of the same person: mostly the same, sometimes older or missing."""
    lot = rng.random()
    if lot < 0.08:
        return replace(p, phone=phone(rng, i + 3000))
    if lot < 0.14:
        return replace(p, country=rng.choice(COUNTRIES))
    if lot < 0.20:
        return replace(p, credit_limit=p.credit_limit + 100)
    if lot < 0.26:
        return replace(p, phone=None)
    return p


# ------------------------------------------------------------------------------------------------------------------- loading


def load(dsns: dict[str, str], seed: int) -> None:
    """Fill the systems' tables."""
    rng = random.Random(seed)
    people = {i: person(rng, i) for i in range(260)}
    with (
        psycopg.connect(dsns["crm"]) as crm,
        psycopg.connect(dsns["erp"]) as erp,
        psycopg.connect(dsns["legacy"]) as legacy,
    ):
        _accounts(rng, crm, erp, legacy)
        rows = [crm_contact(rng, people[i]) for i in CONTACTS["crm"]]
        other = replace(person(rng, 900), email=people[SHARED_MAILBOX].email, account_no=None)
        insert(crm, "contacts", [*rows, crm_contact(rng, other)])
        insert(erp, "persons", [erp_person(rng, _vary(rng, people[i], i)) for i in CONTACTS["erp"]])
        insert(legacy, "people", [legacy_person(rng, _vary(rng, people[i], i), 7000 + i) for i in CONTACTS["legacy"]])
        _orders(rng, crm, erp)
        stock = {i: (rng.randrange(50, 500), rng.randrange(5, 50)) for i in range(60)}
        insert(
            crm,
            "stock",
            [{"sku": article(i), "on_hand": stock[i][0], "reorder_at": stock[i][1]} for i in ARTICLES["crm"]],
        )
        insert(
            erp,
            "article_stock",
            [{"article": article(i), "quantity": stock[i][0], "min_quantity": stock[i][1]} for i in ARTICLES["erp"]],
        )
        _users(rng, crm, legacy)


def in_portal(place: Place, seed: int) -> list[Person]:
    """Return who stands in a portal at the start: people of the CRM and the ERP, as this portal knows them."""
    rng = random.Random(seed)
    people = [person(rng, i) for i in range(260)]
    own = random.Random(f"{seed}/{place.label}")
    return [p for p in (_vary(own, people[i], i) for i in place.people if i != SHARED_MAILBOX) if place.lives_in(p)]


# Columns that hold another row's key: people choose it by its number.
_LOOKUPS: dict[str, LiteralString] = {
    "account_id": "(select id from accounts where account_no = %s)",
    "debtor_id": "(select debtor_id from debtors where debtor_no = %s)",
}


def placeholder(column: str) -> LiteralString:
    """Return what stands for a column's value in an INSERT."""
    return _LOOKUPS.get(column, "%s")


def insert(connection: psycopg.Connection[Any], table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that have the same columns."""
    names = list(rows[0])
    query = sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.SQL(placeholder(n)) for n in names),
    )
    with connection.cursor() as cursor:
        cursor.executemany(query, [list(row.values()) for row in rows])


def _accounts(rng: random.Random, crm: Any, erp: Any, legacy: Any) -> None:
    known = {
        i: (
            f"{LAST_NAMES[i % len(LAST_NAMES)]} {rng.choice(('Works', 'Trading', 'Systems', 'Partners'))} {i}",
            rng.choice(COUNTRIES),
            rng.choice(INDUSTRIES),
        )
        for i in range(80)
    }
    insert(
        crm,
        "accounts",
        [
            {
                "account_no": account_no(i),
                "name": known[i][0],
                "country_code": ALPHA_2[known[i][1]],
                "industry": known[i][2],
            }
            for i in ACCOUNTS["crm"]
        ],
    )
    insert(
        erp,
        "debtors",
        [
            {
                "debtor_no": account_no(i),
                "company": known[i][0] if i % 9 else f"{known[i][0]} Ltd",
                "country": rng.choice(NAMES[known[i][1]]),
                "branch": known[i][2].upper(),
                "balance_cents": rng.randrange(1_000_000),
            }
            for i in ACCOUNTS["erp"]
        ],
    )
    insert(
        legacy,
        "firms",
        [
            {"customer": account_no(i), "firm": known[i][0], "land": rng.choice(NAMES[known[i][1]])}
            for i in ACCOUNTS["legacy"]
        ],
    )


def _orders(rng: random.Random, crm: Any, erp: Any) -> None:
    crm_states = {"P": "open", "S": "shipped", "X": "cancelled"}
    heads: dict[str, list[dict[str, Any]]] = {"crm": [], "erp": []}
    lines: dict[str, list[dict[str, Any]]] = {"crm": [], "erp": []}
    for i in ORDERS["crm"]:
        day = dt.date(2026, 1, 1) + dt.timedelta(days=rng.randrange(200))
        state, total, account = rng.choice("PPPSSX"), rng.randrange(1000, 900_000), account_no(10 + i % 60)
        note = rng.choice(
            (None, "call before delivery", "leave at the gate; the dog is friendly, most of the time", "")
        )
        heads["crm"].append(
            {
                "order_no": order_no(i),
                "account_no": account,
                "order_date": day,
                "status": crm_states[state],
                "total": Decimal(total) / 100,
                "note": note,
            }
        )
        if i in ORDERS["erp"]:
            heads["erp"].append(
                {
                    "order_no": order_no(i),
                    "debtor_no": account,
                    "order_dt": day.strftime("%d/%m/%Y"),
                    "state": state,
                    "total_cents": total,
                    "remark": note[:40] if note else None,
                }
            )
        for n in (1, 2):
            sku, quantity, cents = article(rng.randrange(60)), rng.randrange(1, 9), rng.randrange(100, 50_000)
            lines["crm"].append(
                {
                    "order_no": order_no(i),
                    "line_no": n,
                    "sku": sku,
                    "quantity": quantity,
                    "unit_price": Decimal(cents) / 100,
                }
            )
            if i in ORDERS["erp"]:
                lines["erp"].append(
                    {"order_no": order_no(i), "pos": n, "article": sku, "qty": quantity, "price_cents": cents}
                )
    insert(crm, "orders", heads["crm"])
    insert(erp, "sales_orders", heads["erp"])
    insert(crm, "order_lines", lines["crm"])
    insert(erp, "sales_order_lines", lines["erp"])


def _users(rng: random.Random, crm: Any, legacy: Any) -> None:
    def rows(numbers: Iterable[int], *, outdated: bool) -> list[dict[str, Any]]:
        out = []
        for i in numbers:
            name = f"{FIRST_NAMES[i % len(FIRST_NAMES)]} {LAST_NAMES[i % len(LAST_NAMES)]}"
            out.append(
                {"login": f"u{i:03d}", "name": name.upper() if outdated else name, "mail": f"u{i:03d}@example.com"}
            )
        return out

    insert(
        legacy,
        "logins",
        [{**r, "level": 1 + (n % 5 > 0)} for n, r in enumerate(rows(LOGINS["directory"], outdated=False))],
    )
    insert(
        crm,
        "app_users",
        [
            {"login": r["login"], "full_name": r["name"], "email": r["mail"], "role": rng.choice(("admin", "member"))}
            for r in rows(LOGINS["crm"], outdated=True)
        ],
    )
