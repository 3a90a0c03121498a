"""The control API that only the shop has: what its users, its operator and an ERP's importer do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import Handler, answer, body_of
from simulators.shop.access import Access
from simulators.shop.batches import Batches
from simulators.shop.problems import Problem
from simulators.shop.resources import RESOURCES, Resource
from simulators.shop.store import Done, Store, Writer
from simulators.shop.tables import Row
from simulators.shop.values import bad_postal_codes

_USER = Writer("backoffice", user=True)
_SWITCHES = ("reexport_on_edit", "validate_postal_code")


class Operator:
    """The handlers."""

    def __init__(self, store: Store, access: Access, batches: Batches) -> None:
        self._store, self._access, self._batches = store, access, batches

    def routes(self) -> list[Route]:
        """Return the paths, without ``/_control``."""
        post: list[tuple[str, Callable[[Request], Awaitable[Any]]]] = [
            ("/edit/{kind}", self._edit),
            ("/delete/{kind}", self._delete),
            ("/export-again/{kind}", self._export_again),
            ("/import/{kind}", self._import),
            ("/settings", self._set),
            ("/revoke", self._revoke),
            ("/expire", self._expire),
            ("/batches/release", self._release),
        ]
        get: list[tuple[str, Callable[[Request], Awaitable[Any]]]] = [
            ("/writes", self._writes),
            ("/batches", self._list),
        ]
        return [Route(path, _told(work), methods=["POST"]) for path, work in post] + [
            Route(path, _told(work)) for path, work in get
        ]

    async def _edit(self, request: Request) -> Any:
        """Edit records as a user does: ``[{"id": 1001, field: value, …}]``."""
        resource, done = _resource(request), []
        for wish in await _array(request, dict):
            row = self._row(resource, wish.get("id"))
            done.append(self._store.update(resource, row, {k: v for k, v in wish.items() if k != "id"}, _USER))
        return _versions(done)

    async def _delete(self, request: Request) -> Any:
        """Remove records for good, as a user does with a mistake: ``[1001, …]``."""
        resource = _resource(request)
        rows = [self._row(resource, i) for i in await _array(request, int, str)]
        return _versions([self._store.remove(resource, row) for row in rows])

    async def _export_again(self, request: Request) -> Any:
        """Let records be pulled again, as a worker does: ``[1001, …]``, or ``[{"id": 1001, "ship_postal_code": "90210"}]``."""
        resource, done = _resource(request), []
        if not resource.exported:
            raise ValueError(f"{resource.name} are not exported")
        for wish in await _array(request, int, str, dict):
            fields = dict(wish) if isinstance(wish, dict) else {"id": wish}
            row = self._row(resource, fields.pop("id", None))
            done.append(self._store.export_again(resource, row, fields, _USER))
        return _versions(done)

    async def _import(self, request: Request) -> Any:
        """Do what an ERP's importer does with what was pulled: success, or failed with the reason (a postal code that is none)."""
        resource, counts = _resource(request), {"success": 0, "failed": 0}
        if not resource.exported:
            raise ValueError(f"{resource.name} are not imported by the ERP")
        for row in list(self._store.tables[resource.name].rows.values()):
            if row.data["exported"] != 1 or row.data["erp_import_status"] not in (None, "pending"):
                continue
            wrong = bad_postal_codes(row.data)
            status = "failed" if wrong else "success"
            fields = {"erp_import_status": status, "erp_import_error": " ".join(w.message for w in wrong) or None}
            self._store.update(resource, row, fields, Writer("erp"))
            counts[status] += 1
        return counts

    async def _set(self, request: Request) -> Any:
        """Switch ``reexport_on_edit``, ``validate_postal_code`` or the ``limit`` of calls per window."""
        wish = await body_of(request)
        if not isinstance(wish, dict) or set(wish) - {*_SWITCHES, "limit"}:
            raise ValueError(f"there are the settings {', '.join(_SWITCHES)} and limit")
        for name in _SWITCHES:
            if name in wish:
                setattr(self._store.settings, name, bool(wish[name]))
        self._access.limit = int(wish.get("limit", self._access.limit))
        return {name: getattr(self._store.settings, name) for name in _SWITCHES} | {"limit": self._access.limit}

    async def _revoke(self, request: Request) -> Any:
        """Revoke a credential: ``{"what": "api_key" | "client" | "tokens", "undo": false}``."""
        wish = await body_of(request) or {}
        self._access.revoke(str(wish.get("what")), undo=bool(wish.get("undo", False)))
        return {}

    async def _expire(self, request: Request) -> Any:
        """Let credentials have expired: ``{"what": "api_key" | "tokens"}``."""
        self._access.expire(str((await body_of(request) or {}).get("what")))
        return {}

    async def _release(self, _: Request) -> Any:
        self._batches.release()
        return {}

    async def _list(self, _: Request) -> Any:
        return [self._batches.shown(batch) for batch in self._batches.held.values()]

    async def _writes(self, request: Request) -> Any:
        """Show what clients and users wrote, ``?resource=`` and ``?last=`` (100)."""
        wanted, last = request.query_params.get("resource"), int(request.query_params.get("last", "100"))
        shown = [w for w in self._store.writes if wanted in (None, w["resource"])]
        return shown[-last:] if last else []

    def _row(self, resource: Resource, record_id: Any) -> Row:
        return self._store.row(resource, int(record_id))


def _told(work: Callable[[Request], Awaitable[Any]]) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            return answer(await work(request))
        except Problem as problem:
            return answer({"error": problem.detail, **problem.shown()}, 400)
        except (TypeError, ValueError) as error:
            return answer({"error": str(error)}, 400)

    return handle


def _resource(request: Request) -> Resource:
    kind = request.path_params["kind"]
    if kind not in RESOURCES:
        raise ValueError(f"the shop has no {kind!r}; it has: {', '.join(RESOURCES)}")
    return RESOURCES[kind]


async def _array(request: Request, *kinds: type) -> list[Any]:
    wish = await body_of(request)
    if not isinstance(wish, list) or not all(isinstance(w, kinds) for w in wish):
        raise ValueError("send an array of " + " or ".join(kind.__name__ for kind in kinds))
    return wish


def _versions(done: list[Done]) -> list[dict[str, Any]]:
    return [{"id": d.data["id"], "version": d.data["version"], "result": d.result} for d in done]
