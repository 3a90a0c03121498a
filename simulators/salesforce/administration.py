"""What the control API adds for Salesforce: to act as a person in the org, to change its set-up, and to see what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer, body_of
from simulators.salesforce.cometd import Cometd
from simulators.salesforce.errors import Refusal
from simulators.salesforce.org import Org, Rule
from simulators.salesforce.schema import TEXT, Field, Kind
from simulators.salesforce.sessions import Sessions
from simulators.salesforce.tables import Table
from simulators.salesforce.unit import Actor, Unit, transacted

_TYPES = TEXT | {"boolean", "int", "double", "currency", "percent", "date", "datetime", "reference"}
_AT_ONCE = 200


class Administration:
    """The org as a person in it uses and sets it up. ``regrant`` returns a new refresh token of the app."""

    def __init__(self, org: Org, sessions: Sessions, cometd: Cometd, regrant: Callable[[], str]) -> None:
        self.org = org
        self._sessions = sessions
        self._cometd = cometd
        self._regrant = regrant

    def create(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        """Create records as a person does and return their ids. Raises ValueError."""
        return self._as_person(self.table(kind), records, lambda unit, table, r: unit.create(table, r))

    def table(self, kind: str) -> Table:
        """Return the table of an object. Raises ValueError."""
        table = self.org.find(kind)
        if table is None:
            raise ValueError(f"the org has no object {kind!r}; it has: {', '.join(sorted(self.org.tables))}")
        return table

    def _as_person(
        self, table: Table, records: list[dict[str, Any]], one: Callable[[Unit, Table, dict[str, Any]], str]
    ) -> list[str]:
        """Do something with each record as a person does, a few hundred in one transaction. Raises ValueError."""
        actor, out = Actor(self.org.person, allow_save=True, path=f"/_control/{table.kind.name}"), list[str]()
        for start in range(0, len(records), _AT_ONCE):
            some = records[start : start + _AT_ONCE]

            def work(unit: Unit, some: list[dict[str, Any]] = some) -> list[str]:
                return [one(unit, table, record) for record in some]

            try:
                out += transacted(self.org, actor, work)
            except Refusal as refusal:
                raise ValueError(f"{table.kind.name}: {refusal}") from refusal
        return out

    def routes(self) -> Sequence[Route]:
        """Return what the control API has for Salesforce; docs/simulators.md tells about each."""
        post = ["POST"]
        return [
            Route("/edit/{kind}", self._control(self._edit), methods=post),
            Route("/delete/{kind}", self._control(self._delete), methods=post),
            Route("/purge/{kind}", self._control(self._purge), methods=post),
            Route("/undelete/{kind}", self._control(self._undelete), methods=post),
            Route("/touch/{kind}", self._control(self._touch), methods=post),
            Route("/merge/{kind}", self._control(self._merge), methods=post),
            Route("/objects", self._control(self._add_object), methods=post),
            Route("/fields/{kind}", self._control(self._add_fields), methods=post),
            Route("/duplicate-rules", self._control(self._add_rule), methods=post),
            Route("/trim-deletions", self._control(self._trim), methods=post),
            Route("/tokens/expire", self._control(lambda *_: {"expired": self._sessions.expire()}), methods=post),
            Route("/tokens/revoke", self._control(lambda *_: {"revoked": self._sessions.revoke_all()}), methods=post),
            Route("/grant", self._control(self._new_grant), methods=post),
            Route("/writes", self._writes, methods=["GET", "DELETE"]),
            Route("/events", self._events),
            Route("/listeners", self._listeners),
        ]

    def _control(self, work: Callable[[str, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def handler(request: Request) -> Response:
            try:
                return answer(work(request.path_params.get("kind", ""), await body_of(request)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                said = f"the body lacks {error}" if isinstance(error, KeyError) else str(error)
                return answer({"error": said}, 400)

        return handler

    def _edit(self, kind: str, records: Any) -> Any:
        def one(unit: Unit, table: Table, record: dict[str, Any]) -> str:
            given = dict(record)
            id_ = str(given.pop("id", None) or given.pop("Id"))
            unit.update(table, id_, given)
            return id_

        return {"ids": self._as_person(self.table(kind), records, one)}

    def _each(self, kind: str, ids: list[str], one: Callable[[Unit, Table, str], Any]) -> dict[str, Any]:
        def work(unit: Unit, table: Table, record: dict[str, Any]) -> str:
            one(unit, table, record["id"])
            return str(record["id"])

        return {"ids": self._as_person(self.table(kind), [{"id": i} for i in ids], work)}

    def _delete(self, kind: str, ids: Any) -> Any:
        return self._each(kind, ids, lambda unit, table, id_: unit.delete(table, id_))

    def _purge(self, kind: str, ids: Any) -> Any:
        return self._each(kind, ids, lambda unit, table, id_: unit.delete(table, id_, hard=True))

    def _undelete(self, kind: str, ids: Any) -> Any:
        return self._each(kind, ids, lambda unit, table, id_: unit.undelete(table, id_))

    def _touch(self, kind: str, ids: Any) -> Any:
        return self._each(kind, ids, lambda unit, table, id_: unit.touch(table, id_))

    def _merge(self, kind: str, body: Any) -> Any:
        def one(unit: Unit, table: Table, record: dict[str, Any]) -> str:
            unit.merge(table, record["master"], list(record["losers"]), record.get("fields") or {})
            return str(record["master"])

        return {"ids": self._as_person(self.table(kind), [body], one)}

    def _add_object(self, _: str, body: Any) -> Any:
        name = str(body["name"])
        if not name.endswith("__c") or self.org.find(name) is not None:
            raise ValueError(f"{name!r} is no name for a new custom object: it ends in __c and is not there yet")
        number = sum(t.kind.custom for t in self.org.tables.values())
        own = [
            Field("OwnerId", "reference", "Owner ID", refers=("User",)),
            Field("Name", label="Name", length=80),
            Field("Tidelock_Id__c", length=64, unique=True, external=True, lookup=True),
        ]
        kind = Kind(
            name,
            f"a{number:02d}",
            [*own, *(self._field(f) for f in body.get("fields", []))],
            label=str(body.get("label", "")),
        )
        self.org.add_kind(kind)
        return {"name": name, "prefix": kind.prefix}

    def _add_fields(self, kind: str, body: Any) -> Any:
        table = self.table(kind)
        fields = [self._field(f) for f in (body if isinstance(body, list) else [body])]
        for field in fields:
            table.add_field(field)
        return {"fields": [f.name for f in fields]}

    def _field(self, wish: dict[str, Any]) -> Field:
        known = {
            n: wish[n]
            for n in ("type", "label", "length", "required", "unique", "external", "scale", "precision")
            if n in wish
        }
        name, type_ = str(wish["name"]), wish.get("type", "string")
        if not name.endswith("__c") or type_ not in _TYPES:
            raise ValueError(
                f"{name!r} of type {type_!r} is no custom field; its name ends in __c, types are: {', '.join(sorted(_TYPES))}"
            )
        refers = tuple(wish.get("refers", ()))
        for target in refers:
            self.table(target)
        field = Field(
            name,
            **{"length": 255 if type_ in TEXT else 0, **known},
            values=tuple(wish.get("values", ())),
            restricted=bool(wish.get("restricted", False)),
            refers=refers,
            children=wish.get("children"),
            default=wish.get("default", False if type_ == "boolean" else None),
        )
        field.lookup = field.external or field.lookup
        return field

    def _add_rule(self, _: str, body: Any) -> Any:
        rule = self.rule(
            str(body["kind"]), ",".join(body["fields"]), str(body.get("action", "alert")), str(body.get("name", ""))
        )
        self.org.rules.append(rule)
        return {"name": rule.name}

    def rule(self, kind: str, fields: str, action: str = "alert", name: str = "") -> Rule:
        """Return a duplicate rule. Raises ValueError."""
        table = self.table(kind)
        found = [table.kind.find(f) for f in fields.split(",")]
        if action not in {"alert", "block"} or not all(found):
            raise ValueError(f"a duplicate rule is kind:field,field:alert|block, with fields that {kind} has")
        names = tuple(f.name for f in found if f is not None)
        table.index(table.kind.fields[names[0]])
        return Rule(table.kind.name, names, action, name or f"Standard_{table.kind.name}_Duplicate_Rule")

    def _trim(self, _: str, body: Any) -> Any:
        self.org.earliest_deletion = self.org.clock.now() - float((body or {}).get("keep_s", 0))
        return {"earliest": self.org.earliest_deletion}

    def _new_grant(self, *_: Any) -> Any:
        return {"refresh_token": self._regrant()}

    async def _writes(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.org.writes.clear()
            return answer({})
        last, clients = int(request.query_params.get("last", "1000")), request.query_params.get("clients") == "true"
        writes = [w for w in self.org.writes if not clients or w["user"] != self.org.person]
        return answer(writes[-last:])

    async def _events(self, request: Request) -> Response:
        self.org.settle()
        last = int(request.query_params.get("last", "1000"))
        return answer([e.data() for e in self.org.feed.events[-last:]])

    async def _listeners(self, _: Request) -> Response:
        return answer(self._cometd.listeners())
