"""A day at the office, in rounds: in every round people in all systems work at once, each system in a thread of its own."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from tidelock.demo import records
from tidelock.demo.portals import Portal
from tidelock.demo.records import COUNTRIES, FIRST_NAMES, LAST_NAMES, account_no, article, order_no, phone
from tidelock.demo.users import Desk, Diary

TYPO = "Untied States"
Worker = Desk | Portal
Action = Callable[[Any], None]  # at a desk or a portal

# Contacts (by number, all of them active and in both CRM and ERP) that are kept for one story each, so that stories do not mix.
_DELETED = range(100, 112)
_TYPO_CONTACT, _REFUSED_CONTACT, _LEAVING = 120, 121, range(122, 128)
# Order of the day for the portals: a bad answer, an answer that is lost after everything was done, one that takes its time.
_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 503, "times": 2},
    {"kind": "lost", "times": 1, "method": "POST|PATCH|PUT"},
    {"kind": "slow", "times": 2, "delay_s": 0.5},
)
_OTHERS = [i for i in range(41, 149) if i not in _DELETED and i not in range(120, 128) and i != records.SHARED_MAILBOX]


class Office:
    """All desks, and what is done at them in each round."""

    def __init__(self, dsns: dict[str, str], portals: Sequence[Portal], seed: int) -> None:
        self.diary = Diary()
        self._rng = random.Random(f"{seed}/office")
        self.desks: dict[str, Worker] = {
            s: Desk(s, dsns["legacy" if s == "directory" else s], self.diary, seed)
            for s in ("crm", "erp", "legacy", "directory")
        }
        self._portals = {p.system: p for p in portals}
        for portal in portals:
            portal.diary = self.diary
        self.desks |= self._portals
        people = random.Random(seed)
        self._emails = [records.person(people, i).email for i in range(260)]
        self._contacts = {s: self.desks[s].keys("contact", "email") for s in ("crm", "erp", "legacy", *self._portals)}
        self._accounts = {s: self.desks[s].keys("account", "number") for s in ("crm", "erp", "legacy")}
        self._orders = {s: self.desks[s].keys("order", "number") for s in ("crm", "erp")}
        self._new = 1000

    def close(self) -> None:
        """Close all desks."""
        for desk in self.desks.values():
            desk.close()

    def round(self, number: int, last: int) -> str:
        """Let people work for one round, in all systems at once; return what was special about it."""
        plan: dict[str, list[Action]] = {s: [] for s in self.desks}
        self._everyday(plan)
        self._at_once(plan)
        self._arrivals(plan, number)
        self._orders_and_stock(plan, number)
        self._portals_work(plan, number)
        story = self._story(plan, number, last)
        start = threading.Barrier(len(plan))
        failures: list[BaseException] = []

        def work(desk: Worker, actions: list[Action]) -> None:
            try:
                start.wait(10)
                for action in actions:
                    action(desk)
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=(self.desks[s], a), name=f"people at {s}") for s, a in plan.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return story

    # --------------------------------------------------------------------------------------------------------- everyday edits

    def _everyday(self, plan: dict[str, list[Action]]) -> None:
        """Single edits all over the place."""
        for system, fields, count in (
            ("crm", ("first_name", "last_name", "phone", "country", "birthday", "credit_limit", "newsletter"), 14),
            ("erp", ("first_name", "last_name", "phone", "country", "birthday", "credit_limit"), 12),
        ):
            for _ in range(count):
                name, key = self._rng.choice(fields), self._contact(system, self._rng.choice(_OTHERS))
                plan[system].append(_edit("contact", key, name, self._value(name)))
        for _ in range(4):
            key = self._contact("legacy", self._rng.choice(range(160, 250)))
            name = self._rng.choice(("phone", "country"))
            plan["legacy"].append(_edit("contact", key, name, self._value(name)))
        for system, name in (("crm", "industry"), ("erp", "balance"), ("legacy", "name")):
            number = account_no(self._rng.choice(range(10, 54)))
            plan[system].append(_edit("account", self._accounts[system][number], name, self._value(name)))
        login = f"u{self._rng.randrange(12, 28):03d}"
        plan["directory"].append(_edit("user", login, "role", self._rng.choice(("admin", "member"))))

    def _at_once(self, plan: dict[str, list[Action]]) -> None:
        """One contact in two systems: the same field with different values, then different fields; and quick double edits."""
        for name in ("phone", "country", "birthday", "credit_limit"):
            i = self._rng.choice(_OTHERS)
            for system in ("crm", "erp"):
                plan[system].insert(0, _edit("contact", self._contact(system, i), name, self._value(name)))
        for _ in range(3):
            i = self._rng.choice(_OTHERS)
            plan["crm"].insert(0, _edit("contact", self._contact("crm", i), "phone", self._value("phone")))
            plan["erp"].insert(0, _edit("contact", self._contact("erp", i), "birthday", self._value("birthday")))
        for system in ("crm", "erp"):
            key = self._contact(system, self._rng.choice(_OTHERS))
            plan[system] += [_edit("contact", key, "last_name", self._value("last_name")) for _ in range(2)]
        number = account_no(self._rng.choice(range(10, 54)))
        for system in ("crm", "erp", "legacy"):
            plan[system].insert(0, _edit("account", self._accounts[system][number], "name", self._value("name")))

    def _arrivals(self, plan: dict[str, list[Action]], number: int) -> None:
        """New contacts, one of them entered in two systems at once; and one that is deleted while the other system edits it."""
        for system in ("crm", "erp"):
            plan[system].append(_create(self._person()))
        both = self._person()
        plan["crm"].insert(0, _create(both))
        plan["erp"].insert(0, _create(replace(both, phone=phone(self._rng, self._next()))))
        gone = _DELETED[number % len(_DELETED)]
        plan["erp"].insert(0, _edit("contact", self._contact("erp", gone), "birthday", self._value("birthday")))
        plan["crm"].append(_delete("contact", self._contact("crm", gone)))
        brief = self._person()
        plan["crm"].append(_brief(brief))

    def _orders_and_stock(self, plan: dict[str, list[Action]], number: int) -> None:
        order = order_no(1000 + number)
        account = account_no(self._rng.choice(range(10, 70)))
        plan["crm"].append(lambda desk: _ignore(desk.create_order(order, account, 3)))
        for _ in range(2):
            shipped = order_no(self._rng.choice(range(20, 70)))
            plan["erp"].append(
                _edit("order", self._orders["erp"][shipped], "status", self._rng.choice(("shipped", "cancelled")))
            )
        changed = order_no(self._rng.choice(range(20, 70)))
        plan["crm"].append(_edit("order", self._orders["crm"][changed], "total", self._value("credit_limit")))
        for system in ("crm", "erp"):
            for _ in range(8):
                sku, by = article(self._rng.choice(range(10, 50))), self._rng.choice((-3, -2, -1, 1, 2, 5))
                plan[system].append(_count(sku, by))

    def _portals_work(self, plan: dict[str, list[Action]], number: int) -> None:
        """In every portal: single edits, one that the CRM makes at the same time, a new contact, now and then a delete, and a fault."""
        for system, portal in self._portals.items():
            there = [i for i in _OTHERS if self._emails[i] in self._contacts[system]]
            for _ in range(4):
                name, i = self._rng.choice(("first_name", "last_name", "phone")), self._rng.choice(there)
                plan[system].append(_edit("contact", self._contact(system, i), name, self._value(name)))
            i = self._rng.choice(there)
            for s in (system, "crm"):
                plan[s].insert(0, _edit("contact", self._contact(s, i), "phone", self._value("phone")))
            new = self._person()
            if portal.place.lives_in(new):
                plan[system].append(_create(new))
            if portal.place.dies and number % 2:
                gone = there[-1 - number]
                plan[system].append(_delete("contact", self._contact(system, gone)))
            fault = _FAULTS[number % len(_FAULTS)]
            plan[system].append(lambda desk, fault=fault: desk.fault(**fault))  # type: ignore[misc]

    def _story(self, plan: dict[str, list[Action]], number: int, last: int) -> str:
        """Do what happens only once."""
        told = "edits of one field in two systems at once, a contact entered twice, a delete against an edit"
        if number == 0:
            plan["erp"].append(_edit("contact", self._contact("erp", _TYPO_CONTACT), "country", TYPO))
            plan["crm"].append(_edit("contact", self._contact("crm", records.SHARED_MAILBOX), "first_name", "Shared"))
            told = f"somebody types {TYPO!r} as a country"
        if number == min(1, last):
            value = records.CREDIT_LIMIT * 5
            plan["crm"].append(_edit("contact", self._contact("crm", _REFUSED_CONTACT), "credit_limit", value))
            told = "a credit limit that the ERP refuses"
        if number == min(2, last):
            key = self._orders["erp"][order_no(3)]
            plan["erp"].append(
                lambda desk: desk.edit("order", key, "note", "scribbled by the warehouse", accepted=False)
            )
            plan["crm"].append(_delete("order", self._orders["crm"][order_no(5)]))
            plan["crm"].append(_delete("order_line", f"{order_no(7)}|2"))
            plan["directory"].append(_delete("user", "u029"))
            plan["directory"].append(lambda desk: desk.create_user("u100"))
            told = "an order is deleted; the warehouse edits what it may not"
        if number == min(3, last):
            for i in _LEAVING[:3]:
                plan["crm"].append(_edit("contact", self._contact("crm", i), "status", "inactive"))
            inactive = replace(self._person(), status="inactive")
            plan["crm"].append(_create(inactive))
            told = "contacts become inactive, which the ERP must not keep as active"
        if number == last:
            plan["erp"].append(_edit("contact", self._contact("erp", _TYPO_CONTACT), "country", "CAN"))
            told = "the country is corrected" if last else told
        return told

    # ------------------------------------------------------------------------------------------------------------------ values

    def _contact(self, system: str, i: int) -> str:
        return self._contacts[system][self._emails[i]]

    def _next(self) -> int:
        self._new += 1
        return self._new

    def _person(self) -> records.Person:
        return replace(records.person(self._rng, self._next()), status="active")

    def _value(self, name: str) -> Any:
        rng = self._rng
        match name:
            case "first_name":
                return rng.choice(FIRST_NAMES)
            case "last_name":
                return f"{rng.choice(LAST_NAMES)}-{self._next()}"
            case "phone":
                return phone(rng, self._next())
            case "country":
                return rng.choice(COUNTRIES)
            case "birthday":
                return dt.date(1950, 1, 1) + dt.timedelta(days=rng.randrange(18_000))
            case "newsletter":
                return rng.random() < 0.5
            case "industry":
                return rng.choice(records.INDUSTRIES)
            case "name":
                return f"{rng.choice(LAST_NAMES)} & {rng.choice(LAST_NAMES)} {self._next()}"
            case _:
                return Decimal(rng.randrange(10_000, 5_000_000)) / 100


def _edit(entity: str, key: str, name: str, value: Any) -> Action:
    return lambda desk: desk.edit(entity, key, name, value)


def _create(p: records.Person) -> Action:
    return lambda desk: _ignore(desk.create_contact(p))


def _brief(p: records.Person) -> Action:
    """Enter a contact and think better of it."""

    def act(desk: Desk) -> None:
        key = desk.create_contact(p)
        if key is not None:
            desk.delete("contact", key)

    return act


def _delete(entity: str, key: str) -> Action:
    return lambda desk: desk.delete(entity, key)


def _count(sku: str, by: int) -> Action:
    return lambda desk: desk.count(sku, by)


def _ignore(_: object) -> None:
    return None
