"""One tenant's Salesforce org as producers and sinks need it: calls, objects, queries, records by id, and the org's own time.

Times in Salesforce are whole seconds, so two states of a record can share one. Only states of seconds that are over by the org's own
clock (the ``Date`` of its answers, never this machine's) are told; then one time means one state, and it can be the record's version.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from tidelock.apis.client import Answer, ApiClient
from tidelock.apis.records import ApiColumn, Record, micros_of
from tidelock.apis.salesforce_access import grant_of, instance_url, user_of
from tidelock.apis.salesforce_columns import Described, described
from tidelock.apis.salesforce_errors import is_id, judge, long_id
from tidelock.avro import FieldType
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant

T = TypeVar("T")
Row = dict[str, Any]

VERSION = "66.0"
CLIENT = "tidelock"
PAGE = 2000
"""Records of one query page, and of one read by id."""
SETTLED_S = 2
"""A time this old by the org's clock stands for one state; one second would do if its machines agreed exactly."""
_CONCURRENCY = 20
_TIMEOUT_S = 120.0
_LONGEST_LIST = 12_000  # characters of a list in a query: an address has at most 16,384 bytes
_USAGE = re.compile(r"(?<![\w-])api-usage=(\d+)/(\d+)")
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Salesforce:
    """One org. Not thread-safe."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self.tenant = tenant
        options = tenant.options
        self.version = str(options.get("version", VERSION))
        self._daily = int(options["daily"]) if options.get("daily") else None
        self.client_name = str(options.get("client", CLIENT))
        headers = {"Sforce-Call-Options": f"client={self.client_name}"}
        if options.get("allow_duplicates", False):
            headers["Sforce-Duplicate-Rule-Header"] = "allowSave=true"
        self.client: ApiClient = context.access.client(
            tenant,
            base_url=lambda token: instance_url(tenant, token),
            grant=grant_of(tenant),
            judge=judge,
            limits=LimitSpec(concurrency=int(options.get("concurrency", _CONCURRENCY)), daily=self._daily),
            headers=headers,
            timeout_s=float(options.get("timeout_s", _TIMEOUT_S)),
        )
        self._described: dict[str, Described] = {}
        self._clock: tuple[float, float] | None = None
        self._user: str | None = None

    def close(self) -> None:
        """Close connections."""
        self.client.close()

    # ------------------------------------------------------------------------------------------------ calls

    def send(self, method: str, path: str, **more: Any) -> Answer:
        """Send a call to the REST API, and learn the org's time and what is left of its calls."""
        answer = self.client.send(method, f"/services/data/v{self.version}/{path}", **more)
        self._learn(answer)
        return answer

    def get(self, method: str, path: str, **more: Any) -> Any:
        """Send a call and return the JSON of its answer, with numbers that have lost no digit."""
        answer = self.send(method, path, **more)
        try:
            return _decode(answer.content)
        except msgspec.DecodeError:
            return answer.json()  # says what is wrong with it

    def raw(self, method: str, path: str, **more: Any) -> Answer:
        """Send a call outside of the REST API that does not count against the org's calls."""
        answer = self.client.send(method, path, cost=0, **more)
        self._learn(answer)
        return answer

    def _learn(self, answer: Answer) -> None:
        told = answer.headers.get("Date")
        if told:
            self._clock = email.utils.parsedate_to_datetime(told).timestamp(), time.monotonic()
        used = _USAGE.search(answer.headers.get("Sforce-Limit-Info", ""))
        if used is not None and self._daily is None:
            most, left = int(used[2]), int(used[2]) - int(used[1])
            limits = self.client.limits
            if limits.spec.daily != most:
                limits.spec = dataclasses.replace(limits.spec, daily=most)
            limits.observed(remaining_daily=max(0, left))

    # ------------------------------------------------------------------------------------------------ time

    def time(self) -> int:
        """Ask the org what time it is, in seconds since 1970. The call is one that does not count."""
        self.raw("GET", "/services/data", name="time")
        return self.now()

    def now(self) -> int:
        """Return the org's time as far as its last answer tells: never later than it is there. Raises Retry if it tells none."""
        if self._clock is None:
            self.raw("GET", "/services/data", name="time")
        if self._clock is None:
            raise Retry(
                f"{self.tenant.path}: its answers do not tell the time (no Date header)",
                hint="a proxy strips the header: let it pass",
            )
        told, at = self._clock
        return int(told + max(0.0, time.monotonic() - at - 0.5))

    def settled(self) -> int:
        """Return the last second that is over by the org's clock; ask before reading."""
        return self.now() - SETTLED_S

    # ------------------------------------------------------------------------------------------------ objects

    def describe(self, name: str) -> Described:
        """Return an object as the org describes it to our user. Raises Fatal if it has none of the name."""
        known = self._described.get(name)
        if known is None:
            try:
                answer = self.get("GET", f"sobjects/{name}/describe", name="describe")
            except (Reject, Fatal) as error:
                raise Fatal(
                    f"{self.tenant.path}: there is no object {name!r} that our user may read ({error.message})",
                    hint="correct `table`, or give the user the right to read the object",
                ) from error
            known = self._described[name] = described(answer, self.tenant.path)
        return known

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return an object's columns; ``id`` may be written for ``Id``. Raises Fatal."""
        columns = dict(self.describe(table.table).columns)
        for name in table.key:
            if name not in columns and name.lower() == "id":
                columns[name] = ApiColumn(name, FieldType.STRING, "salesforce id", writable=False)
        return columns

    def user(self) -> str | None:
        """Return the id of the user that we are there."""
        if self._user is None:  # other credentials make another object of this class
            found = user_of(self.client.token())
            self._user = long_id(found) if found else None
        return self._user

    def selected(self, thing: Described, names: Sequence[str]) -> list[str]:
        """Return the fields to ask for: those wanted, and those that tell state and time."""
        return list(dict.fromkeys([*thing.system, *(n for n in names if n in thing.columns)]))

    # ------------------------------------------------------------------------------------------------ reading

    def query(self, soql: str, *, deleted: bool = False) -> tuple[list[Row], bool]:
        """Return the first page of a query, and whether it is all. With ``deleted``, what is in the Recycle Bin is found, too."""
        path = "queryAll" if deleted else "query"
        page = self.get("GET", path, params={"q": soql}, name=path)
        return page["records"], bool(page["done"])

    def count(self, name: str) -> int:
        """Return about how many records an object has; the org counts them from time to time."""
        found = self.get("GET", "limits/recordCount", params={"sObjects": name}, name="recordCount")["sObjects"]
        return int(found[0]["count"]) if found else 0

    def rows(self, thing: Described, keys: Sequence[str], names: Sequence[str]) -> dict[str, Row]:
        """Read records by id, 2,000 per call; those that are not there (any more) are left out."""
        out: dict[str, Row] = {}
        fields = self.selected(thing, names)
        ids = [long_id(k) for k in dict.fromkeys(keys) if is_id(k)]
        for part in cut(ids, PAGE):
            found = self.get(
                "POST",
                f"composite/sobjects/{thing.name}",
                json={"ids": list(part), "fields": fields},
                repeat=True,
                name="read",
            )
            out.update({row["Id"]: row for row in found if row is not None})
        return out

    def removed(self, thing: Described, keys: Sequence[str]) -> dict[str, Row]:
        """Return those of these records that are in the Recycle Bin, with their times."""
        out: dict[str, Row] = {}
        fields = ", ".join(thing.system)
        for part in lists([long_id(k) for k in dict.fromkeys(keys) if is_id(k)]):
            rows, _ = self.query(
                f"SELECT {fields} FROM {thing.name} WHERE IsDeleted = true AND Id IN ({part})", deleted=True
            )
            out.update({row["Id"]: row for row in rows})
        return out

    def record(self, thing: Described, row: Mapping[str, Any]) -> Record:
        """Turn a row into a record; a deleted one stands above every state that it had in the second of its end."""
        stamp, gone = micros_of(str(row[thing.stamp])), bool(row.get("IsDeleted") in (True, "true"))
        changed, author = row.get("LastModifiedDate"), row.get("LastModifiedById")
        return Record(
            row["Id"],
            {} if gone else row,
            (stamp, 1 if gone else 0),
            micros_of(str(changed)) if changed else stamp,
            deleted=gone,
            created=row.get("CreatedDate") == row[thing.stamp],
            ours=author is not None and author == self.user(),
            actor=author,
        )

    # ------------------------------------------------------------------------------------------------ windows

    def window(self, what: str, name: str, start: int, end: int) -> Mapping[str, Any]:
        """Return what was ``updated`` or ``deleted`` between two whole minutes. Raises Reject with the vendor's code as its kind."""
        params = {"start": iso(start, "+00:00"), "end": iso(end, "+00:00")}
        found: Mapping[str, Any] = self.get("GET", f"sobjects/{name}/{what}/", params=params, name=what)
        return found


def stamp_of(row: Mapping[str, Any], thing: Described) -> int:
    """Return when a row was last touched, in seconds since 1970."""
    return micros_of(str(row[thing.stamp])) // 1_000_000


def iso(at: float, zone: str = "Z") -> str:
    """Spell seconds since 1970 as queries and windows take them."""
    return dt.datetime.fromtimestamp(int(at), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S") + zone


def quoted(text: str) -> str:
    """Spell a text as a literal of SOQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def lists(texts: Sequence[str]) -> Iterator[str]:
    """Spell texts as lists of literals, none longer than an address may be."""
    part, size = list[str](), 0
    for text in texts:
        literal = quoted(text)
        cost = len(literal.encode()) + 4 + 2 * literal.count("\\")
        if part and size + cost > _LONGEST_LIST:
            yield ",".join(part)
            part, size = [], 0
        part.append(literal)
        size += cost
    if part:
        yield ",".join(part)


def cut(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most so many."""
    return (items[at : at + most] for at in range(0, len(items), most))
