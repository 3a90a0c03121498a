"""Replay: move routing back over what was captured. First a plan, then its application; a plan that no longer fits is refused."""

from __future__ import annotations

import datetime as dt
import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from tidelock.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, Session, err, show
from tidelock.errors import Fatal
from tidelock.kafka import translate

app = typer.Typer(
    name="replay", help="Read captured changes again, from an offset or a time: plan, then apply.", no_args_is_help=True
)


def parse_time(text: str, now: dt.datetime | None = None) -> dt.datetime:
    """Read an ISO time or date, or a span back such as -2h, -30m, -1d; times without a zone are UTC. Raises Fatal."""
    now = now or dt.datetime.now(dt.UTC)
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    if text.startswith("-") and text[-1:] in units and text[1:-1].isdigit():
        return now - dt.timedelta(**{units[text[-1]]: int(text[1:-1])})
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise Fatal(f"{text!r} is no time", hint="for example 2026-11-20T09:00Z, 2026-11-20, or -2h") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _group(session: Session) -> str:
    return f"{session.config.prefix}route"


def _committed(session: Session, topics: list[str]) -> dict[tuple[str, int], int]:
    admin = session.kafka.admin()
    known = admin.list_topics(timeout=10).topics
    parts = [TopicPartition(t, p) for t in topics if t in known for p in known[t].partitions]
    if not parts:
        return {}
    future = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(_group(session), parts)])[_group(session)]
    return {(tp.topic, tp.partition): max(tp.offset, 0) for tp in future.result().topic_partitions}


@app.command("plan")
def plan(
    system: Annotated[str | None, typer.Option(help="Only changes of this system.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only changes of this entity.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="From this time: ISO, a date, or -2h.")] = None,
    offset: Annotated[int | None, typer.Option(help="From this offset in every partition.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the plan.")] = Path("replay.json"),
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Show per partition what would be read again, and write it down as a plan file. Changes nothing."""
    if (since is None) == (offset is None):
        raise Fatal("say from where", hint="--since 2026-11-20T09:00Z (or -2h), or --offset 0")
    session = Session(config)
    topics = [
        session.topics.cdc(s, e)
        for s, spec in session.config.systems.items()
        for e in spec.entities
        if spec.capture != "none" and system in (None, s) and entity in (None, e)
    ]
    committed = _committed(session, topics)
    consumer = session.kafka.consumer("tidelock-cli", "tidelock-cli")
    rows: list[dict[str, Any]] = []
    try:
        at = None if since is None else parse_time(since)
        for (topic, p), now in sorted(committed.items()):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
            if at is not None:
                found = consumer.offsets_for_times([TopicPartition(topic, p, int(at.timestamp() * 1000))], timeout=10)[
                    0
                ].offset
                new = high if found < 0 else found
            else:
                new = offset or 0
            new = max(low, min(new, now))
            rows.append(
                {"topic": topic, "partition": p, "now": now, "new": new, "again": now - new, "oldest": low, "end": high}
            )
    finally:
        consumer.close()
    if at is not None:
        err.print(f"from {at.isoformat()}")
    show(rows, as_json=json, title="replay plan", empty="no captured topics")
    out.write_text(jsonlib.dumps({"group": _group(session), "partitions": rows}, indent=1))
    err.print(
        f"{sum(r['again'] for r in rows)} changes would be read again; what a record has taken already is dropped by its position, so only what"
        f" is missing is written.\nplan: {out}; next: stop the workers, then `tidelock replay apply {out}`"
    )


@app.command("apply")
def apply(
    file: Annotated[Path, typer.Argument(help="A plan that `replay plan` wrote.", exists=True, dir_okay=False)],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Move the offsets as planned. Refused while route runs, or when its offsets have moved since the plan."""
    session = Session(config)
    body = jsonlib.loads(file.read_text())
    rows = body["partitions"]
    group = body["group"]
    admin = session.kafka.admin()
    state = admin.describe_consumer_groups([group])[group].result().state
    if state not in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD, ConsumerGroupState.UNKNOWN):
        raise Fatal(
            f"group {group} is active ({state.name.lower()})",
            hint="stop the workers first: `tidelock down`, then `tidelock up`",
        )
    now = _committed(session, sorted({r["topic"] for r in rows}))
    moved = [r for r in rows if now.get((r["topic"], r["partition"])) != r["now"]]
    if moved:
        r = moved[0]
        raise Fatal(
            f"{r['topic']}/{r['partition']} stood at {r['now']} when the plan was made and stands at {now.get((r['topic'], r['partition']))} now",
            hint="make a new plan",
        )
    parts = [TopicPartition(r["topic"], r["partition"], r["new"]) for r in rows]
    try:
        admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, parts)])[group].result()
    except KafkaException as error:
        raise translate(error, f"moving the offsets of {group}") from error
    err.print(f"moved; `tidelock run` reads {sum(r['again'] for r in rows)} changes again")
