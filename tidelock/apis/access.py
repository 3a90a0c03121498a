"""What a worker needs to reach its tenants, made once per process: central database, tenants, tokens, clients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tidelock import central
from tidelock.apis.client import ApiClient, Judge
from tidelock.auth import Grant, Token, Tokens
from tidelock.central import Central
from tidelock.config import Config
from tidelock.context import Context
from tidelock.errors import TidelockError
from tidelock.httperrors import scrub
from tidelock.limits import Limits, LimitSpec
from tidelock.tenants import Tenant, Tenants
from tidelock.tracing import Tracing

E = TypeVar("E", bound=TidelockError)


class Access:
    """Tenants, their tokens and clients for them. Nothing is connected before it is used; ``close`` lets go of everything.

    An installation in which no system is reached through an API has no central database, and needs none.
    """

    def __init__(
        self,
        config: Config,
        *,
        tracing: Tracing | None = None,
        stop: threading.Event | None = None,
        count: Callable[[str, str, str, int], None] | None = None,
    ) -> None:
        self.central = Central(config) if central.needed(config) else None
        self.tenants = Tenants(config, self.central)
        self.tokens = Tokens(self.tenants)
        self._tracing = tracing
        self._stop = stop
        self._count = count
        self._clients: list[ApiClient] = []

    @classmethod
    def of(cls, context: Context) -> Access:
        """Make the access of a worker: it counts calls as ``api_calls``, and ends its waits when the worker is to stop."""
        return cls(context.config, tracing=context.tracing, stop=context.stop, count=context.activity.count)

    def limits(self, tenant: Tenant, spec: LimitSpec, *, name: str = "api") -> Limits:
        """Return limits of a tenant that all workers share under this name."""
        return Limits(self.central, tenant, spec, name=name, stop=self._stop)

    def client(
        self,
        tenant: Tenant,
        *,
        base_url: str | Callable[[Token], str],
        grant: Grant,
        judge: Judge,
        limits: Limits | LimitSpec,
        **options: Any,
    ) -> ApiClient:
        """Return a client for a tenant; ``options`` are those of `ApiClient`. It is closed with this object."""
        made = ApiClient(
            tenant,
            base_url=base_url,
            grant=grant,
            tokens=self.tokens,
            limits=limits if isinstance(limits, Limits) else self.limits(tenant, limits),
            judge=judge,
            **{"tracing": self._tracing, "stop": self._stop, "on_call": self._counter(tenant), **options},
        )
        self._clients.append(made)
        return made

    def clean(self, tenant: Tenant, text: str) -> str:
        """Return what a connector says of a tenant without its secrets, for vendors may quote what they were sent."""
        return scrub(text, tenant.credentials, self.tokens.in_use(tenant))

    def cleaned(self, tenant: Tenant, error: E) -> E:
        """Strike a tenant's secrets out of an error, and return it."""
        error.message = self.clean(tenant, error.message)
        error.args = (error.message, error.hint)
        return error

    def close(self) -> None:
        """Close clients, token endpoints and the database."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.tokens.close()
        if self.central is not None:
            self.central.close()

    def _counter(self, tenant: Tenant) -> Callable[[str, int, float], None] | None:
        count = self._count
        if count is None:
            return None
        return lambda _name, _status, _seconds: count("api_calls", tenant.system, "", 1)


def client_for(
    context: Context,
    tenant: Tenant,
    *,
    base_url: str | Callable[[Token], str],
    grant: Grant,
    judge: Judge,
    limits: LimitSpec,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> ApiClient:
    """Return a client of a worker's own for a tenant; everything it was made with is closed with `Context.access`."""
    return context.access.client(
        tenant, base_url=base_url, grant=grant, judge=judge, limits=limits, headers=headers, **options
    )
