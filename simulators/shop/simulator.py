"""The shop: an ERP web shop with our own contract (`docs/openapi/shop.yaml`), modelled on a description, not on vendor documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from simulators.base import Simulator
from simulators.shop.access import Access
from simulators.shop.batches import Batches
from simulators.shop.operator import Operator
from simulators.shop.problems import Problem
from simulators.shop.resources import RESOURCES, Resource
from simulators.shop.rest import Rest
from simulators.shop.seeding import seed_shop
from simulators.shop.store import Settings, Store, Writer


class ShopSimulator(Simulator):
    """The web shop. Options are strings, as the command line gives them; `docs/simulators.md` tells them."""

    name = "shop"
    fault_kinds: ClassVar[dict[str, str]] = {
        "limit": "answer 429 with Retry-After `retry_after_s`",
        "expired": "answer 401 token_expired, whatever credential is sent",
        "partial_failure": "a record of a call fails with `status` and `code`; method is the operation, path the resource",
        "locked": "a record of a call fails with 423 record_locked; method is the operation, path the resource",
        "late": "a record written is missing in lists for `delay_s`, then shows up with its older updated_at",
        "slow_batch": "a batch is in processing for `delay_s` before its first record is written",
        "stuck_batch": "a batch stays in processing until /_control/batches/release",
        "failed_batch": "a batch fails after `after` records",
        "lost_results": "a batch is done, but its results are gone (410)",
    }

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        number = {
            name: options.pop(name, usual)
            for name, usual in (
                ("customers", "0"),
                ("products", "0"),
                ("orders", "0"),
                ("limit", "1000"),
                ("limit_window_s", "10"),
                ("token_life_s", "3600"),
                ("batch_delay_s", "0.05"),
                ("retention_s", "86400"),
                ("most_waiting", "20"),
            )
        }
        switches = {name: options.pop(name, "0") for name in ("reexport_on_edit", "validate_postal_code")}
        super().__init__(seed=seed, **options)
        values = {name: _number(name, text) for name, text in number.items()}
        self.settings = Settings(**{name: _switch(name, text) for name, text in switches.items()})
        self._seeded = (seed, int(values["customers"]), int(values["products"]), int(values["orders"]))
        self._first_settings = (self.settings.reexport_on_edit, self.settings.validate_postal_code)
        self.store = Store(self, self.settings)
        self.access = Access(self, seed, int(values["limit"]), values["limit_window_s"], values["token_life_s"])
        self.batches = Batches(
            self, self.store, seed, values["batch_delay_s"], values["retention_s"], int(values["most_waiting"])
        )
        self._rest = Rest(self.store, self.access, self.batches).routes()
        seed_shop(self.store, *self._seeded)

    def routes(self) -> Sequence[BaseRoute]:
        return self._rest

    def credentials(self) -> dict[str, Any]:
        return {
            "api_key": self.access.api_key,
            "read_only_api_key": self.access.read_only_key,
            "client_id": self.access.client_id,
            "client_secret": self.access.client_secret,
            "token_path": "/oauth/token",
        }

    def started(self) -> None:
        self.background(self.batches.work())

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        resource, writer = self.resource(kind), Writer("storefront", user=True)
        try:
            return [str(self.store.apply(resource, "create", record, writer).data["id"]) for record in records]
        except Problem as problem:
            raise ValueError(_told(problem)) from problem

    def dump(self, kind: str) -> list[dict[str, Any]]:
        name = self.resource(kind).name
        gone = [{**told, "deleted": True} for _, told in self.store.deletions[name]]
        return [row.data for row in self.store.tables[name].rows.values()] + gone

    def reset(self) -> None:
        self.store.clear()
        self.access.reset()
        self.batches.reset()
        self.settings.reexport_on_edit, self.settings.validate_postal_code = self._first_settings
        seed_shop(self.store, *self._seeded)

    def controls(self) -> Sequence[Route]:
        return Operator(self.store, self.access, self.batches).routes()

    def not_found(self, request: Request) -> Response:
        allowed = sorted(
            {
                method
                for route in self._rest
                if route.matches(request.scope)[0] is not Match.NONE
                for method in route.methods or ()
            }
        )
        if allowed:
            detail = f"{request.method} does nothing here; there are: {', '.join(allowed)}."
            return Problem(405, "method_not_allowed", detail, headers={"allow": ", ".join(allowed)}).response()
        return Problem(404, "no_such_path", f"There is nothing at {request.url.path}.").response()

    @staticmethod
    def resource(kind: str) -> Resource:
        """Return a resource by its name. Raises ValueError."""
        if kind not in RESOURCES:
            raise ValueError(f"the shop has no {kind!r}; it has: {', '.join(RESOURCES)}")
        return RESOURCES[kind]


def _told(problem: Problem) -> str:
    return " ".join([problem.detail, *(wrong.message for wrong in problem.errors)])


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"option {name} is a number, 0 or more, not {text!r}")
    return value


def _switch(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"option {name} is 0 or 1, not {text!r}")
    return text == "1"
