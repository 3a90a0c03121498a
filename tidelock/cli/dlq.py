"""Dead letters: look at them, grouped by what went wrong, and try them again."""

from __future__ import annotations

import base64
from collections import defaultdict
from typing import Annotated, Any

import typer
from confluent_kafka import Message

from tidelock.cli.common import DEFAULT_CONFIG, PROBLEMS, ConfigOption, JsonOption, Session, err, show
from tidelock.cli.look import where
from tidelock.envelopes import Entry, Write
from tidelock.errors import Fatal, Reject
from tidelock.kafka import flush
from tidelock.topicread import read_all
from tidelock.topology import all_topics
from tidelock.tracing import moment

app = typer.Typer(name="dlq", help="Dead letters: ls, show, retry.", no_args_is_help=True)


def letters(session: Session) -> list[tuple[Message, dict[str, str]]]:
    """Return all dead letters with their `dlq.` headers, without that prefix."""
    prefix = f"{session.config.prefix}dlq."
    names = [t.name for t in all_topics(session.config) if t.name.startswith(prefix)]
    out = []
    for message in read_all(session.kafka, names):
        headers = {
            n.removeprefix("dlq."): v.decode(errors="replace")
            for n, v in message.headers() or ()
            if n.startswith("dlq.")
        }
        out.append((message, headers))
    return out


def name_of(message: Message) -> str:
    """Name a dead letter: topic/partition@offset."""
    return f"{message.topic()}/{message.partition()}@{message.offset()}"


@app.command("ls")
def ls(
    every: Annotated[
        bool, typer.Option("--all", help="One row per letter instead of one per kind of trouble.")
    ] = False,
    fail_if_any: Annotated[bool, typer.Option("--fail-if-any", help="Exit with 3 if there are any.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """List dead letters, grouped by what went wrong."""
    session = Session(config)
    found = letters(session)
    if every:
        rows = [
            {"letter": name_of(m), "kind": h.get("kind"), "record": h.get("canonical_id") or (m.key() or b"").decode(errors="replace"),
             "message": h.get("message"), "last_failed": _when(h, "last_failed")}
            for m, h in found
        ]  # fmt: skip
    else:
        groups: dict[tuple[str, str], list[tuple[Message, dict[str, str]]]] = defaultdict(list)
        for m, h in found:
            groups[m.topic(), h.get("fingerprint") or h.get("kind", "?")].append((m, h))
        rows = [
            {"topic": topic, "kind": g[-1][1].get("kind"), "letters": len(g), "first": _when(g[0][1], "first_failed"),
             "last": _when(g[-1][1], "last_failed"), "example": name_of(g[-1][0]), "message": g[-1][1].get("message")}
            for (topic, _), g in sorted(groups.items())
        ]  # fmt: skip
    show(rows, as_json=json, title="dead letters", empty="no dead letters")
    if found and fail_if_any:
        raise typer.Exit(PROBLEMS)


def _when(headers: dict[str, str], name: str) -> str | None:
    text = headers.get(name, "")
    return moment(int(text)) if text.isdigit() else None


def _find(session: Session, letter: str) -> tuple[Message, dict[str, str]]:
    for m, h in letters(session):
        if name_of(m) == letter:
            return m, h
    raise Fatal(f"there is no dead letter {letter}", hint="`tidelock dlq ls --all` names them: topic/partition@offset")


@app.command("show")
def show_one(
    letter: Annotated[str, typer.Argument(help="topic/partition@offset, as `dlq ls --all` names it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Show one dead letter: why, where it came from, the decoded value if it decodes, and the original bytes."""
    session = Session(config)
    message, headers = _find(session, letter)
    row: dict[str, Any] = {"letter": letter, "key": (message.key() or b"").decode(errors="replace"), **headers}
    try:
        row["value"] = session.codec.decode(message.value())
    except Reject as error:
        row["value"] = f"not decodable: {error}"
    row["bytes"] = base64.b64encode(message.value() or b"").decode()
    show([row] if json else [{"": k, "value": v} for k, v in row.items()], as_json=json)


def _tenant(session: Session, write: bytes) -> str:
    """Return the tenant that a refused write was for; all of them (an empty name) if it cannot be told."""
    try:
        return Write.decode(write).tenant if session.codec.kind(write) == "Write" else ""
    except (Reject, IndexError, ValueError):
        return ""


@app.command("retry")
def retry(
    kind: Annotated[str | None, typer.Option(help="Only letters of this kind.")] = None,
    letter: Annotated[str | None, typer.Option(help="Only this letter: topic/partition@offset.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this, only say what would be done.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Try again. A refused write is not repeated as it was: its record is asked to compute a fresh one. Anything else goes to its origin topic."""
    session = Session(config)
    plan: dict[tuple[str, str], tuple[bytes | None, bytes | None, dict[str, Any]]] = {}
    for m, h in letters(session):
        if (kind and h.get("kind") != kind) or (letter and name_of(m) != letter):
            continue
        stage, system, entity = m.topic().removeprefix(f"{session.config.prefix}dlq.").split(".", 2)
        cid = h.get("canonical_id", "")
        if stage == "sink" and cid:
            tenant = _tenant(session, m.value() or b"")
            entry = Entry("resync", cid, system, tenant)
            value = session.codec.header("entry") + entry.encode()
            target = session.topics.journal(entity)
            place = where(session, system, tenant) if tenant else system
            plan[target, f"{cid}/{place}"] = (
                cid.encode(),
                value,
                {"letter": name_of(m), "does": f"ask {cid} for a fresh write to {place}"},
            )
        else:
            target = h.get("origin", "").rsplit("-", 2)[0]
            if not target:
                err.print(f"{name_of(m)} does not say where it came from; left alone")
                continue
            plan[target, name_of(m)] = (
                m.key(),
                m.value(),
                {"letter": name_of(m), "does": f"send it to {target} again"},
            )
    show(
        [row for _, _, row in plan.values()],
        as_json=json,
        title="retry" if apply else "would retry",
        empty="nothing to retry",
    )
    if not apply:
        if plan:
            err.print("nothing was done; add --apply")
        return
    producer = session.kafka.producer("tidelock-cli")
    for (target, _), (key, body, _row) in plan.items():
        producer.produce(target, key=key, value=body)
    flush(producer)
    err.print(f"{len(plan)} sent; `tidelock trace` follows one record")
