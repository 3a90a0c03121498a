"""Checks before anything runs: findings with the next step. A check that could not be made is a finding of its own, never silence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from confluent_kafka import KafkaException

from tidelock.central import Central, needed, uses_api
from tidelock.config import Config, SystemSpec, TableSpec
from tidelock.errors import TidelockError
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry
from tidelock.tenants import Tenants

POSTGRES_KINDS = ("postgres", "store")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``ok``, ``warning`` or ``error``."""

    level: str
    where: str
    message: str
    hint: str = ""


def check_servers(bootstrap: str, registry_url: str, config: Config) -> Iterator[Finding]:
    """Look whether Kafka and the registry answer."""
    try:
        brokers = KafkaClients(bootstrap, config.kafka.settings).admin().list_topics(timeout=5).brokers
        yield Finding("ok", "kafka", f"{len(brokers)} broker(s) at {bootstrap}")
    except KafkaException as error:
        yield Finding(
            "error",
            "kafka",
            f"{bootstrap} does not answer: {error.args[0].str()}",
            "check kafka.bootstrap, or `tidelock up`",
        )
    try:
        user, password = config.registry.user, config.registry.password
        Registry(
            registry_url, auth=(user, password.get_secret_value()) if user and password else None
        ).require_backward()
        yield Finding("ok", "registry", registry_url)
    except TidelockError as error:
        yield Finding("error", "registry", error.message, error.hint or "")


def check_central(config: Config) -> Iterator[Finding]:
    """Look whether the central database answers, its secrets open, and every tenant has credentials that are good as far as is known."""
    if not needed(config):
        return
    try:
        with contextlib.closing(Central(config)) as central:
            known = [t for name, s in config.systems.items() if uses_api(s) for t in Tenants(config, central).all(name)]
    except TidelockError as error:
        yield Finding("error", "central", error.message, error.hint or "")
        return
    yield Finding("ok", "central", f"the central database answers; {len(known)} tenant(s)")
    for tenant in known:
        if tenant.state == "revoked":
            again = f"`tidelock tenants connect {tenant.system} {tenant.name}`, or other credentials"
            yield Finding("error", f"systems.{tenant.system}.tenants.{tenant.name}", f"revoked: {tenant.reason}", again)


def check_system(name: str, system: SystemSpec) -> Iterator[Finding]:
    """Connect to a PostgreSQL system and look whether its tables, columns and rights fit the configuration."""
    where = f"systems.{name}"
    if system.kind not in POSTGRES_KINDS or system.dsn is None:
        return
    try:
        with psycopg.connect(system.dsn.get_secret_value(), connect_timeout=5, autocommit=True) as conn:
            yield Finding(
                "ok", where, f"connected to PostgreSQL {conn.info.server_version // 10000}, database {conn.info.dbname}"
            )
            if system.capture == "replication":
                yield from _replication(conn, where)
            if system.kind != "store":
                for entity, table in system.entities.items():
                    yield from _table(conn, f"{where}.entities.{entity}", table)
    except psycopg.OperationalError as error:
        text = " ".join(str(error).split())
        hint = (
            "check user and password in `dsn`"
            if "authentication" in text or "password" in text
            else "check host, port and database in `dsn`"
        )
        yield Finding("error", f"{where}.dsn", text, hint)
    except psycopg.Error as error:
        yield Finding(
            "error",
            where,
            f"the check could not be made: {' '.join(str(error).split())}",
            "check the rights of the user in `dsn`",
        )


def _replication(conn: psycopg.Connection, where: str) -> Iterator[Finding]:
    level = conn.execute("SELECT current_setting('wal_level')").fetchone()
    if level is not None and level[0] != "logical":
        yield Finding(
            "error",
            where,
            f"wal_level is {level[0]}, not logical",
            "ALTER SYSTEM SET wal_level = logical, then restart that server",
        )
    role = conn.execute("SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    if role is not None and not role[0]:
        yield Finding(
            "error", where, f"user {conn.info.user} may not replicate", f'ALTER ROLE "{conn.info.user}" REPLICATION'
        )
    free = conn.execute(
        "SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)"
    ).fetchone()
    if free is not None and free[0] < 1:
        yield Finding(
            "warning", where, "no replication slot is free", "raise max_replication_slots, or drop slots nobody uses"
        )


def _table(conn: psycopg.Connection, where: str, table: TableSpec) -> Iterator[Finding]:
    row = conn.execute("SELECT to_regclass(%s)::oid", (table.table,)).fetchone()
    if row is None or row[0] is None:
        yield Finding(
            "error",
            f"{where}.table",
            f"there is no table or view {table.table}",
            "check its name, its schema and the user's rights",
        )
        return
    found = conn.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped", (row[0],)
    ).fetchall()
    there = {r[0] for r in found}
    wanted = {*table.key, *(c for b in table.map for c in b.column_names)}
    wanted |= {c for c in (table.canonical_id, table.modified, table.actor) if c}
    missing = sorted(wanted - there)
    if missing:
        yield Finding(
            "error", where, f"{table.table} has no column {', '.join(missing)}", f"it has: {', '.join(sorted(there))}"
        )
    else:
        yield Finding("ok", where, f"{table.table}: {len(wanted)} columns are there")
