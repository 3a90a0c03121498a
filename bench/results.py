"""From turns to figures: medians, spreads, ratios of the same round, the JSON file and the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.rounds import Turn

RESULTS = Path(__file__).with_name("results") / "latest.json"
KINDS = ("inserts", "updates")
# what is divided by the peer's: name → (figure of a turn, target, whether more is better)
Figure = Callable[[Turn], float | None]


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return one contestant's figures over all its rounds: medians, with lowest and highest beside them."""
    kinds = [kind for kind in KINDS if any(kind in turn.phases for turn in turns)]
    rates = sorted({rate for turn in turns for rate in turn.latency_ms}, key=int)
    out: dict[str, Any] = {}
    if kinds:
        out["events_per_s"] = {kind: _middle(_throughput(kind), turns, 0) for kind in kinds}
        out["cpu_us_per_event"] = _middle(cpu_us, turns)
        out["cpu_us_per_event_by_kind"] = {kind: _middle(_cpu_of(kind), turns) for kind in kinds}
        out["server_cpu_us_per_event"] = {
            who: _middle(_server_cpu(who), turns) for who in ("kafka", "registry", "postgres", "generator")
        }
        out["spread"] = {
            **{f"events_per_s.{kind}": _spread(_throughput(kind), turns) for kind in kinds},
            "cpu_us_per_event": _spread(cpu_us, turns),
        }
        out["memory_mb"] = turns[-1].memory_mb
    if rates:
        out["latency_ms"] = {
            rate: {p: _middle(_latency(rate, p), turns) for p in ("p50", "p95", "p99")} for rate in rates
        }
        out["rate_reached"] = {rate: _middle(_reached(rate), turns) for rate in rates}
        out.setdefault("spread", {}).update(
            {f"latency_ms.{rate}.{p}": _spread(_latency(rate, p), turns) for rate in rates for p in ("p50", "p99")}
        )
    out["ready_s"] = _middle(lambda turn: turn.ready_s, turns)
    out["about"] = turns[-1].about
    return out


def ratios(turns: Sequence[Turn], ours: str = "tidelock", peer: str = "debezium") -> dict[str, Any]:
    """Return ours divided by the peer's, round by round, and the median; empty when one of them did not run."""
    figures: dict[str, Figure] = {
        **{f"throughput_{kind}": _throughput(kind) for kind in KINDS},
        "throughput": overall,
        "cpu_per_event": cpu_us,
        **{
            f"latency_{p}_{rate}": _latency(rate, p)
            for rate in sorted({r for t in turns for r in t.latency_ms}, key=int)
            for p in ("p50", "p95", "p99")
        },
    }
    out: dict[str, Any] = {}
    for name, figure in figures.items():
        per_round = []
        for number in sorted({turn.round for turn in turns}):
            pair = {turn.contestant: figure(turn) for turn in turns if turn.round == number}
            mine, theirs = pair.get(ours), pair.get(peer)
            if mine is not None and theirs:
                per_round.append(round(mine / theirs, 3))
        if per_round:
            out[name] = {"median": round(median(per_round), 3), "rounds": per_round}
    return out


def overall(turn: Turn) -> float | None:
    """Return events per second over inserts and updates together."""
    if not turn.phases:
        return None
    return sum(p.events for p in turn.phases.values()) / sum(p.seconds for p in turn.phases.values())


def cpu_us(turn: Turn) -> float | None:
    """Return the contestant's own CPU per event over inserts and updates together."""
    if not turn.phases:
        return None
    events = sum(phase.events for phase in turn.phases.values())
    return sum(phase.cpu_us_per_event["own"] * phase.events for phase in turn.phases.values()) / events


def document(turns: Sequence[Turn], machine: dict[str, Any], extras: dict[str, Any]) -> dict[str, Any]:
    """Return everything that is written."""
    names = list(dict.fromkeys(turn.contestant for turn in turns))
    return {
        "machine": machine,
        **{name: summary([turn for turn in turns if turn.contestant == name]) for name in names},
        "ratios": ratios(turns),
        **extras,
        "rounds": [turn.as_json() for turn in turns],
    }


def write(body: dict[str, Any], path: Path) -> None:
    """Write the results in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def show(body: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    names = [name for name in ("tidelock", "debezium", "native") if name in body]
    if names:
        console.print(_contestants(body, names))
    if body["ratios"]:
        table = Table(title="tidelock / Debezium, round by round", title_justify="left", header_style="bold")
        for column in ("figure", "median", "rounds"):
            table.add_column(column)
        for name, found in body["ratios"].items():
            table.add_row(name, f"{found['median']:.2f} ×", "  ".join(f"{value:.2f}" for value in found["rounds"]))
        console.print(table)
    alone = ("two_way", "recovery_s", "restart_s", "restore_s", "records_of_state", "memory_mb", "tenants", "apis")
    extras = [name for name in alone if name in body]
    if extras:
        table = Table(title="tidelock alone", title_justify="left", header_style="bold", show_header=False)
        for name in extras:
            for key, value in _flat(body[name]):
                table.add_row(f"{name}.{key}" if key else name, str(value))
        console.print(table)


def _contestants(body: dict[str, Any], names: Sequence[str]) -> Table:
    table = Table(title="source commit → destination row", title_justify="left", header_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")

    def row(title: str, *path: str) -> None:
        cells = [_cell(body[name], path) for name in names]
        if any(cells):
            table.add_row(title, *(cell or "–" for cell in cells))

    for kind in KINDS:
        row(f"{kind}/s", "events_per_s", kind)
    row("CPU µs per event, own", "cpu_us_per_event")
    for who in ("kafka", "postgres"):
        row(f"CPU µs per event, {who}", "server_cpu_us_per_event", who)
    for rate in sorted({rate for name in names for rate in body[name].get("latency_ms", {})}, key=int):
        row(f"latency at {rate}/s, p50 / p95 / p99 ms", "latency_ms", rate)
    return table


def _cell(found: Any, path: Sequence[str]) -> str:
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, dict):
        return " / ".join(f"{value:,.0f}" for value in found.values())
    return "" if found is None else f"{found:,.0f}"


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _throughput(kind: str) -> Figure:
    return lambda turn: turn.phases[kind].events_per_s if kind in turn.phases else None


def _cpu_of(kind: str) -> Figure:
    return lambda turn: turn.phases[kind].cpu_us_per_event["own"] if kind in turn.phases else None


def _server_cpu(who: str) -> Figure:
    def figure(turn: Turn) -> float | None:
        found = [phase.cpu_us_per_event[who] for phase in turn.phases.values() if who in phase.cpu_us_per_event]
        return sum(found) / len(found) if found else None

    return figure


def _latency(rate: str, percentile: str) -> Figure:
    return lambda turn: turn.latency_ms[rate][percentile] if rate in turn.latency_ms else None


def _reached(rate: str) -> Figure:
    return lambda turn: turn.rate_reached.get(rate)


def _values(figure: Figure, turns: Sequence[Turn]) -> list[float]:
    return [value for turn in turns if (value := figure(turn)) is not None]


def _middle(figure: Figure, turns: Sequence[Turn], digits: int = 1) -> float | None:
    values = _values(figure, turns)
    return round(median(values), digits) if values else None


def _spread(figure: Figure, turns: Sequence[Turn]) -> list[float]:
    values = _values(figure, turns)
    return [round(min(values), 1), round(max(values), 1)] if values else []
