"""Tokens that all workers of a tenant share: one sign-in per need, across processes and machines.

The token stands sealed in the central database. Whoever needs a new one locks the tenant's row there and signs in; a worker that
waited for the lock takes what it finds. A token is renewed ahead of its end, at a moment that every worker draws for itself, and
meanwhile the others go on with the old one. A sign-in that fails is not tried again by every worker in turn, but by one after a pause.

A refresh token that the vendor replaces is stored in the transaction in which it came. If the database breaks just then, the worker
keeps it and stores it as soon as it can; only a process that dies in that moment loses it, and a person has to connect the tenant again.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import httpx
import msgspec

from tidelock.central import Connection
from tidelock.errors import Retry, Revoked, SwitchedOff
from tidelock.grants import ClientCredentials, Grant, JwtBearer, RefreshToken, Static, Token, ask, need, token_of
from tidelock.tenants import Tenant, Tenants
from tidelock.tls import trust

__all__ = [
    "ClientCredentials",
    "Grant",
    "JwtBearer",
    "RefreshToken",
    "Static",
    "Token",
    "Tokens",
    "ask",
    "need",
    "token_of",
]

_AHEAD = 0.2  # a token is renewed when this share of its life is left, but not earlier than
_AHEAD_MOST_S = 300.0
_AGAIN_S = 15.0  # after a sign-in that has failed, unless the vendor says otherwise
_LOOK_S = 1.0  # while another worker renews the token
_TIMEOUT_S = 20.0


@dataclass
class _Held:
    """A token, the credentials it was got with, and when this worker looks for the next one."""

    token: Token
    credentials: Mapping[str, str] = field(repr=False)
    due: float = float("inf")

    def __post_init__(self) -> None:
        if self.token.expires_at is not None:
            life_s = self.token.expires_at - self.token.got_at
            ahead_s = min(_AHEAD_MOST_S, max(0.0, life_s) * _AHEAD)
            self.due = self.token.expires_at - ahead_s * random.uniform(0.5, 1.0)

    def good(self, credentials: Mapping[str, str], refused: str | None, now: float) -> bool:
        """Return whether it is the right one and is not due."""
        return self.usable(credentials, refused, now) and now < self.due

    def usable(self, credentials: Mapping[str, str], refused: str | None, now: float) -> bool:
        """Return whether it may still be used."""
        ends = self.token.expires_at
        return self.token.value != refused and self.credentials == credentials and (ends is None or now < ends)


class Tokens:
    """Hand out tokens. Without a central database they are kept in this process alone. Safe to use from several threads."""

    def __init__(self, tenants: Tenants) -> None:
        self.tenants = tenants
        self._held: dict[tuple[str, str], _Held] = {}
        self._clients: dict[tuple[str, str], tuple[object, httpx.Client]] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()
        self._unsaved: dict[tuple[str, str], tuple[Mapping[str, str], Mapping[str, str]]] = {}
        self._alone: dict[tuple[str, str], tuple[Mapping[str, str], str]] = {}  # revoked, without a central database

    def get(self, tenant: Tenant, grant: Grant, *, refused: str | None = None) -> Token:
        """Return a token that is good now. ``refused`` is one that the API has answered with 401: it is not handed out again.

        Raises Revoked if the tenant's credentials are no longer good, now or known from before; Retry if it is switched off or the
        vendor's endpoint is in trouble. What the vendor refuses marks the tenant as revoked.
        """
        current = self.tenants.get(*tenant.key)
        self._check(current)
        if not getattr(grant, "stored", True):
            return self._given(current, grant, refused)
        held, now = self._held.get(tenant.key), time.time()
        if held is not None and held.good(current.credentials, refused, now):
            return held.token
        if held is not None and not held.usable(current.credentials, refused, now):
            held = None
        with self._one_at_a_time(tenant.key, held) as mine:
            if not mine:  # another thread is renewing it ahead of time
                assert held is not None
                return held.token
            known = self._held.get(tenant.key)
            if known is not None and known.good(current.credentials, refused, time.time()):
                return known.token
            return self._shared(tenant, grant, refused, held) if self.tenants.central else self._own(current, grant)

    def revoke(self, tenant: Tenant, reason: str) -> None:
        """Mark a tenant: the API refuses what its credentials give. Raises Retry if that cannot be stored."""
        held = self._held.pop(tenant.key, None)
        credentials = held.credentials if held is not None else self.tenants.get(*tenant.key).credentials
        self._alone[tenant.key] = (credentials, reason)
        self.tenants.revoke(tenant.system, tenant.name, reason, credentials=credentials)

    def in_use(self, tenant: Tenant) -> tuple[str, ...]:
        """Return the token that this process holds of a tenant, if any: what must not be repeated."""
        held = self._held.get(tenant.key)
        return () if held is None else (held.token.value,)

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for _, client in clients.values():
            client.close()

    # ------------------------------------------------------------------------------------------------ states

    def _check(self, tenant: Tenant) -> None:
        """Raise unless the tenant is on."""
        again = (
            f"`tidelock tenants connect {tenant.system} {tenant.name}`, or other credentials; if they are good again as they are,"
            f" `tidelock tenants enable {tenant.system} {tenant.name}`"
        )
        alone = self._alone.get(tenant.key)
        if alone is not None and not self.tenants.central and alone[0] == tenant.credentials:
            raise Revoked(f"{tenant.path} is revoked: {alone[1]}", hint=again)
        if tenant.state == "revoked":
            since = f" since {tenant.since:%Y-%m-%d %H:%M} UTC" if tenant.since else ""
            raise Revoked(f"{tenant.path} is revoked{since}: {tenant.reason}", hint=again)
        if tenant.state == "off":
            raise SwitchedOff(
                f"{tenant.path} is switched off{f': {tenant.reason}' if tenant.reason else ''}",
                hint=f"`tidelock tenants enable {tenant.system} {tenant.name}` switches it on",
            )

    def _given(self, tenant: Tenant, grant: Grant, refused: str | None) -> Token:
        """Return a token that stands among the credentials."""
        try:
            token, _ = grant.fetch(tenant, self._client(tenant))
        except Revoked as error:
            self.revoke(tenant, error.message)
            raise
        if token.value == refused:
            self.revoke(tenant, "its token was refused")
            raise Revoked(
                f"{tenant.path}: its token was refused",
                hint=f"make a new one at the vendor and store it: `tidelock tenants set {tenant.system} {tenant.name}`",
            )
        return token

    # ------------------------------------------------------------------------------------------------ signing in

    @contextlib.contextmanager
    def _one_at_a_time(self, key: tuple[str, str], held: _Held | None) -> Iterator[bool]:
        """Let one thread of this process through; of those that hold a usable token the others need not wait."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        mine = lock.acquire(blocking=held is None)
        try:
            yield mine
        finally:
            if mine:
                lock.release()

    def _own(self, tenant: Tenant, grant: Grant) -> Token:
        try:
            token, changed = grant.fetch(tenant, self._client(tenant))
        except Revoked as error:
            self.revoke(tenant, error.message)
            raise
        if changed:
            raise Retry(
                f"{tenant.path}: the vendor has replaced the refresh token, and there is no central database to keep it in",
                hint="set `central.dsn`, or run `tidelock up`",
            )
        self._held[tenant.key] = _Held(token, tenant.credentials)
        return token

    def _shared(self, tenant: Tenant, grant: Grant, refused: str | None, held: _Held | None) -> Token:
        """Take the token from the database, or sign in and put it there; ``held`` is still usable, but due."""
        assert self.tenants.central is not None
        with self.tenants.central.connect() as db, db.transaction():
            row = _locked(db, tenant.key, wait=held is None)
            if row is None:
                assert held is not None
                held.due = time.time() + _LOOK_S
                return held.token
            found = self._decide(db, tenant, grant, refused, row)
        self._unsaved.pop(tenant.key, None)
        if isinstance(found, _Held):
            self._held[tenant.key] = found
            return found.token
        self._held.pop(tenant.key, None)
        self.tenants.forget(tenant.system)
        raise found

    def _decide(self, db: Connection, tenant: Tenant, grant: Grant, refused: str | None, row: _Row) -> _Held | Retry:
        """Return what is to be used from now on, or what is to be raised when it is stored why. The row is ours."""
        current = self._saved(db, self.tenants.fresh(db, *tenant.key))
        self._check(current)
        there, now = self._stored(current, row), time.time()
        if there is not None and there.good(current.credentials, refused, now):
            return there
        if there is not None and not there.usable(current.credentials, refused, now):
            there = None
        try:
            if row.wait_s > 0:
                raise Retry(f"{row.trouble}", hint="tried again by itself", retry_after_s=row.wait_s)
            return self._sign_in(db, current, grant)
        except Revoked as error:
            self.tenants.revoked(db, current, error.message)
            return error
        except Retry as error:
            if row.wait_s <= 0:
                _postpone(db, tenant.key, error)
            if there is None:
                return error
            there.due = now + (error.retry_after_s if error.retry_after_s is not None else _AGAIN_S)
            return there  # it was to be renewed ahead of time: what there is still opens the API

    def _saved(self, db: Connection, tenant: Tenant) -> Tenant:
        """Store what the vendor has replaced and the database, which broke just then, has not got."""
        before, changed = self._unsaved.get(tenant.key, (None, {}))
        if before != tenant.credentials:
            return tenant
        self.tenants.secrets.keep(db, tenant.system, tenant.name, changed)
        return replace(tenant, credentials={**tenant.credentials, **changed})

    def _sign_in(self, db: Connection, tenant: Tenant, grant: Grant) -> _Held:
        token, changed = grant.fetch(tenant, self._client(tenant))
        credentials = {**tenant.credentials, **changed}
        if changed:
            self._unsaved[tenant.key] = (tenant.credentials, changed)
            self.tenants.secrets.keep(db, tenant.system, tenant.name, changed)
            self.tenants.forget(tenant.system)
        content = {"value": token.value, "expires_at": token.expires_at, "extra": token.extra, "got_at": token.got_at}
        sealed = self.tenants.secrets.seal_token(*tenant.key, msgspec.json.encode(content))
        db.execute(
            b"update tidelock.token set sealed = %s, made_with = %s, retry_at = null, trouble = null"
            b" where system = %s and name = %s",
            (sealed, self.tenants.secrets.fingerprint(credentials), *tenant.key),
        )
        return _Held(token, credentials)

    def _stored(self, tenant: Tenant, row: _Row) -> _Held | None:
        """Return the token of the database, if it was got with the credentials the tenant has now."""
        if row.sealed is None or not self.tenants.secrets.matches(tenant.credentials, row.made_with):
            return None
        content = msgspec.json.decode(self.tenants.secrets.open_token(*tenant.key, row.sealed))
        return _Held(Token(**content), tenant.credentials)

    def _client(self, tenant: Tenant) -> httpx.Client:
        """Return the client for a tenant's token endpoint. It follows no redirects: secrets go where the configuration says."""
        ca = tenant.options.get("ca") or tenant.credentials.get("ca")
        with self._lock:
            known = self._clients.get(tenant.key)
            if known is not None and known[0] == ca:
                return known[1]
            if known is not None:
                known[1].close()
            client = httpx.Client(verify=trust(tenant), timeout=_TIMEOUT_S)
            self._clients[tenant.key] = (ca, client)
            return client


# ------------------------------------------------------------------------------------------------------- the row


@dataclass(frozen=True)
class _Row:
    sealed: bytes | None = field(repr=False)
    made_with: bytes | None
    wait_s: float
    trouble: str | None


def _locked(db: Connection, key: tuple[str, str], *, wait: bool) -> _Row | None:
    """Lock a tenant's row; None if another worker has it and there is no need to wait."""
    statement = (
        "select sealed, made_with, coalesce(extract(epoch from retry_at - clock_timestamp()), 0)::float, trouble"
        f" from tidelock.token where system = %s and name = %s for update{'' if wait else ' skip locked'}"
    ).encode()
    while True:
        row = db.execute(statement, key).fetchone()
        if row is not None:
            return _Row(*row)
        made = db.execute(
            b"insert into tidelock.token (system, name) values (%s, %s) on conflict do nothing returning 1", key
        ).fetchone()
        if made is None and not wait:
            return None


def _postpone(db: Connection, key: tuple[str, str], error: Retry) -> None:
    pause_s = error.retry_after_s if error.retry_after_s is not None else _AGAIN_S
    db.execute(
        b"update tidelock.token set retry_at = clock_timestamp() + make_interval(secs => %s), trouble = %s"
        b" where system = %s and name = %s",
        (pause_s, error.message, *key),
    )
