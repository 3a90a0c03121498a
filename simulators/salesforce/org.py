"""The org: its objects, records, users, rules and feed of events, and the time in which writes become visible."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulators.clock import Clock
from simulators.faults import Faults
from simulators.salesforce import ids
from simulators.salesforce.errors import not_found, unknown_type
from simulators.salesforce.feed import Feed
from simulators.salesforce.schema import Kind
from simulators.salesforce.standard import kinds
from simulators.salesforce.tables import Row, Table
from simulators.salesforce.times import stamp

_KEPT = 100_000


@dataclass(slots=True)
class Rule:
    """A duplicate rule: records of a kind that agree in all of ``fields`` are doubles. ``action`` is alert or block."""

    kind: str
    fields: tuple[str, ...]
    action: str = "alert"
    name: str = "Standard_Rule"


@dataclass(slots=True)
class Held:
    """What happens when a transaction that commits late commits."""

    rows: list[tuple[Table, str, str]]
    """Table, id, and the modification time that nobody sees yet."""
    then: Callable[[], None]


class Org:
    """One org's data, without any notion of requests."""

    def __init__(self, clock: Clock, faults: Faults, name: str) -> None:
        self.clock = clock
        self.faults = faults
        self.name = name
        self.pod = f"gK0{sum(map(ord, name)) % 900 + 100}"[:5]
        self.feed = Feed()
        self.wake_at: Callable[[float], None] = lambda _: None
        """Called with a time at which `settle` is to be called."""
        self.start()

    def start(self) -> None:
        """Begin again with an empty org: three users, no records."""
        heard = self.feed.heard
        self.feed = Feed(heard)
        self.tables: dict[str, Table] = {}
        self.prefixes: dict[str, Table] = {}
        self.rules: list[Rule] = []
        self.writes: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self.earliest_deletion = 0.0
        self._lower: dict[str, Table] = {}
        self._numbers: dict[str, int] = {}
        self._held: list[tuple[float, int, Held]] = []
        self._order = 0
        for kind in kinds():
            self.add_kind(kind)
        self.id = self.new_id(self.tables["Organization"].kind)
        self.integration = self._user("integration", "Integration", "Tidelock")
        self.person = self._user("sam", "Sam", "Seller")
        self.admin = self._user("admin", "Ada", "Admin")
        row = {
            **self._base(self.tables["Organization"].kind, self.id, self.admin),
            "Name": self.name,
            "IsSandbox": False,
            "OrganizationType": "Enterprise Edition",
            "InstanceName": "SIM1",
            "LanguageLocaleKey": "en_US",
            "TimeZoneSidKey": "GMT",
        }
        self.tables["Organization"].put(row)

    def _user(self, alias: str, first: str, last: str) -> str:
        kind = self.tables["User"].kind
        id_ = self.new_id(kind)
        row = {
            **self._base(kind, id_, id_),
            "Username": self.username(alias),
            "FirstName": first,
            "LastName": last,
            "Name": f"{first} {last}",
            "Email": f"{alias}@{self.name}.example",
            "Alias": alias[:8],
            "IsActive": True,
            "TimeZoneSidKey": "GMT",
            "LocaleSidKey": "en_US",
            "EmailEncodingKey": "UTF-8",
            "LanguageLocaleKey": "en_US",
            "ProfileId": ids.make("00e", self.pod, 1),
            "UserType": "Standard",
        }
        self.tables["User"].put(row)
        return id_

    def username(self, alias: str) -> str:
        """Return the username of one of the users the org starts with."""
        return f"{alias}@{self.name}.example"

    def _base(self, kind: Kind, id_: str, user: str) -> Row:
        now = stamp(self.clock.now())
        return {
            **dict.fromkeys(kind.fields),
            "Id": id_,
            "IsDeleted": False,
            "CreatedDate": now,
            "CreatedById": user,
            "LastModifiedDate": now,
            "LastModifiedById": user,
            "SystemModstamp": now,
        }

    def add_kind(self, kind: Kind) -> Table:
        """Add an object."""
        table = Table(kind)
        self.tables[kind.name] = self._lower[kind.name.lower()] = self.prefixes[kind.prefix] = table
        return table

    def new_id(self, kind: Kind) -> str:
        """Return the next id of an object."""
        number = self._numbers[kind.prefix] = self._numbers.get(kind.prefix, 0) + 1
        return ids.make(kind.prefix, self.pod, number)

    def next_number(self, name: str) -> int:
        """Return the next number of a counter, for example of orders."""
        number = self._numbers[name] = self._numbers.get(name, 99) + 1
        return number

    def find(self, name: str) -> Table | None:
        """Return an object's table by name in whatever case, None if there is none."""
        return self.tables.get(name) or self._lower.get(name.lower())

    def resource(self, name: str) -> Table:
        """Return the table named in a path. Raises Refusal (404)."""
        table = self.find(name)
        if table is None:
            raise not_found()
        return table

    def typed(self, name: str) -> Table:
        """Return the table named in a query or a record. Raises Refusal (INVALID_TYPE)."""
        table = self.find(name)
        if table is None:
            raise unknown_type(name)
        return table

    def row_of(self, id_: str) -> Row | None:
        """Return the row with this id, of whatever object, as readers see it."""
        table = self.prefixes.get(id_[:3])
        return table.seen(id_) if table is not None else None

    # Late commits.

    def hold(self, until: float, rows: list[tuple[Table, str, Row | None]], then: Callable[[], None]) -> None:
        """Hide what was written until a time; then call ``then``."""
        held = []
        for table, id_, old in rows:
            if (known := table.hidden.get(id_)) is not None:
                table.hidden[id_] = (max(until, known[0]), known[1])
            else:
                table.hidden[id_] = (until, old)
            held.append((table, id_, table.rows[id_]["SystemModstamp"]))
        self._order += 1
        heapq.heappush(self._held, (until, self._order, Held(held, then)))
        self.wake_at(until)

    def settle(self) -> None:
        """Show what has committed by now."""
        now = self.clock.now()
        while self._held and self._held[0][0] <= now:
            _, _, held = heapq.heappop(self._held)
            for table, id_, _ in held.rows:
                if (known := table.hidden.get(id_)) is not None and known[0] <= now:
                    del table.hidden[id_]
            held.then()

    def oldest_open(self) -> str | None:
        """Return the earliest modification time that is not visible yet: nothing at or after it is complete."""
        times = [at for _, _, held in self._held for _, _, at in held.rows]
        return min(times, default=None)
