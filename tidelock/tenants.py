"""The tenants of systems: those of the configuration file and those added at run time, with their state.

What stands in the database is laid over what stands in the file, name by name. A tenant is ``on``, switched ``off`` by a person, or
``revoked``: its credentials were refused. It is on again as soon as it has other credentials, wherever they come from.

A run starts with the tenants there are (`with_tenants`); one that comes, goes or changes its options later makes the supervisor start
the workers that need it anew. Credentials and states are looked up while running, so they need no restart.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from tidelock.central import Central, Connection
from tidelock.config import NAME, Config, SystemSpec, TenantSpec
from tidelock.errors import Fatal
from tidelock.tenantsecrets import TenantSecrets
from tidelock.vault import Vault

State = Literal["on", "off", "revoked"]
_KEPT_S = 2.0  # how old what is known of the database may be


@dataclass(frozen=True)
class Tenant:
    """One organisation, portal or database of a system, with everything it inherits from the system."""

    system: str
    name: str
    url: str | None
    options: Mapping[str, Any]
    credentials: Mapping[str, str]
    when: str | None
    state: State
    reason: str | None
    since: datetime | None
    added: bool = False  # at run time, not in the configuration file
    fields: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Show everything but the values of credentials."""
        names = ", ".join(sorted(self.credentials))
        return f"Tenant({self.system}/{self.name}, {self.state}, url={self.url!r}, options={dict(self.options)!r}, credentials: {names})"

    @property
    def key(self) -> tuple[str, str]:
        """Return what names it: system and name."""
        return self.system, self.name

    @property
    def path(self) -> str:
        """Return its name for people: ``system/name``."""
        return f"{self.system}/{self.name}"


class _Nobody(Fatal):
    """There is no such tenant."""


@dataclass(frozen=True)
class _Row:
    """What the database knows of a tenant."""

    name: str
    added: bool = False
    url: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    condition: str | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    state: State = "on"
    reason: str | None = None
    since: datetime | None = None
    refused: bytes | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


_COLUMNS = "name, added, url, options, condition, credentials, state, reason, since, refused, fields"


class Tenants:
    """Look up and change tenants. Without a central database there are those of the file, and nothing can be changed."""

    def __init__(self, config: Config, central: Central | None) -> None:
        self.central = central
        self.secrets = TenantSecrets(Vault(config))
        self._config = config
        self._has_key = False
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, dict[str, Tenant]]] = {}

    # ------------------------------------------------------------------------------------------------ looking

    def all(self, system: str) -> list[Tenant]:
        """Return the tenants of a system by name, at most two seconds old. Raises Fatal if there is no such system."""
        return list(self._known(system).values())

    def get(self, system: str, name: str) -> Tenant:
        """Return one tenant, at most two seconds old. Raises Fatal if there is none."""
        found = self._known(system).get(name)
        if found is None:
            raise self._nobody(system, name)
        return found

    def fresh(self, db: Connection, system: str, name: str) -> Tenant:
        """Return one tenant as it stands now, read on a connection. Raises Fatal if there is none."""
        row = db.execute(
            f"select {_COLUMNS} from tidelock.tenant where system = %s and name = %s".encode(), (system, name)
        ).fetchone()
        known = None if row is None else self._row(system, row)
        if known is None and name not in self._spec(system).all_tenants:
            raise self._nobody(system, name)
        return self._merge(system, name, known)

    def forget(self, system: str) -> None:
        """Look again at the next question, however fresh the last answer is."""
        with self._lock:
            self._cache.pop(system, None)

    def version(self) -> int:
        """Return a number that grows with every change that a running installation must notice."""
        if self.central is None:
            return 0
        with self.central.connect() as db:
            row = db.execute(b"select version from tidelock.tenants_version").fetchone()
        return 0 if row is None else int(row[0])

    def _known(self, system: str) -> dict[str, Tenant]:
        with self._lock:
            known = self._cache.get(system)
            if known is not None and time.monotonic() - known[0] < _KEPT_S:
                return known[1]
            rows: dict[str, _Row] = {}
            names = dict.fromkeys(self._spec(system).all_tenants)
            if self.central is not None:
                with self._proven(self.central) as db:
                    found = db.execute(
                        f"select {_COLUMNS} from tidelock.tenant where system = %s order by name".encode(), (system,)
                    ).fetchall()
                rows = {row.name: row for row in (self._row(system, r) for r in found)}
                names |= dict.fromkeys(row.name for row in rows.values() if row.added)
            tenants = {name: self._merge(system, name, rows.get(name)) for name in names}
            self._cache[system] = (time.monotonic(), tenants)
            return tenants

    def _merge(self, system: str, name: str, row: _Row | None) -> Tenant:
        spec, row = self._spec(system), row or _Row(name)
        own = spec.all_tenants.get(name) or TenantSpec()
        secrets = {**spec.credentials, **own.credentials}
        credentials = {k: v.get_secret_value() for k, v in secrets.items()} | dict(row.credentials)
        state, reason, since = row.state, row.reason, row.since
        if state == "revoked" and not self.secrets.matches(credentials, row.refused):
            state, reason = "on", None  # it has other credentials now
        off = self._off(system, name)
        if off is not None:
            state, reason, since = "off", off, None
        return Tenant(
            system=system,
            name=name,
            url=row.url or own.url or spec.url,
            options={**spec.options, **own.options, **row.options},
            credentials=credentials,
            when=row.condition or own.when,
            state=state,
            reason=reason,
            since=since,
            added=row.added,
            fields=row.fields or own.fields,
        )

    def _row(self, system: str, row: tuple[Any, ...]) -> _Row:
        name, added, url, options, condition, sealed, state, reason, since, refused, fields = row
        credentials = self.secrets.open(system, name, sealed)
        return _Row(name, added, url, options, condition, credentials, state, reason, since, refused, fields)

    def _spec(self, system: str) -> SystemSpec:
        spec = self._config.systems.get(system)
        if spec is None:
            raise Fatal(f"there is no system {system}", hint=f"systems: {', '.join(self._config.systems)}")
        return spec

    def _off(self, system: str, name: str) -> str | None:
        """Say where the configuration file switches a tenant off; None if it does not."""
        spec = self._spec(system)
        own = spec.all_tenants.get(name)
        if spec.enabled and (own is None or own.enabled):
            return None
        where = f"systems.{system}{f'.tenants.{name}' if spec.enabled else ''}"
        return f"{where} has `enabled: false` in the configuration file"

    def _nobody(self, system: str, name: str) -> _Nobody:
        return _Nobody(
            f"system {system} has no tenant {name}",
            hint="`tidelock tenants ls` lists them, `tidelock tenants add` adds one",
        )

    # ------------------------------------------------------------------------------------------------ changing

    def add(
        self,
        system: str,
        name: str,
        *,
        url: str | None = None,
        options: Mapping[str, Any] | None = None,
        credentials: Mapping[str, str] | None = None,
        when: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Tenant:
        """Add a tenant at run time. Raises Fatal if there is one of that name, or the system is not one of several tenants."""
        spec = self._spec(system)
        if not re.match(NAME, name):
            raise Fatal(f"{name!r} is no name", hint="lower-case letters, digits and _, beginning with a letter")
        if spec.dsn is not None:
            raise Fatal(f"system {system} is a database, which is one tenant", hint="add a system of its own")
        if spec.tenants is None:
            raise Fatal(
                f"system {system} has one tenant, {spec.tenant}, as the configuration file stands",
                hint=f"write `tenants: {{{spec.tenant}: {{}}}}` into systems.{system} to keep it and make room for others, or "
                "`tenants: {}` if all of them are added at run time; then add this one again",
            )
        if name in spec.tenants:
            raise Fatal(
                f"tenant {name} of system {system} stands in the configuration file",
                hint="change it there; `tidelock tenants set` changes its credentials only",
            )
        with self._changing(system) as db:
            done = db.execute(
                b"insert into tidelock.tenant (system, name, added, url, options, condition, credentials, fields)"
                b" values (%s, %s, true, %s, %s, %s, %s, %s) on conflict (system, name) do update set added = true,"
                b" url = excluded.url, options = excluded.options, condition = excluded.condition,"
                b" credentials = excluded.credentials, fields = excluded.fields, state = 'on', reason = null, since = now()"
                b" where not tenant.added returning 1",
                (
                    system,
                    name,
                    url,
                    Jsonb(dict(options or {})),
                    when,
                    self.secrets.seal(system, name, credentials or {}),
                    Jsonb(dict(fields or {})),
                ),
            ).fetchone()
            if done is None:
                raise Fatal(
                    f"system {system} has a tenant {name} already",
                    hint="`tidelock tenants set` changes it, `tidelock tenants remove` removes it",
                )
        return self.get(system, name)

    def change(
        self,
        system: str,
        name: str,
        *,
        url: str | None = None,
        options: Mapping[str, Any] | None = None,
        credentials: Mapping[str, str] | None = None,
        when: str | None = None,
    ) -> Tenant:
        """Change what is given of a tenant; of one in the configuration file only the credentials. Raises Fatal."""
        tenant = self.get(system, name)
        if (url or options or when) and not tenant.added:
            raise Fatal(
                f"tenant {name} of system {system} stands in the configuration file",
                hint="change it there; only its credentials can be changed here",
            )
        if url or options or when:
            with self._changing(system) as db:
                db.execute(
                    b"update tidelock.tenant set url = coalesce(%s, url), options = options || %s,"
                    b" condition = coalesce(%s, condition) where system = %s and name = %s",
                    (url, Jsonb(dict(options or {})), when, system, name),
                )
        if credentials:
            self.connected(system, name, credentials)
        return self.get(system, name)

    def remove(self, system: str, name: str) -> None:
        """Remove a tenant that was added at run time, and its secrets. Raises Fatal."""
        if not self.get(system, name).added:
            raise Fatal(
                f"tenant {name} of system {system} stands in the configuration file",
                hint="remove it there, or switch it off: `tidelock tenants disable`",
            )
        with self._changing(system) as db:
            db.execute(b"delete from tidelock.token where system = %s and name = %s", (system, name))
            db.execute(b"delete from tidelock.tenant where system = %s and name = %s", (system, name))
            db.execute(b"delete from tidelock.budget where system = %s and tenant = %s", (system, name))

    def enable(self, system: str, name: str) -> None:
        """Switch a tenant on, also one that was revoked: its credentials are tried again. Raises Fatal."""
        self.get(system, name)
        off = self._off(system, name)
        if off is not None:
            raise Fatal(f"{system}/{name} is off: {off}", hint="set it to true there, and start again")
        with self._changing(system) as db:
            self._set(db, system, name, "on", None)
            db.execute(
                b"update tidelock.token set retry_at = null, trouble = null where system = %s and name = %s",
                (system, name),
            )

    def disable(self, system: str, name: str, reason: str | None = None) -> None:
        """Switch a tenant off: nothing is read from it or written to it; what is to be written waits. Raises Fatal."""
        self.get(system, name)
        with self._changing(system) as db:
            self._set(db, system, name, "off", reason)

    def revoke(self, system: str, name: str, reason: str, *, credentials: Mapping[str, str] | None = None) -> None:
        """Note that a tenant's credentials are no longer good. It stays so until it has others, or is enabled. Raises Fatal.

        ``credentials`` are those that were refused, where a person may have stored others meanwhile; nothing happens to these.
        """
        if self.central is None:
            return
        with self._connection() as db, db.transaction():
            tenant = self.fresh(db, system, name)
            if credentials is None or credentials == tenant.credentials:
                self.revoked(db, tenant, reason)
        self.forget(system)

    def revoked(self, db: Connection, tenant: Tenant, reason: str) -> None:
        """Do what `revoke` does, in a transaction of the caller's; the tenant holds the credentials that were refused."""
        self._set(db, tenant.system, tenant.name, "revoked", reason, self.secrets.fingerprint(tenant.credentials))
        db.execute(
            b"update tidelock.token set sealed = null, retry_at = null, trouble = null where system = %s and name = %s",
            tenant.key,
        )

    def connected(self, system: str, name: str, credentials: Mapping[str, str]) -> None:
        """Store new credentials, beside those it has under other names, and switch the tenant on. Raises Fatal."""
        self.get(system, name)
        with self._changing(system) as db:
            # Whoever is signing in with the old ones has come to an end once the token can be removed.
            db.execute(b"delete from tidelock.token where system = %s and name = %s", (system, name))
            self.secrets.keep(db, system, name, credentials)
            self._set(db, system, name, "on", None)

    def reseal(self) -> int:
        """Bring everything under the present key that is under an earlier one; return how many secrets that were. Raises Fatal."""
        done = 0
        with self._connection() as db:
            with db.transaction():
                self.secrets.prove_again(db)
            keys = db.execute(
                b"select system, name from tidelock.tenant union select system, name from tidelock.token"
            ).fetchall()
            for system, name in keys:
                if system not in self._config.systems:
                    continue
                with db.transaction():
                    done += self.secrets.reseal(db, system, name)
                    with contextlib.suppress(_Nobody):  # of an earlier configuration
                        self.secrets.mark_again(db, system, name, self.fresh(db, system, name).credentials)
        return done

    def _set(
        self, db: Connection, system: str, name: str, state: State, reason: str | None, refused: bytes | None = None
    ) -> None:
        db.execute(
            b"insert into tidelock.tenant as t (system, name, added, state, reason, refused) values (%s, %s, false, %s, %s, %s)"
            b" on conflict (system, name) do update set reason = excluded.reason, refused = excluded.refused,"
            b" since = case when t.state = excluded.state then t.since else now() end, state = excluded.state",
            (system, name, state, reason, refused),
        )

    def _connection(self) -> contextlib.AbstractContextManager[Connection]:
        if self.central is None:
            raise Fatal(
                "there is no central database, so tenants are those of the configuration file",
                hint="set `central.dsn`, or give a system `url`, `credentials` or `tenants` and run `tidelock up`",
            )
        return self._proven(self.central)

    @contextlib.contextmanager
    def _proven(self, central: Central) -> Iterator[Connection]:
        """Lend a connection; the first time, see that its secrets are ours."""
        with central.connect() as db:
            if not self._has_key:
                self.secrets.prove(db)
                self._has_key = True
            yield db

    @contextlib.contextmanager
    def _changing(self, system: str) -> Iterator[Connection]:
        """Lend a transaction that every running installation notices."""
        with self._connection() as db, db.transaction():
            yield db
            db.execute(b"update tidelock.tenants_version set version = version + 1")
        self.forget(system)


def with_tenants(config: Config, central: Central | None) -> Config:
    """Return the configuration with the tenants added at run time in ``systems.*.tenants``, without their credentials and states."""
    if central is None:
        return config
    with central.connect() as db:
        rows = db.execute(
            b"select system, name, url, options, condition, fields from tidelock.tenant where added order by system, name"
        ).fetchall()
    systems = dict(config.systems)
    for name, spec in config.systems.items():
        added = {
            tenant: TenantSpec(url=url, options=options, when=condition, fields=fields)
            for system, tenant, url, options, condition, fields in rows
            if system == name
        }
        if added:
            systems[name] = spec.model_copy(update={"tenants": {**spec.all_tenants, **added}})
    return config.model_copy(update={"systems": systems})
