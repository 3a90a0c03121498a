"""The control API of this simulator: edits by a user, further columns, keys, users, applications, endpoints."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer, body_of
from simulators.dynamics.errors import ODataError
from simulators.dynamics.schema import TYPES, Column, Key, Relationship, Table
from simulators.dynamics.store import Values
from simulators.dynamics.tokens import App
from simulators.dynamics.webhooks import Endpoint

if TYPE_CHECKING:
    from simulators.dynamics.simulator import DynamicsSimulator


def row_json(values: Values) -> dict[str, Any]:
    """Return a row's values without what the store adds for itself."""
    return {n: v for n, v in values.items() if not n.endswith("!")}


class Controls:
    """What tests and demos do behind the vendor's back."""

    def __init__(self, simulator: DynamicsSimulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[Route]:
        """Return the paths."""
        post = {
            "/edit/{kind}": self._edit,
            "/delete/{kind}": self._delete,
            "/columns/{kind}": self._columns,
            "/keys/{kind}": self._keys,
            "/tracking/{kind}": self._tracking,
            "/duplicates/{kind}": self._duplicates,
            "/users": self._users,
            "/apps": self._apps,
            "/endpoints": self._endpoints,
        }
        get = {
            "/written": lambda _: list(self._simulator.written),
            "/deliveries": lambda _: self._simulator.deliveries(),
        }
        return [
            *(Route(path, self._safely(act), methods=["POST"]) for path, act in post.items()),
            *(Route(path, self._shown(show)) for path, show in get.items()),
        ]

    def table(self, kind: str) -> Table:
        """Return a table by its name or its set's. Raises ValueError."""
        schema = self._simulator.service.schema
        table = schema.tables.get(kind) or schema.sets.get(kind)
        if table is None:
            raise ValueError(f"there is no table {kind!r}; there are: {', '.join(sorted(schema.tables))}")
        return table

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        """Create rows as a user, all or none; return their ids. Raises ValueError."""
        table = self.table(kind)
        service, context = self._simulator.service, self._simulator.person_context()
        return self._all_or_none(lambda: [service.writer.create(table, r, context).id for r in records])

    def _all_or_none(self, work: Callable[[], list[str]]) -> list[str]:
        service = self._simulator.service
        begin, forget = service.store.begin(), service.events.mark()
        try:
            out = work()
        except ODataError as error:
            forget()
            service.store.rollback(begin)
            raise ValueError(error.message) from error
        service.store.commit()
        service.events.flush()
        return out

    def _edit(self, kind: str, given: Any) -> Any:
        table, service = self.table(kind), self._simulator.service
        context = self._simulator.person_context()

        def work() -> list[str]:
            out = []
            for record in given:
                row_id = str(record.get("id") or record.get(table.primary_id, "")).lower()
                row = service.store.get(table, row_id)
                if row is None:
                    raise ValueError(f"there is no {table.name} with id {row_id!r}")
                body = {n: v for n, v in record.items() if n not in ("id", table.primary_id)}
                out.append(service.writer.update(table, row, body, context).id)
            return out

        return {"ids": self._all_or_none(work)}

    def _delete(self, kind: str, given: Any) -> Any:
        table, service = self.table(kind), self._simulator.service
        context = self._simulator.person_context()

        def work() -> list[str]:
            out = []
            for row_id in given:
                row = service.store.get(table, str(row_id).lower())
                if row is None:
                    raise ValueError(f"there is no {table.name} with id {row_id!r}")
                service.writer.delete(table, row, context)
                out.append(row.id)
            return out

        return {"ids": self._all_or_none(work)}

    def _columns(self, kind: str, given: Any) -> Any:
        """Add columns: {name, kind, schema_name?, max_length?, precision?, options?, targets?}."""
        table = self.table(kind)
        service = self._simulator.service
        made = []
        for wish in given:
            if wish.get("kind") not in TYPES:
                raise ValueError(f"a column's kind is one of {', '.join(sorted(TYPES))}, not {wish.get('kind')!r}")
            options = {int(v): str(text) for v, text in (wish.get("options") or {}).items()}
            more = {
                n: wish[n]
                for n in ("schema_name", "label", "max_length", "precision", "minimum", "maximum")
                if n in wish
            }
            targets = tuple(wish.get("targets") or ())
            for target in targets:
                self.table(target)
            column = Column(str(wish["name"]), wish["kind"], options=options, targets=targets, custom=True, **more)
            try:
                service.customizer.add_column(table, column)
            except ODataError as error:
                raise ValueError(error.message) from error
            for navigation, target in column.navigations().items():
                name = f"{target}_{table.name}_{column.name}"
                service.schema.relate(
                    Relationship(
                        name,
                        target,
                        table.name,
                        column.name,
                        navigation,
                        name,
                        str(wish.get("on_delete", "RemoveLink")),
                    )
                )
            made.append(column.name)
        return {"columns": made}

    def _keys(self, kind: str, given: Any) -> Any:
        """Add alternate keys: {name, columns}."""
        table = self.table(kind)
        for wish in given:
            try:
                self._simulator.service.customizer.add_key(table, Key(str(wish["name"]), tuple(wish["columns"])))
            except ODataError as error:
                raise ValueError(error.message) from error
        return {"keys": sorted(table.keys)}

    def _tracking(self, kind: str, given: Any) -> Any:
        """Switch change tracking: {enabled}."""
        table = self.table(kind)
        table.tracked = bool(given.get("enabled", True))
        return {"enabled": table.tracked}

    def _duplicates(self, kind: str, given: Any) -> Any:
        """Say by which properties rows of a table are duplicates: {properties}."""
        table = self.table(kind)
        self._simulator.service.writer.platform.duplicate_rules[table.name] = tuple(given.get("properties", ()))
        return {"properties": list(self._simulator.service.writer.platform.duplicate_rules[table.name])}

    def _users(self, _: str, given: Any) -> Any:
        """Enable or disable users, or remove them from the organisation: {id, disabled?, remove?}."""
        service = self._simulator.service
        table = service.schema.tables["systemuser"]
        row = service.store.get(table, str(given.get("id", "")).lower())
        if row is None:
            raise ValueError(f"there is no user {given.get('id')!r}")
        if given.get("remove"):
            service.store.delete(table, row)
        else:
            service.store.update(table, row, {**row.values, "isdisabled": bool(given.get("disabled", False))})
        return {"id": row.id}

    def _apps(self, _: str, given: Any) -> Any:
        """Register an application: {client_id, client_secret, user?, redirects?}; without a user it has no right here."""
        app = App(
            str(given["client_id"]), str(given["client_secret"]), given.get("user"), tuple(given.get("redirects") or ())
        )
        app.enabled = bool(given.get("enabled", True))
        self._simulator.directory.apps[app.client_id] = app
        return {"client_id": app.client_id}

    def _endpoints(self, _: str, given: Any) -> Any:
        """Register a service endpoint with one step: see `Endpoint`."""
        auth = given.get("auth", "code")
        if auth not in ("header", "code", "query"):
            raise ValueError(f"auth is header, code or query, not {auth!r}")
        endpoint = Endpoint(
            str(uuid.uuid4()),
            str(given["url"]),
            auth,
            str(given.get("value", "")),
            dict(given.get("headers") or {}),
            dict(given.get("query") or {}),
            tuple(given.get("messages") or ("Create", "Update", "Delete")),
            tuple(self.table(t).name for t in given.get("tables") or ()),
            tuple(given.get("filtering") or ()),
            bool(given.get("images", False)),
        )
        self._simulator.service.events.endpoints[endpoint.id] = endpoint
        return {"id": endpoint.id}

    @staticmethod
    def _safely(act: Callable[[str, Any], Any]) -> Callable[[Request], Any]:
        async def handler(request: Request) -> Response:
            try:
                return answer(act(request.path_params.get("kind", ""), await body_of(request)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                text = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
                return answer({"error": text}, 400)

        return handler

    @staticmethod
    def _shown(show: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def handler(request: Request) -> Response:
            return answer(show(request))

        return handler
