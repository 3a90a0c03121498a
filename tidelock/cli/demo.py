"""``tidelock demo``: the whole product on real input, with simulated people, verified at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tidelock.cli.common import PROBLEMS
from tidelock.demo.run import Demo, Options, Outcome
from tidelock.demo.view import View


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="How long people work; a round has about 100 edits.")] = 6,
    seed: Annotated[int, typer.Option(help="Another seed, other people and other edits.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the servers' data for a look; otherwise it is removed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on stdout, and nothing else.")] = False,
    folder: Annotated[Path, typer.Option(help="Where everything of the demo lives; its contents are wiped.")] = Path(
        ".tidelock/demo"
    ),
) -> None:
    """Start ten systems, let people edit in all of them at once, and check that nothing is lost. Ends by itself."""
    console = Console(stderr=as_json, highlight=False)
    options = Options(folder, rounds, seed, keep)
    with View(console, quiet=as_json) as view:
        run = Demo(options, view)
        try:
            outcome = run.run()
        finally:
            run.close()
    if as_json:
        sys.stdout.write(json.dumps(outcome.report, default=str) + "\n")
    else:
        _tell(console, outcome, folder)
    if not outcome.verdict.passed or not outcome.report["converged"]:
        raise typer.Exit(PROBLEMS)


def _tell(console: Console, outcome: Outcome, folder: Path) -> None:
    report: dict[str, Any] = outcome.report
    table = Table(title="What happened", title_justify="left", header_style="bold")
    table.add_column("system")
    names = ("edits", "changes", "writes", "echoes", "conflicts", "dead_letters")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for system, counts in report["systems"].items():
        table.add_row(system, *(str(counts[n]) for n in names))
    table.add_section()
    table.add_row("all", *(str(report[n]) for n in names))
    console.print(table)

    def line(text: str, mark: str = "", color: str = "") -> None:
        console.print(Text.assemble((f"{mark} ", color) if mark else "", text), soft_wrap=True)

    fates = sorted(report["fates"].items(), key=lambda f: -f[1])
    line("Where the edits went: " + ", ".join(f"{n} {fate}" for fate, n in fates))
    explained = [m for m in outcome.verdict.mismatches if m.why]
    for why in sorted({m.why for m in explained}):
        some = [m for m in explained if m.why == why]
        m = some[0]
        line(
            f"{len(some)} × {why}: {m.system} {m.entity} {m.field} should be {m.expected}, is {m.found}",
            "kept apart",
            "yellow",
        )
    for m in [m for m in outcome.verdict.mismatches if not m.why][:12]:
        line(f"{m.system} {m.entity} {m.record} {m.field}: expected {m.expected}, found {m.found}", "differs", "red")
    for edit in outcome.verdict.lost[:12]:
        line(json.dumps(edit, default=str), "lost", "red")
    if not report["at_rest"]:
        line("something still moved when time was up", "not at rest", "red")
    passed = outcome.verdict.passed and report["converged"]
    line(
        f"{report['compared']} fields of {report['records']} records compared, {report['edits']} edits, {report['lost']} lost, "
        f"{report['duration_s']} s. Report: {folder / 'report.json'}",
        "✓ converged:" if passed else "✗ NOT converged:",
        "bold green" if passed else "bold red",
    )
    if not passed:
        line(f"The workers' log: {folder / 'workers.log'}; run again with --keep to look into it.")
