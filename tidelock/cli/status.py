"""status: one row per system and entity, and a sentence on top."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict

import typer

from tidelock.cli.common import DEFAULT_CONFIG, PROBLEMS, ConfigOption, JsonOption, Session, err, show
from tidelock.status import query
from tidelock.tracing import moment


def status(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Show how every flow is doing. Exit code 3 if something is not ok."""
    session = Session(config)
    found = query(session.config, session.kafka, session.codec)
    if json:
        sys.stdout.write(jsonlib.dumps(found.as_dict()) + "\n")
    else:
        err.print(found.summary, style="bold", markup=False)
        show(({k: "–" if v is None else v for k, v in asdict(f).items()} for f in found.flows), as_json=False)
        reading = [r for r in found.seeds if r["state"] == "running"]
        if reading:
            show(reading, as_json=False, title="seeds under way")
        if found.waits:
            columns = ("system", "entity", "creates", "state", "rows", "estimate", "reason", "next")
            show(
                ({c: "–" if w[c] is None else w[c] for c in columns} for w in found.waits),
                as_json=False,
                title="creates that wait for a seed",
            )
        if found.tenants:
            show(
                (
                    {**t, "since": "–" if t["since"] is None else moment(int(t["since"] * 1_000_000))}
                    for t in found.tenants
                ),
                as_json=False,
                title="tenants that take no writes",
            )
        quiet = [w for w in found.workers if w["state"] != "ok"]
        if quiet:
            show(quiet, as_json=False, title="workers without a signal")
    if any(f.state != "ok" for f in found.flows) or any(w["state"] != "ok" for w in found.workers):
        raise typer.Exit(PROBLEMS)
