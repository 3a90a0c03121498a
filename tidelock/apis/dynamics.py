"""Dynamics 365 / Dataverse 9.2 as producers and sinks need it: signing in, columns from its metadata, reading, what its answers mean.

A row's ``versionnumber`` grows with every change in the whole organisation, so it orders the states of one row exactly. Sources: Microsoft
Learn, "Use the Microsoft Dataverse Web API" (change tracking, conditional operations, batch, api-limits).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tidelock.apis.client import ApiClient
from tidelock.apis.judging import Answer, judge, sentence
from tidelock.apis.multipart import Part, decode_batch, encode_batch
from tidelock.apis.records import ApiColumn, Record, decimal_text, micros_of, moment
from tidelock.auth import ClientCredentials, Grant, RefreshToken
from tidelock.avro import FieldType
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry, TidelockError
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant

API = "/api/data/v9.2"
LOGIN = "https://login.microsoftonline.com"
READ_MOST = 100  # rows by key in one call: what fits into a URL
PAGE = 5000
BATCH_MOST = 500  # of at most 1000: answers with rows in them grow large
TAG = "tidelock"
EXPIRED = "0x80044352"
_SYSTEM = ("versionnumber", "modifiedon", "createdon", "_modifiedby_value")
_WAITS = frozenset(("0x80072322", "0x80072321", "0x80072326"))  # service protection
_PASSING = frozenset(("0x80044151", "0x80044150"))  # SQL time-out, deadlock
_TAKEN = frozenset(("0x80060892",))
_KINDS = {
    "0x80040333": "duplicate",
    "0x80044331": "too_long",
    "0x80040217": "missing",
    "0x80040220": "forbidden",
    "0x80048d19": "bad_value",
}


def _utc(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(value: Any) -> Any:
    number = float(str(value))
    return int(number) if number == int(number) else number


_TYPES: dict[str, tuple[FieldType, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "Integer": (FieldType.INTEGER, int, int),
    "BigInt": (FieldType.INTEGER, int, int),
    "Picklist": (FieldType.INTEGER, int, int),
    "State": (FieldType.INTEGER, int, int),
    "Status": (FieldType.INTEGER, int, int),
    "Double": (FieldType.NUMBER, float, float),
    "Decimal": (FieldType.DECIMAL, decimal_text, _number),
    "Money": (FieldType.DECIMAL, decimal_text, _number),
    "Boolean": (FieldType.BOOLEAN, bool, bool),
    "DateTime": (FieldType.TIMESTAMP, moment, _utc),
    "Date": (FieldType.DATE, dt.date.fromisoformat, lambda value: value.isoformat()),
}
_TEXT: tuple[FieldType, Callable[[Any], Any], Callable[[Any], Any]] = (FieldType.STRING, str, str)
LOOKUPS = frozenset(("Lookup", "Customer", "Owner"))


class Entity:
    """What the organisation says of one table: its set, its key, its columns, and where its lookups lead."""

    def __init__(
        self,
        name: str,
        definition: Mapping[str, Any],
        attributes: Sequence[Mapping[str, Any]],
        relations: Sequence[Mapping[str, Any]],
    ) -> None:
        self.name = name
        self.set: str = definition["EntitySetName"]
        self.key: str = definition["PrimaryIdAttribute"]
        self.tracked = bool(definition.get("ChangeTrackingEnabled", True))
        self.columns: dict[str, ApiColumn] = {}
        self.lookups: dict[str, list[tuple[str, str]]] = {}
        for attribute in attributes:
            kind, column = str(attribute.get("AttributeType")), str(attribute["LogicalName"])
            if not attribute.get("IsValidForRead", True):
                continue
            if kind == "DateTime" and attribute.get("Format") == "DateOnly":
                kind = "Date"
            field, load, dump = _TYPES.get(kind, _TEXT)
            if kind == "Uniqueidentifier" or kind in LOOKUPS:
                load = dump = lambda value: str(value).lower()
            writable = bool(attribute.get("IsValidForCreate", True) or attribute.get("IsValidForUpdate", True))
            self.columns[column] = ApiColumn(column, field, kind, load, dump, writable=writable)
            if kind in LOOKUPS:
                self.lookups[column] = []
        for relation in relations:
            column = str(relation["ReferencingAttribute"])
            if column in self.lookups:
                target = str(relation["ReferencedEntity"])
                self.lookups[column].append((target, str(relation["ReferencingEntityNavigationPropertyName"])))

    def selected(self, names: Sequence[str]) -> str:
        """Return what to put behind $select, with what every record needs."""
        return ",".join(dict.fromkeys([*(self.property(n) for n in names), self.key, *_SYSTEM]))

    def property(self, column: str) -> str:
        """Return how a column is called in rows."""
        return f"_{column}_value" if column in self.lookups else column

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's values by column."""
        out = {}
        for name, value in row.items():
            if "@" in name:
                continue
            column = name[1:-6] if name.startswith("_") and name.endswith("_value") else name
            out[column] = value
        return out


class Dataverse:
    """One tenant's environment."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self.tenant = tenant
        options = tenant.options
        if not tenant.url:
            raise Fatal(
                f"{tenant.path} has no address", hint=f"set `url` of {tenant.path}: https://example.crm.dynamics.com"
            )
        self.url = tenant.url.rstrip("/")
        self.path = str(options.get("path", API))
        directory = tenant.credentials.get("tenant") or options.get("directory")
        token_url = str(options.get("token_url") or f"{options.get('login', LOGIN)}/{directory}/oauth2/v2.0/token")
        if not directory and "token_url" not in options:
            raise Fatal(
                f"{tenant.path} has no directory to sign in at",
                hint=f"set the credential `tenant` of {tenant.path}: the id of the Microsoft Entra directory",
            )
        scope = {"scope": f"{self.url}/.default"}
        grant: Grant = (
            RefreshToken(token_url, {"scope": f"{self.url}/.default offline_access"})
            if "refresh_token" in tenant.credentials
            else ClientCredentials(token_url, parameters=scope)
        )
        rate = options.get("rate", (5400, 300))
        self.client: ApiClient = context.access.client(
            tenant,
            base_url=self.url + self.path,
            grant=grant,
            judge=_judge,
            limits=LimitSpec(
                concurrency=int(options.get("concurrency", 20)),
                rate=(int(rate[0]), float(rate[1])),
                daily=int(options["daily"]) if options.get("daily") else None,
            ),
            headers={"OData-MaxVersion": "4.0", "OData-Version": "4.0", "Accept": "application/json"},
            timeout_s=float(options.get("timeout_s", 120.0)),
        )
        self._entities: dict[str, Entity] = {}
        self._me: str | None = None

    @property
    def me(self) -> str:
        """Return the id of the user that we are there."""
        if self._me is None:
            self._me = str(self.client.send("GET", "/WhoAmI", name="WhoAmI").json()["UserId"]).lower()
        return self._me

    def entity(self, table: TableSpec) -> Entity:
        """Return what the organisation says of a configured table. Raises Fatal if it does not have it."""
        return self.named(table.table)

    def named(self, name: str) -> Entity:
        """Return what the organisation says of a table by its logical name. Raises Fatal if it does not have it."""
        known = self._entities.get(name)
        if known is None:
            what = f"/EntityDefinitions(LogicalName='{name}')"
            head = self.client.send(
                "GET",
                what,
                params={"$select": "EntitySetName,PrimaryIdAttribute,ChangeTrackingEnabled"},
                ok=(404,),
                name="metadata",
            )
            if head.status == 404:
                raise Fatal(
                    f"{self.tenant.path}: there is no table {name!r}",
                    hint="`table` is the table's logical name, in the singular, such as contact or account",
                )
            attributes = self.client.send("GET", f"{what}/Attributes", name="metadata").json()["value"]
            fields = {"$select": "ReferencingAttribute,ReferencedEntity,ReferencingEntityNavigationPropertyName"}
            relations = self.client.send(
                "GET", f"{what}/ManyToOneRelationships", params=fields, name="metadata"
            ).json()["value"]
            known = self._entities[name] = Entity(name, head.json(), attributes, relations)
        return known

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return a table's columns. Raises Fatal."""
        return self.entity(table).columns

    def pages(
        self, link: str, params: Mapping[str, Any] | None = None, *, prefer: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Read page after page, each with its ``@odata.nextLink`` or the end."""
        headers = {"Prefer": prefer or f"odata.maxpagesize={PAGE}"}
        while True:
            page: dict[str, Any] = self.client.send("GET", link, params=params, headers=headers, name="list").json()
            yield page
            link, params = page.get("@odata.nextLink", ""), None
            if not link:
                return

    def by_ids(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Read rows by key; those that are not there are left out."""
        entity, out = self.entity(table), dict[str, Record]()
        wanted = list(dict.fromkeys(k.lower() for k in keys if _is_guid(k)))
        for at in range(0, len(wanted), READ_MOST):
            quoted = ",".join(f"'{k}'" for k in wanted[at : at + READ_MOST])
            condition = f"Microsoft.Dynamics.CRM.In(PropertyName='{entity.key}',PropertyValues=[{quoted}])"
            for page in self.pages(f"/{entity.set}", {"$select": entity.selected(names), "$filter": condition}):
                for row in page["value"]:
                    record = self.record(entity, row)
                    out[record.key] = record
        return out

    def newest(self, entity: Entity) -> int:
        """Return the highest version there is in a table."""
        params = {"$select": "versionnumber", "$orderby": "versionnumber desc", "$top": "1"}
        rows = self.client.send("GET", f"/{entity.set}", params=params, name="newest").json()["value"]
        return int(rows[0]["versionnumber"]) if rows else 0

    def record(self, entity: Entity, row: Mapping[str, Any]) -> Record:
        """Turn a row into a record."""
        values = entity.values(row)
        by = values.get("modifiedby")
        return Record(
            str(row[entity.key]).lower(),
            values,
            (int(row["versionnumber"]), 0),
            micros_of(row["modifiedon"]),
            created=row.get("createdon") == row["modifiedon"],
            ours=by is not None and str(by).lower() == self.me,
            actor=None if by is None else str(by),
        )

    def batch(self, parts: Sequence[Part], name: str) -> list[Answer]:
        """Carry out requests that stand each for themselves; return their answers. Raises Retry if the batch was not carried out."""
        out: list[Answer] = []
        for at in range(0, len(parts), BATCH_MOST):
            some = parts[at : at + BATCH_MOST]
            kind, body = encode_batch(some)
            headers = {
                "Content-Type": kind,
                "Prefer": "odata.continue-on-error",
                "Accept": "multipart/mixed, application/json",
            }
            answers = decode_batch(
                self.client.send("POST", "/$batch", content=body, headers=headers, cost=len(some), name=name)
            )
            if len(answers) != len(some):
                raise Retry(
                    f"{self.tenant.path}: a batch of {len(some)} requests has {len(answers)} answers",
                    hint="tried again by itself",
                )
            out += answers
        return out

    def close(self) -> None:
        """Close connections."""
        self.client.close()


def code_of(answer: Answer) -> str:
    """Return the code of an error answer; empty if it has none."""
    try:
        error = answer.json().get("error")
    except (Retry, AttributeError):
        return ""
    return str(error.get("code") or "") if isinstance(error, dict) else ""


def _judge(answer: Answer, what: str) -> TidelockError | None:
    """Translate an answer; in a batch the same answers come one by one (`sinks.dynamics`)."""
    code = code_of(answer)
    if code in _WAITS or code in _PASSING:
        return Retry(sentence(answer, what), hint="tried again by itself")
    if code == "0x80072560":
        return Fatal(
            sentence(answer, what),
            hint="make an application user for the client id in the environment, with a security role that may read and write the tables",
        )
    if code == "0x80060888" or (answer.status == 400 and code == ""):
        return Fatal(sentence(answer, what), hint="correct the mapping: the table has no such column")
    if code == EXPIRED:
        return Reject(sentence(answer, what), kind="expired")
    return judge(answer, what)


def passes(answer: Answer) -> bool:
    """Return whether the trouble of one request of a batch passes by itself."""
    return answer.status in (429, 503) or answer.status >= 500 or code_of(answer) in _WAITS | _PASSING


def taken(answer: Answer) -> bool:
    """Return whether another row holds the value of a key."""
    return answer.status == 412 and code_of(answer) in _TAKEN


def reject(answer: Answer, columns: Mapping[str, ApiColumn]) -> Reject:
    """Say why one row was refused, with the column if the message names one."""
    text = sentence(answer, "the row")
    field = next((name for name in columns if f"'{name}'" in text), None)
    return Reject(text, kind=_KINDS.get(code_of(answer), "rejected"), field=field)


def _is_guid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4 and all(c in "0123456789abcdefABCDEF-" for c in text)
