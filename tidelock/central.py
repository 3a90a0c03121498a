"""The installation's own PostgreSQL: tenants added at run time, their tokens, the calls they may still make.

It is needed only where a system is reached through an API. Its tables stand in the schema ``tidelock`` and are brought up to date by
whoever connects first.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from tidelock.config import Config, SystemSpec
from tidelock.embedded import Stack
from tidelock.errors import Fatal, Retry, TidelockError

DATABASE = "tidelock"  # on the embedded server
Connection = psycopg.Connection[tuple[Any, ...]]

_MIGRATING = 0x7469646C  # advisory lock: "tidl"
_SPARE = 4  # idle connections that are kept
_PROVEN_S = 10.0  # an idle connection is looked at before it is used again if it has not been used for so long
# A worker that holds a tenant's token row while it signs in is waited for; one that hangs is cut off.
_SESSION = b"""
set timezone = 'UTC'; set lock_timeout = '60s'; set statement_timeout = '90s'; set idle_in_transaction_session_timeout = '120s'
"""
_MIGRATIONS = (
    """
    create table tidelock.tenant (
        system text not null,
        name text not null,
        added boolean not null,              -- at run time; else it stands in the configuration file
        url text,
        options jsonb not null default '{}',
        condition text,
        credentials bytea,                   -- sealed (tidelock.vault)
        state text not null default 'on' check (state in ('on', 'off', 'revoked')),
        reason text,
        since timestamptz not null default now(),
        refused bytea,                       -- fingerprint of the credentials that are no longer good
        primary key (system, name)
    );
    create table tidelock.tenants_version (version bigint not null);
    insert into tidelock.tenants_version values (0);
    create table tidelock.token (
        system text not null,
        name text not null,
        sealed bytea,
        made_with bytea,                     -- fingerprint of the credentials that it was got with
        retry_at timestamptz,                -- signing in has failed, and is not tried again before
        trouble text,
        primary key (system, name)
    );
    create table tidelock.budget (
        system text not null,
        tenant text not null,
        name text not null,
        state jsonb not null,
        primary key (system, tenant, name)
    ) with (fillfactor = 50);
    """,
    "alter table tidelock.central add column proof bytea",  # sealed: whoever can open it has the right key
    "alter table tidelock.tenant add column fields jsonb not null default '{}'",  # what every record of the tenant has
)


def uses_api(spec: SystemSpec) -> bool:
    """Return whether a system is reached through an API, and so has tenants, tokens and limits that workers share."""
    return bool(spec.credentials or spec.url) or spec.tenants is not None


def needed(config: Config) -> bool:
    """Return whether an installation needs the central database at all."""
    return any(uses_api(spec) for spec in config.systems.values())


def address(config: Config) -> str:
    """Return the connection string: the configured one, or the embedded server's. Raises Fatal if that one is down."""
    if config.central.dsn is not None:
        return config.central.dsn.get_secret_value()
    stack = Stack(config.data / "stack", kafka=False, registry=False)
    return stack.endpoints().dsn(DATABASE)


class Central:
    """Lend connections. Nothing is connected before the first one is asked for; safe to use from several threads."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._idle: list[tuple[float, Connection]] = []
        self._lock = threading.Lock()
        self._ready = False
        self._pid = os.getpid()

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """Lend a connection in autocommit mode; `Connection.transaction` makes a block one transaction.

        psycopg's errors that leave the block are translated: Retry for what passes by itself, Fatal for the rest.
        """
        try:
            db = self._take()
            try:
                yield db
            finally:
                self._give(db)
        except psycopg.Error as error:
            raise translate(error) from error

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, db in idle:
            db.close()

    def _take(self) -> Connection:
        while True:
            with self._lock:
                if self._pid != os.getpid():  # a fork must not speak on its parent's connections
                    self._idle, self._pid = [], os.getpid()
                known = self._idle.pop() if self._idle else None
            if known is None:
                return self._open()
            since, db = known
            if time.monotonic() - since < _PROVEN_S:
                return db
            try:
                db.execute(b"select 1")
            except psycopg.Error:  # the server was started anew meanwhile
                db.close()
            else:
                return db

    def _give(self, db: Connection) -> None:
        if not db.closed and db.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
            with self._lock:
                if len(self._idle) < _SPARE:
                    self._idle.append((time.monotonic(), db))
                    return
        db.close()

    def _open(self) -> Connection:
        try:
            db = psycopg.connect(
                address(self._config),
                autocommit=True,
                connect_timeout=10,
                application_name="tidelock",
                prepare_threshold=None,
                keepalives_idle=30,
            )
        except psycopg.ProgrammingError as error:  # its text would repeat the string, with the password in it
            raise Fatal(
                "`central.dsn` is not a connection string", hint="write it as postgresql://user:password@host/database"
            ) from error
        try:
            db.execute(_SESSION)
            if not self._ready:
                _migrate(db)
                self._ready = True
        except BaseException:
            db.close()
            raise
        return db


def _migrate(db: Connection) -> None:
    """Bring the schema up to date; several may come at once."""
    if _version(db) == len(_MIGRATIONS):
        return
    with db.transaction():
        db.execute(b"select pg_advisory_xact_lock(%s)", (_MIGRATING,))
        there = _version(db)
        if there > len(_MIGRATIONS):
            raise Fatal(
                f"the central database was set up by a newer tidelock (its schema has version {there}, this one knows {len(_MIGRATIONS)})",
                hint="run the newer version everywhere, or give this installation a database of its own in `central.dsn`",
            )
        db.execute(b"create schema if not exists tidelock")
        db.execute(b"create table if not exists tidelock.central (version integer not null)")
        for step in _MIGRATIONS[there:]:
            db.execute(step.encode())
        if there == 0:
            db.execute(b"insert into tidelock.central (version) values (0)")
        db.execute(b"update tidelock.central set version = %s", (len(_MIGRATIONS),))


def _version(db: Connection) -> int:
    # Not to_regclass: after waiting for a lock, it may still answer from what this session remembers of the catalogue.
    there = db.execute(b"select 1 from pg_tables where schemaname = 'tidelock' and tablename = 'central'").fetchone()
    if there is None:
        return 0
    found = db.execute(b"select version from tidelock.central").fetchone()
    return 0 if found is None else int(found[0])


_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|role .* does not exist|database .* does not exist"
)


def translate(error: psycopg.Error) -> TidelockError:
    """Say what an error of the central database means."""
    said = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    state, text = error.sqlstate or "", f"the central database: {said}"
    if state[:2] == "28" or state == "3D000" or (not state and _REFUSED.search(said)):
        return Fatal(text, hint="check user, password and database in `central.dsn`")
    if state == "42501":
        return Fatal(
            text,
            hint="its user needs a schema of its own: CREATE SCHEMA tidelock AUTHORIZATION the user, "
            "or GRANT CREATE ON DATABASE to it",
        )
    if state[:2] in ("22", "23", "42"):
        return Fatal(
            text,
            hint="the tables in its schema `tidelock` are not as this version made them; restore them from a backup",
        )
    if state in ("40001", "40P01", "55P03", "57014"):
        return Retry(text, hint="another worker holds the row; tried again by itself")
    return Retry(text, hint="check that it is up, has room, and can be written to; tried again by itself")
