"""init and check: a first configuration, and what is wrong with one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from tidelock.avro import FieldType
from tidelock.cli.common import DEFAULT_CONFIG, PROBLEMS, ConfigOption, JsonOption, endpoints, err, read_config, show
from tidelock.configfile import SharedTable, example, starting_config
from tidelock.errors import Fatal
from tidelock.preflight import Finding, check_central, check_servers, check_system

_TYPES = {
    "smallint": FieldType.INTEGER, "integer": FieldType.INTEGER, "bigint": FieldType.INTEGER, "numeric": FieldType.DECIMAL,
    "real": FieldType.NUMBER, "double precision": FieldType.NUMBER, "boolean": FieldType.BOOLEAN, "date": FieldType.DATE,
    "timestamp with time zone": FieldType.TIMESTAMP, "timestamp without time zone": FieldType.LOCAL_TIMESTAMP,
    "json": FieldType.JSON, "jsonb": FieldType.JSON, "uuid": FieldType.UUID, "bytea": FieldType.BYTES,
}  # fmt: skip


def check(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Check the configuration, the servers, and every system's connection, rights, tables and columns. Exit code 3 on findings."""
    loaded = read_config(config)
    findings = [
        Finding(
            "ok",
            str(config),
            f"{len(loaded.systems)} systems, {len(loaded.entities)} entities, {len(loaded.flows)} flows",
        )
    ]
    try:
        bootstrap, registry = endpoints(loaded)
        findings += check_servers(bootstrap, registry, loaded)
    except Fatal as error:
        findings.append(Finding("warning", "servers", error.message, error.hint or ""))
    findings += check_central(loaded)
    for name, system in loaded.systems.items():
        findings += check_system(name, system)
    show((asdict(f) for f in findings), as_json=json)
    if any(f.level == "error" for f in findings):
        raise typer.Exit(PROBLEMS)
    err.print("nothing stands in the way; next: [bold]tidelock run[/bold]")


def init(
    first: Annotated[str | None, typer.Argument(help="Connection string of the first database.")] = None,
    second: Annotated[str | None, typer.Argument(help="Connection string of the second database.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
) -> None:
    """Write a commented starting configuration. Given two databases, tables that both have are filled in."""
    if config.exists() and not force:
        raise Fatal(f"{config} exists", hint="edit it, or --force overwrites it")
    if not no_input and first is None and _asks():
        first = typer.prompt("connection string of the first database", default="", show_default=False) or None
        second = (
            typer.prompt("connection string of the second database", default="", show_default=False) or None
            if first
            else None
        )
    if first is None or second is None:
        text = example()
        err.print("no databases were named: the file holds an example to edit")
    else:
        shared = _shared(first, second)
        text = starting_config(first, second, shared)
        err.print(
            f"{len(shared)} table(s) that both databases have: {', '.join(t.entity for t in shared) or 'none, the file shows how'}"
        )
    Path(config).write_text(text)
    err.print(f"wrote {config}; read it through, then [bold]tidelock check[/bold]")


def _asks() -> bool:
    import sys

    return sys.stdin.isatty()


def _tables(dsn: str) -> dict[str, tuple[tuple[str, ...], dict[str, FieldType]]]:
    """Return (key columns, column types) of every table with a primary key in `public`."""
    try:
        with psycopg.connect(dsn, connect_timeout=5) as conn:
            rows = conn.execute(
                "SELECT c.table_name, c.column_name, c.data_type, k.column_name IS NOT NULL FROM information_schema.columns c"
                " JOIN information_schema.tables t USING (table_schema, table_name)"
                " LEFT JOIN information_schema.table_constraints p ON p.table_schema = c.table_schema AND p.table_name = c.table_name"
                " AND p.constraint_type = 'PRIMARY KEY'"
                " LEFT JOIN information_schema.key_column_usage k ON k.constraint_name = p.constraint_name"
                " AND k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name"
                " WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position"
            ).fetchall()
    except psycopg.Error as error:
        raise Fatal(
            f"cannot look into {dsn.rpartition('@')[2]}: {' '.join(str(error).split())}",
            hint="check the connection string",
        ) from error
    out: dict[str, tuple[tuple[str, ...], dict[str, FieldType]]] = {}
    for table, column, kind, key in rows:
        keys, columns = out.get(table, ((), {}))
        columns[column] = _TYPES.get(kind, FieldType.STRING)
        out[table] = ((*keys, column) if key else keys, columns)
    return {t: v for t, v in out.items() if v[0]}


def _shared(first: str, second: str) -> list[SharedTable]:
    a, b = _tables(first), _tables(second)
    out = []
    for name in a:
        if name not in b:
            continue
        columns = {c: k for c, k in a[name][1].items() if b[name][1].get(c) == k and c not in a[name][0]}
        if columns:
            match = tuple(c for c in columns if "mail" in c)[:1]
            entity = "".join(ch if ch.isalnum() else "_" for ch in name.lower()).strip("_")
            out.append(SharedTable(entity, name, name, columns, match, a[name][0], b[name][0]))
    return out
