"""Changes by Change Data Capture events over CometD: what has changed is told within seconds, and then read.

An event carries only what changed, with a time of its own; so events say which records are to be read, and a change carries the whole
row, at the same version as every other way of reading gives it. The replay id of the last event that was taken is the cursor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from producers.salesforce_pages import Told, by_time, records, settled
from producers.source import Cursor, Page, Task
from tidelock.apis.records import Record
from tidelock.apis.salesforce import SETTLED_S, Salesforce
from tidelock.apis.salesforce_errors import long_id
from tidelock.errors import Fatal, Retry

NEW = -1
LATE_S = 300
"""How far back a line that is opened looks for what became visible late."""

Message = Mapping[str, Any]


class Forgotten(Exception):
    """The org no longer has the events behind the replay id."""


@dataclass
class Line:
    """A CometD client of one channel. Every position is in the cursor, so a line may break at any time."""

    org: Salesforce
    channel: str
    wait_s: float
    client: str | None = None
    at: int | None = None
    """The last event that this line has handed out."""
    scanned: bool = False
    """Whether what came before the line was opened has been read by its time."""
    _waiting: list[Message] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def open(self, replay: int | None) -> None:
        """Shake hands and subscribe behind a replay id, unless the line stands there already. Raises Forgotten, Retry, Fatal."""
        if self.client is not None and self.at == replay:
            return
        self.client, self.scanned = None, False
        for attempt in (1, 2):
            reply = self._one(
                {
                    "channel": "/meta/handshake",
                    "version": "1.0",
                    "supportedConnectionTypes": ["long-polling"],
                    "ext": {"replay": True},
                }
            )
            if reply.get("successful"):
                break
            if attempt == 2 or not _unauthorised(reply):
                raise Retry(
                    f"{self.org.tenant.path}: the handshake for change events failed: {_said(reply)}",
                    hint="tried again by itself",
                )
            self.org.send(
                "GET", "limits", name="look"
            )  # an expired token is noticed, and renewed, by a call of the REST API
        client = str(reply["clientId"])
        wanted = NEW if replay is None else replay
        reply = self._one(
            {
                "channel": "/meta/subscribe",
                "clientId": client,
                "subscription": self.channel,
                "ext": {"replay": {self.channel: wanted}},
            }
        )
        if not reply.get("successful"):
            if str(reply.get("error", "")).startswith("400") and replay is not None:
                raise Forgotten
            raise self._refused(reply)
        self.client, self.at = client, replay
        self._waiting = self._connect(0.0)  # the first connect does not wait, but brings what has come since

    def events(self) -> list[Message]:
        """Return events that have come, after waiting for some. A line that broke comes back empty and is opened anew."""
        found, self._waiting = self._waiting, []
        if not found and self.client is not None:
            found = self._connect(self.wait_s)
        if found:
            self.at = int(found[-1]["event"]["replayId"])
        return found

    def _connect(self, wait_s: float) -> list[Message]:
        message = {"channel": "/meta/connect", "clientId": self.client, "connectionType": "long-polling"}
        replies = self._send([{**message, "advice": {"timeout": int(wait_s * 1000)}}])
        if any(m.get("channel") == "/meta/connect" and not m.get("successful") for m in replies):
            self.client = None
        return [m["data"] for m in replies if m.get("channel") == self.channel and "data" in m]

    def close(self) -> None:
        """Forget the client; the org forgets it by itself."""
        self.client = None

    def _one(self, message: dict[str, Any]) -> Message:
        replies = self._send([message])
        return next((m for m in replies if m.get("channel") == message["channel"]), {})

    def _send(self, messages: list[dict[str, Any]]) -> list[Message]:
        path = f"/cometd/{self.org.version}"
        numbered = [{**m, "id": str(next(self._ids))} for m in messages]
        try:
            answer = self.org.raw("POST", path, json=numbered, name="events").json()
        except Retry:
            self.client = None  # what it was about to say is asked for again by its replay id
            raise
        return [m for m in answer if isinstance(m, dict)]

    def _refused(self, reply: Message) -> Retry | Fatal:
        error = _said(reply)
        if error.startswith(("403", "404")) and "Unknown client" not in error:
            return Fatal(
                f"{self.org.tenant.path}: no change events of {self.channel}: {error}",
                hint="Setup → Change Data Capture: select the object; the user needs the right to see all its records",
            )
        return Retry(
            f"{self.org.tenant.path}: subscribing to {self.channel} failed: {error}", hint="tried again by itself"
        )


def _said(reply: Message) -> str:
    failure = (reply.get("ext") or {}).get("sfdc", {}).get("failureReason")
    return str(failure or reply.get("error") or "no reason given")


def _unauthorised(reply: Message) -> bool:
    return _said(reply).startswith("401")


# ------------------------------------------------------------------------------------------------------- reading


@dataclass
class Named:
    """What some events say: which records have changed, who changed them last, and up to when that was."""

    origins: dict[str, str] = field(default_factory=dict)
    newest_ms: int = 0
    whole: bool = False


def named(events: Sequence[Message]) -> Named:
    """Read the headers of events. An overflow, or ids that are a pattern, means that everything has to be read."""
    out = Named()
    for event in events:
        header = event["payload"]["ChangeEventHeader"]
        ids = [str(i) for i in header["recordIds"]]
        out.newest_ms = max(out.newest_ms, int(header["commitTimestamp"]))
        if header["changeType"] == "GAP_OVERFLOW" or any("*" in i for i in ids):
            out.whole = True
            continue
        origin = str(header.get("changeOrigin") or "")
        out.origins.update(dict.fromkeys(map(long_id, ids), origin))
    return out


def listened(
    org: Salesforce,
    task: Task,
    cursor: Cursor,
    line: Line,
    told: Told,
    wait: Callable[[float], bool],
    whole: Callable[[int | None], Iterator[Page]],
) -> Iterator[Page]:
    """Read what events name, for one wait. Until the first event has come, a line that is opened reads by time what came before it."""
    replay, at = cursor.get("replay"), int(cursor["at"])
    thing = org.describe(task.table.table)
    try:
        line.open(replay)
    except Forgotten:
        yield from whole(None)
        return
    if replay is None and ("scan" in cursor or not line.scanned):
        for page in _by_time(org, task, cursor, at, told, ()):
            at = int(page.cursor["at"])
            yield page
        line.scanned = True
    while True:
        events = line.events()
        if not events:
            yield Page([], {"replay": line.at, "at": at}, last=True)
            return
        said = named(events)
        if said.whole:
            yield from whole(line.at)
            return
        wait(max(0.0, min(3.0, said.newest_ms / 1000 + SETTLED_S + 0.5 - org.now())))
        org.time()
        if replay is None:
            # What came just before the line was opened is in no event, and was too young to be read then.
            yield from _by_time(org, task, {"at": at}, at, told, said.origins)
        rows, gone = settled(org, thing, list(said.origins), task.names, wait)
        ended = said.newest_ms // 1000 * 1_000_000
        found = [
            replace(record, ours=said.origins[record.key].endswith(f";client={org.client_name}"))
            for record in records(org, thing, list(rows.values()))
        ]
        found += [Record(key, {}, (ended, 1), ended, deleted=True) for key in gone]
        replay, at = line.at, max(at, said.newest_ms // 1000)
        yield Page(found, {"replay": replay, "at": at}, read=len(events))


def _by_time(
    org: Salesforce, task: Task, cursor: Cursor, at: int, told: Told, others: Container[str]
) -> Iterator[Page]:
    """Read what was touched since a cursor, except for ``others``; its last page says from when on it is looked at again."""
    thing, until, scan = org.describe(task.table.table), org.settled(), cursor.get("scan")
    since = (int(scan[0]), str(scan[1])) if scan else (at, "")
    for rows, place in by_time(org, task, since, until):
        news = [row for row in told.news(rows, thing) if row["Id"] not in others]
        yield Page(records(org, thing, news), {"replay": None, "at": at, "scan": list(place)}, read=len(rows))
        told.add(news, thing)
    told.forget(at)
    yield Page([], {"replay": None, "at": max(at, until - LATE_S)})
