"""A vendor's system in memory, with a source and a target: what the frames of API connectors are tested with.

Versions are numbers that grow with every change. Pages are small, so that everything has more than one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from producers.api import ApiProducer
from producers.source import Cursor, Page, Task
from sinks.api import ApiSink
from sinks.target import Creation, Edit, Result
from tidelock.apis.records import ApiColumn, Record
from tidelock.avro import FieldType
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Lost, Reject, Retry, Revoked
from tidelock.tenants import Tenant

PAGE = 100
COLUMNS = {name: ApiColumn(name, FieldType.STRING) for name in ("id", "email", "name", "tidelock_id")}


@dataclass(slots=True)
class Row:
    """One record as it stands there."""

    values: dict[str, Any]
    version: int
    deleted: bool = False
    ours: bool = False
    at: int = field(default_factory=lambda: time.time_ns() // 1000)


@dataclass
class Office:
    """One tenant's records. ``down`` and ``revoked`` make every call fail; ``lose`` loses the answers of so many creates."""

    rows: dict[str, Row] = field(default_factory=dict)
    down: bool = False
    revoked: bool = False
    lose: int = 0
    calls: int = 0
    page: int = PAGE
    between: Callable[[], None] | None = None
    """Called once between a target's look and its write."""
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _keys: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self) -> None:
        """Count a call, or fail as ordered."""
        self.calls += 1
        if self.revoked:
            raise Revoked("the key is no longer good", hint="connect the tenant again")
        if self.down:
            raise Retry("no connection", hint="tried again by itself")

    def create(self, values: dict[str, Any], *, ours: bool = False) -> str:
        """Make a record."""
        key = f"r{next(self._keys)}"
        self.rows[key] = Row(
            {"email": None, "name": None, "tidelock_id": None, **values}, next(self._versions), ours=ours
        )
        return key

    def edit(self, key: str, values: dict[str, Any], *, ours: bool = False) -> None:
        """Change a record."""
        row = self.rows[key]
        row.values.update(values)
        row.version, row.ours, row.at = next(self._versions), ours, time.time_ns() // 1000

    def delete(self, key: str, *, ours: bool = False) -> None:
        """Delete a record; it is remembered as deleted."""
        row = self.rows[key]
        row.deleted, row.version, row.ours = True, next(self._versions), ours

    def record(self, key: str) -> Record:
        """Return a record as the API tells it."""
        row = self.rows.get(key)
        if row is None:
            return Record(key, {}, (next(self._versions), 0), 0, deleted=True)
        return Record(key, {"id": key, **row.values}, (row.version, 0), row.at, row.deleted, ours=row.ours)

    def since(self, version: int) -> list[str]:
        """Return the keys changed behind a version, in order."""
        return sorted((k for k, r in self.rows.items() if r.version > version), key=lambda k: self.rows[k].version)

    @property
    def newest(self) -> int:
        """Return the last version there is."""
        return max((r.version for r in self.rows.values()), default=0)


OFFICES: dict[tuple[str, str], Office] = {}
"""The tenants by system and name; tests put them there and take them away."""


def office(tenant: Tenant) -> Office:
    """Return a tenant's office."""
    return OFFICES[tenant.key]


class VendorSource:
    """The source (`producers.source.Source`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._office = office(tenant)

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return all columns."""
        self._office.call()
        return dict(COLUMNS)

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        """Read what lies behind a version; without one, only say which is the last."""
        there = self._office
        if cursor is None:
            there.call()
            yield Page([], {"version": there.newest}, last=True)
            return
        overlaps = kind == "overlap"
        at = int(cursor["version"]) - (50 if overlaps and not cursor.get("begun") else 0)
        more = {"begun": True} if overlaps else {}
        while True:
            there.call()
            keys = there.since(at)[: there.page]
            if not keys:
                yield Page([], {"version": max(at, int(cursor["version"])), **more}, last=True)
                return
            records = [there.record(k) for k in keys]
            at = records[-1].version[0]
            yield Page(records, {"version": at, **more})

    def parts(self, task: Task, where: str | None) -> list[Cursor]:
        """Cut by the number in the key: even and odd."""
        self._office.call()
        return [{"odd": 0, "after": 0}, {"odd": 1, "after": 0}]

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read one half in the order of keys."""
        there, odd, after = self._office, int(part["odd"]), int(part["after"])
        while True:
            there.call()
            numbers = sorted(int(k[1:]) for k, r in there.rows.items() if not r.deleted)
            mine = [n for n in numbers if n % 2 == odd and n > after][: there.page]
            if not mine:
                yield Page([], {"odd": odd, "after": after}, last=True)
                return
            after = mine[-1]
            yield Page([there.record(f"r{n}") for n in mine], {"odd": odd, "after": after})

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single records."""
        self._office.call()
        return [self._office.record(k) for k in keys]

    def close(self) -> None:
        """Nothing is open."""


class VendorTarget:
    """The target (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = True

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._office = office(tenant)

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return all columns."""
        return dict(COLUMNS)

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Read records that are there."""
        self._office.call()
        found = {k: self._office.record(k) for k in keys if k in self._office.rows and not self._office.rows[k].deleted}
        if self._office.between is not None:
            meanwhile, self._office.between = self._office.between, None
            meanwhile()
        return found

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:
        """Find ours."""
        self._office.call()
        wanted = set(canonical_ids)
        return {
            r.values["tidelock_id"]: k
            for k, r in self._office.rows.items()
            if not r.deleted and r.values["tidelock_id"] in wanted
        }

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make records, each with a unique e-mail address."""
        there = self._office
        there.call()
        out = []
        for item in items:
            email = item.values.get("email")
            if email is not None and "@" not in email:
                out.append(Result(error=Reject(f"{email!r} is no e-mail address", kind="bad_email", field="email")))
                continue
            holder = next(
                (k for k, r in there.rows.items() if email and not r.deleted and r.values["email"] == email), None
            )
            if holder is not None:
                out.append(Result(holder, taken=True))
                continue
            key = there.create(item.values, ours=True)
            out.append(Result(key, there.record(key)))
        if there.lose:
            there.lose -= 1
            raise Lost("the answer was lost", hint="it is looked up")
        return out

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change records that are as they were seen."""
        there = self._office
        there.call()
        out = []
        for item in items:
            row = there.rows.get(item.key)
            if row is None or row.deleted:
                out.append(Result(missing=True))
            elif item.seen is not None and item.seen.version[0] != row.version:
                out.append(Result(moved=True))
            else:
                there.edit(item.key, item.values, ours=True)
                out.append(Result(item.key, there.record(item.key)))
        return out

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Delete records."""
        self._office.call()
        for key in keys:
            if key in self._office.rows and not self._office.rows[key].deleted:
                self._office.delete(key, ours=True)
        return [Result(k) for k in keys]

    def close(self) -> None:
        """Nothing is open."""


class VendorProducer(ApiProducer):
    """The capture."""

    source = VendorSource


class VendorSink(ApiSink):
    """The sink."""

    target = VendorTarget
