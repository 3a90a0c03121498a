"""Dynamics 365 / Dataverse 9.2 as producers and sinks need it: signing in, tables, reading, batches.

A row's ``versionnumber`` grows with every change in the whole organisation, so it orders the states of one row exactly. Sources: Microsoft
Learn, "Use the Microsoft Dataverse Web API" (change tracking, conditional operations, batch, api-limits).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from tidelock.apis.client import ApiClient
from tidelock.apis.dynamics_access import address, grant
from tidelock.apis.dynamics_answers import judged, limited, passes
from tidelock.apis.dynamics_tables import Entity, is_guid
from tidelock.apis.judging import Answer, sentence
from tidelock.apis.multipart import Part, decode_batch, encode_batch
from tidelock.apis.records import ApiColumn, Record, micros_of
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Retry
from tidelock.httperrors import retry_after_s
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant

API = "/api/data/v9.2"
READ_MOST = 400  # rows by key in one call: within 32 KB of address and 500 conditions of a query
PAGE = 5000
BATCH = 500  # of at most 1000: answers with rows in them grow large
TAG = "tidelock"
_TRIES = 5  # at parts of a batch whose trouble passes
_PAUSE_S = 0.1
_LIMITED_S = 1.0  # after a refusal by service protection that does not say how long
_EXACT = msgspec.json.Decoder(float_hook=Decimal)  # money has more digits than a float


class Dataverse:
    """One tenant's environment."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self.tenant = tenant
        self._stop = context.stop
        self._spec = context.config.systems.get(tenant.system)
        self._fields = {name: entity.fields for name, entity in context.config.entities.items()}
        options = tenant.options
        self.path = str(options.get("path", API))
        self.batch_most = min(1000, max(1, int(options.get("batch", BATCH))))
        rate = options.get("rate", (5400, 300))
        self.client: ApiClient = context.access.client(
            tenant,
            base_url=address(tenant) + self.path,
            grant=grant(tenant),
            judge=judged,
            limits=LimitSpec(concurrency=int(options.get("concurrency", 20)), rate=(int(rate[0]), float(rate[1]))),
            headers={"OData-MaxVersion": "4.0", "OData-Version": "4.0", "Accept": "application/json"},
            timeout_s=float(options.get("timeout_s", 240.0)),
        )
        # Service protection counts calls, the daily entitlement what is in them: they need a count each.
        self._daily = (
            context.access.limits(tenant, LimitSpec(daily=int(options["daily"])), name="daily")
            if options.get("daily")
            else None
        )
        self._known: dict[str, tuple[Any, Any, Any]] = {}
        self._entities: dict[tuple[str, tuple[tuple[str, str], ...]], Entity] = {}
        self._me: str | None = None

    @property
    def me(self) -> str:
        """Return the id of the user that we are there."""
        if self._me is None:
            self._me = str(self.send("GET", "/WhoAmI", name="WhoAmI").json()["UserId"]).lower()
        return self._me

    def close(self) -> None:
        """Close connections."""
        self.client.close()
        if self._daily is not None:
            self._daily.close()

    # ------------------------------------------------------------------------------------------------ tables

    def entity(self, table: TableSpec) -> Entity:
        """Return what the organisation says of a configured table. Raises Fatal if it does not have it."""
        return self._entity(table.table, self._points(table))

    def named(self, name: str) -> Entity:
        """Return what the organisation says of a table by its logical name. Raises Fatal if it does not have it."""
        return self._entity(name, {})

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return a table's columns. Raises Fatal."""
        return self.entity(table).columns

    def _points(self, table: TableSpec) -> dict[str, str]:
        """Return to which table a column leads, of those bound to a field that refers to records of an entity."""
        spec = self._spec
        if spec is None:
            return {}
        entity = next((name for name, known in spec.entities.items() if known == table), None)
        fields = self._fields.get(entity or "", {})
        out = {}
        for binding in table.map:
            parent = fields[binding.field].references if binding.field in fields else None
            if binding.column is not None and parent is not None and parent in spec.entities:
                out[binding.column] = spec.entities[parent].table
        return out

    def _entity(self, name: str, points: Mapping[str, str]) -> Entity:
        which = (name, tuple(sorted(points.items())))
        known = self._entities.get(which)
        if known is None:
            if name not in self._known:
                self._known[name] = self._described(name)
            known = self._entities[which] = Entity(name, *self._known[name], points)
        return known

    def _described(self, name: str) -> tuple[Any, Any, Any]:
        what = f"/EntityDefinitions(LogicalName='{name}')"
        head = self.send(
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
        attributes = self.send("GET", f"{what}/Attributes", name="metadata").json()["value"]
        fields = {"$select": "ReferencingAttribute,ReferencedEntity,ReferencingEntityNavigationPropertyName"}
        relations = self.send("GET", f"{what}/ManyToOneRelationships", params=fields, name="metadata")
        return head.json(), attributes, relations.json()["value"]

    # ------------------------------------------------------------------------------------------------ reading

    def pages(self, link: str, params: Mapping[str, Any] | None = None, *, prefer: str) -> Iterator[dict[str, Any]]:
        """Read page after page, each with its ``@odata.nextLink`` or the end."""
        while True:
            page: dict[str, Any] = exact(self.send("GET", link, params=params, headers={"Prefer": prefer}, name="list"))
            yield page
            link, params = page.get("@odata.nextLink", ""), None
            if not link:
                return

    def by_ids(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Read rows by key; those that are not there are left out."""
        entity, out = self.entity(table), dict[str, Record]()
        wanted = list(dict.fromkeys(k.lower() for k in keys if is_guid(k)))
        prefer = entity.prefer(names, f"odata.maxpagesize={PAGE}")
        for at in range(0, len(wanted), READ_MOST):
            quoted = ",".join(f"'{k}'" for k in wanted[at : at + READ_MOST])
            condition = f"Microsoft.Dynamics.CRM.In(PropertyName='{entity.key}',PropertyValues=[{quoted}])"
            asked = {"$select": entity.selected(names), "$filter": condition}
            for page in self.pages(f"/{entity.set}", asked, prefer=prefer):
                for row in page["value"]:
                    record = self.record(entity, row)
                    out[record.key] = record
        return out

    def newest(self, entity: Entity) -> int:
        """Return the highest version there is in a table."""
        params = {"$select": "versionnumber", "$orderby": "versionnumber desc", "$top": "1"}
        rows = self.send("GET", f"/{entity.set}", params=params, name="newest").json()["value"]
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

    # ------------------------------------------------------------------------------------------------ calls

    def send(self, method: str, path: str, *, cost: int = 1, **options: Any) -> Answer:
        """Send a call within both limits; ``cost`` is how many requests are in it (see `ApiClient.send`)."""
        with self._daily.acquire(cost) if self._daily is not None else contextlib.nullcontext():
            return self.client.send(method, path, **options)

    def batch(self, parts: Sequence[Part], name: str) -> list[Answer]:
        """Carry out requests that stand each for themselves; return their answers.

        A part that met a deadlock or a limit is sent again, alone with its likes; what was done is not. Raises Retry if the batch was not
        carried out, if a limit goes on, or if nothing in it could be done.
        """
        out: dict[int, Answer] = {}
        todo = list(range(len(parts)))
        for attempt in range(1, _TRIES + 1):
            for at in range(0, len(todo), self.batch_most):
                some = todo[at : at + self.batch_most]
                out.update(zip(some, self._batched([parts[i] for i in some], name), strict=True))
            todo = [i for i in todo if passes(out[i])]
            if not todo:
                break
            self._pause([out[i] for i in todo], attempt, name)
        if todo and (len(todo) == len(parts) or any(limited(out[i]) for i in todo)):
            raise Retry(
                sentence(out[todo[0]], f"{self.tenant.path}: {len(todo)} of {len(parts)} requests of a batch ({name})"),
                hint="tried again by itself",
            )
        return [out[i] for i in range(len(parts))]

    def _pause(self, answers: Sequence[Answer], attempt: int, name: str) -> None:
        """Wait before parts of a batch are sent again; a limit holds for all workers of the tenant."""
        over = [answer for answer in answers if limited(answer)]
        if over:
            asked = [s for answer in over if (s := retry_after_s(answer.headers)) is not None]
            self.client.limits.observed(retry_after_s=max(asked, default=_LIMITED_S))
        elif attempt < _TRIES and self._stop.wait(_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)):
            raise Retry(f"{self.tenant.path}: a batch ({name}) was broken off: the worker is to stop")

    def _batched(self, parts: Sequence[Part], name: str) -> list[Answer]:
        kind, body = encode_batch(parts)
        headers = {
            "Content-Type": kind,
            "Prefer": "odata.continue-on-error",
            "Accept": "multipart/mixed, application/json",
        }
        answers = decode_batch(self.send("POST", "/$batch", content=body, headers=headers, cost=len(parts), name=name))
        if len(answers) != len(parts):
            raise Retry(
                f"{self.tenant.path}: a batch of {len(parts)} requests has {len(answers)} answers",
                hint="tried again by itself",
            )
        return answers


def exact(answer: Answer) -> Any:
    """Return the decoded body of an answer, with numbers that have a point as decimals. Raises Retry if it is no JSON."""
    try:
        return _EXACT.decode(answer.content)
    except msgspec.DecodeError:
        return answer.json()


def tracked_to(link: str) -> int | None:
    """Return the version up to which a delta link has told everything; None if it does not say so in the form we know."""
    tokens = parse_qs(urlsplit(link).query).get("$deltatoken", [""])
    number, mark, _ = unquote(tokens[0]).partition("!")
    return int(number) if mark and number.isdigit() else None
