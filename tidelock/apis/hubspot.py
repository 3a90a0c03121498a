"""HubSpot as producers and sinks need it: calls under its limits, properties, records by id, by list and by search.

A record's version is the time of its last change in milliseconds. When two records are merged, HubSpot gives what is left a new id and leads
the old ones there; for us it keeps the lowest id of all that went into it, so that its link stays, and the others were deleted.
"""

from __future__ import annotations

import email.utils
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidelock.apis.client import ApiClient
from tidelock.apis.hubspot_access import base_of, by_token, grant_of
from tidelock.apis.hubspot_columns import EXTERNAL, KEY, MERGED, columns_of, external
from tidelock.apis.hubspot_errors import judge_of
from tidelock.apis.judging import Answer
from tidelock.apis.records import ApiColumn, Record, micros_of
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant

Row = dict[str, Any]
Filters = list[dict[str, Any]]

OBJECTS = "/crm/v3/objects"
BATCH_MOST = 100
LIST_MOST = 100
SEARCH_MOST = 200
CURRENT = "@id"
"""Among a record's values: the id that HubSpot knows it by now."""
MERGED_AWAY = (1 << 62, 0)
"""The version of an id that was merged into another one: behind everything, for it never comes back."""
_CONTACTS = ("contacts", "contact", "0-1")
_PRIVATE = ((100, 10), 250_000)
_OAUTH = ((110, 10), None)


@dataclass(slots=True)
class Found:
    """What a page of a search says: how many there are, the first of them, and the vendor's time."""

    total: int
    rows: list[Row]
    now_ms: int


@dataclass(slots=True)
class Seen:
    """What reading by id has found: records by key, ids that are not keys (any more) with the key they lead to, ids that lead nowhere."""

    records: dict[str, Record] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    now_ms: int = 0
    """The vendor's time."""


class HubSpot:
    """One tenant's portal."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self.tenant = tenant
        options = tenant.options
        usual = _PRIVATE if by_token(tenant) else _OAUTH
        rate = options.get("rate", usual[0])
        daily = options.get("daily", usual[1])
        spec = LimitSpec(
            concurrency=int(options.get("concurrency", 10)),
            rate=(int(rate[0]), float(rate[1])),
            daily=int(daily) if daily else None,
        )
        # Searches are counted apart from everything else, for the whole portal.
        searches = LimitSpec(rate=(int(options.get("searches_per_s", 5)), 1.0))
        judge = judge_of(str(options.get("timezone", "UTC")))
        make = context.access.client
        grant = grant_of(tenant)
        self.client: ApiClient = make(tenant, base_url=base_of(tenant), grant=grant, judge=judge, limits=spec)
        self._searching: ApiClient = make(
            tenant,
            base_url=base_of(tenant),
            grant=grant,
            judge=judge,
            limits=context.access.limits(tenant, searches, name="search"),
        )
        self._columns: dict[str, dict[str, ApiColumn]] = {}

    # ------------------------------------------------------------------------------------------------ properties

    def columns(self, table: TableSpec, *, writing: bool = False) -> dict[str, ApiColumn]:
        """Return the columns of a kind of objects, and see to it that there is one for our canonical ids.

        It is there when ``canonical_id`` is configured, and for ``writing`` in any case. Raises Fatal.
        """
        name = table.canonical_id or (EXTERNAL if writing else None)
        known = self._columns.get(table.table)
        if known is None or (name is not None and name not in known):
            known = self._columns[table.table] = self._described(table.table, name)
        if name is not None and not (name in known and known[name].unique):
            raise Fatal(
                f"{self.tenant.path}: the property {name} of {table.table} does not require unique values",
                hint="uniqueness is chosen when a property is made: set `canonical_id` to another name, and it is made",
            )
        return known

    def _described(self, kind: str, name: str | None) -> dict[str, ApiColumn]:
        path = f"/crm/v3/properties/{kind}"
        answer = self.send("GET", path, ok=(400, 404), name="properties")
        if answer.status != 200:
            raise Fatal(
                f"{self.tenant.path}: HubSpot has no objects {kind!r}",
                hint="`table` is contacts, companies, deals, products, line_items, tickets, or the type id of a custom object",
            )
        definitions: list[Row] = answer.json()["results"]
        columns = columns_of(definitions)
        if name is None:
            return columns
        if name not in columns:
            made = self.send(
                "POST", path, json=external(definitions, name), repeat=True, ok=(403, 409), name="make property"
            )
            if made.status == 403:
                raise Fatal(
                    f"{self.tenant.path}: {kind} have no property {name}, and the app may not make it",
                    hint=f"give the app the scope crm.schemas.{kind}.write, or make the property yourself: "
                    f"single-line text, internal name {name}, with `Require unique values`",
                )
            again = self.send("GET", path, name="properties").json()["results"]  # 409: another worker was faster
            columns = columns_of(again)
        return columns

    # ------------------------------------------------------------------------------------------------ reading

    def by_ids(self, kind: str, ids: Sequence[str], names: Sequence[str]) -> Seen:
        """Read records by id, at once as they stand. Any number of ids."""
        seen = Seen()
        wanted = [i for i in dict.fromkeys(ids) if _is_id(i)]
        for rows, now_ms in self.batches(kind, wanted, names):
            seen.now_ms = max(seen.now_ms, now_ms)
            for row in rows:
                record = self.record(row, names)
                seen.records[record.key] = record
                seen.merged.update(dict.fromkeys(merged_into(record), record.key))
        seen.missing = [i for i in wanted if i not in seen.records and i not in seen.merged]
        return seen

    def batches(
        self, kind: str, ids: Sequence[str], names: Sequence[str], *, by: str | None = None, archived: bool = False
    ) -> Iterator[tuple[list[Row], int]]:
        """Read rows by id, or by a property that is unique; also return the vendor's time. What is not there is left out."""
        for at in range(0, len(ids), BATCH_MOST):
            body: Row = {
                "inputs": [{"id": i} for i in ids[at : at + BATCH_MOST]],
                "properties": self.asked(names),
                "propertiesWithHistory": [],
            }
            if by is not None:
                body["idProperty"] = by
            params = {"archived": "true"} if archived else None
            path = f"{OBJECTS}/{kind}/batch/read"
            answer = self.send("POST", path, params=params, json=body, repeat=True, name="batch read").json()
            yield answer["results"], millis(answer["completedAt"])

    def pages(
        self, kind: str, names: Sequence[str], *, archived: bool = False, after: str | None = None
    ) -> Iterator[tuple[list[Row], str | None]]:
        """Read the list, page by page, each with the cursor of the next one."""
        params = {"limit": str(LIST_MOST), "properties": ",".join(self.asked(names))}
        if archived:
            params["archived"] = "true"
        while True:
            more = {"after": after} if after else {}
            answer = self.send("GET", f"{OBJECTS}/{kind}", params={**params, **more}, name="list").json()
            after = ((answer.get("paging") or {}).get("next") or {}).get("after")
            yield answer["results"], after
            if after is None:
                return

    def search(
        self, kind: str, filters: Filters, sort: str, *, descending: bool = False, limit: int = SEARCH_MOST
    ) -> Found:
        """Return the first page of a search, with no properties but the system's own: its index is behind, and records are read by id."""
        direction = "DESCENDING" if descending else "ASCENDING"
        body = {
            "filterGroups": [{"filters": filters}] if filters else [],
            "sorts": [{"propertyName": sort, "direction": direction}],
            "properties": ["hs_object_id"],
            "limit": limit,
        }
        answer = self._searching.send("POST", f"{OBJECTS}/{kind}/search", json=body, repeat=True, name="search")
        told = answer.json()
        return Found(int(told["total"]), told["results"], _date_ms(answer))

    def record(self, row: Row, names: Sequence[str] = ()) -> Record:
        """Turn a row into a record; of ``names`` what the row does not have is empty, not absent."""
        properties: Mapping[str, Any] = row.get("properties") or {}
        values: dict[str, Any] = {n: v or None for n, v in properties.items()}
        own = str(row["id"])
        key = min((own, *_ids(properties.get(MERGED))), key=int)
        if row.get("archived"):
            at = str(row.get("archivedAt") or row["updatedAt"])
            return Record(key, {CURRENT: own}, (millis(at), 1), micros_of(at), deleted=True)
        for name in names:
            values.setdefault(name, None)
        values |= {KEY: key, "hs_object_id": key, CURRENT: own}
        changed = str(row["updatedAt"])
        return Record(
            key, values, (millis(changed), 0), micros_of(changed), created=row.get("createdAt") == row["updatedAt"]
        )

    def asked(self, names: Sequence[str]) -> list[str]:
        """Return the properties to ask for: the key is none, and what was merged must be known."""
        return [n for n in dict.fromkeys((*names, MERGED)) if n != KEY]

    # ------------------------------------------------------------------------------------------------ calls

    def send(self, method: str, path: str, **more: Any) -> Answer:
        """Send a call, and take note of what it says is left of the day."""
        answer = self.client.send(method, path, **more)
        left = answer.headers.get("X-HubSpot-RateLimit-Daily-Remaining", "")
        if left.isdecimal():
            self.client.limits.observed(remaining_daily=int(left))
        return answer

    def close(self) -> None:
        """Close connections."""
        self.client.close()
        self._searching.close()


def modified_of(kind: str) -> str:
    """Return the property that holds the time of the last change."""
    return "lastmodifieddate" if kind.lower() in _CONTACTS else "hs_lastmodifieddate"


def merged_into(record: Record) -> list[str]:
    """Return the ids that lead to a record and are not its key: what was merged into it, and what HubSpot calls it since then."""
    others = (*_ids(record.values.get(MERGED)), str(record.values[CURRENT]))
    return [i for i in dict.fromkeys(others) if i != record.key]


def millis(text: str) -> int:
    """Read a time as milliseconds since 1970."""
    return micros_of(text) // 1000


def _ids(text: Any) -> list[str]:
    return [i for i in str(text or "").split(";") if _is_id(i)]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _date_ms(answer: Answer) -> int:
    """Return the time that an answer carries, in whole seconds; 0 if it has none."""
    try:
        return int(email.utils.parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()) * 1000
    except (ValueError, IndexError):
        return 0
