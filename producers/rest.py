"""Capture of any paged HTTP API that the configuration describes (`capture: rest`): no code, only where things stand.

Polling asks for what was changed at or after the newest time it has told. A time of whole seconds (``settle_s``) that is not over yet
waits for the next poll: it may still come to stand for another state. Records at the very edge are remembered, so that they are told
once. A sorted list is read on from its last time, so that a change meanwhile moves nothing out of sight; only records that share one
time are paged through.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from producers.api import ApiProducer
from producers.schedule import Schedule
from producers.source import Cursor, Page, Task
from tidelock.apis.client import ApiClient
from tidelock.apis.described import MISSING, columns_for, dig, text_at
from tidelock.apis.judging import Answer
from tidelock.apis.records import ApiColumn, Record
from tidelock.apis.rest import Description, Listing, Reading, Records, address, client_of, description_of, server_now
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Retry
from tidelock.tenants import Tenant

_MICROS = 1_000_000


class RestSource:
    """One tenant of a described API (`producers.source.Source`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._context, self._tenant = context, tenant
        self._described: Description = description_of(tenant)
        self._made: ApiClient | None = None

    @property
    def _client(self) -> ApiClient:
        if self._made is None:
            self._made = client_of(self._context, self._tenant, self._described)
        return self._made

    def close(self) -> None:
        """Close connections."""
        if self._made is not None:
            self._made.close()

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns, typed as the mapping says: the API is not asked."""
        return columns_for(self._context.config, self._tenant.system, table)

    # ------------------------------------------------------------------------------------------------ changes

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        """Read what has changed, or compare all keys."""
        listing = self._listing()
        if kind == "deletes":
            yield from self._keys(task, listing)
            return
        if task.table.modified is None:
            raise Fatal(
                f"{self._tenant.path}: {task.table.table} has no `modified`",
                hint="polling needs the path of a time, or of a number, that moves with every change",
            )
        if cursor is None:
            _, answer = self._page(task, listing, {}, first_only=True)
            yield Page([], {"since": self._start(task, listing, server_now(answer)), "told": []}, last=True)
            return
        if kind == "overlap" and not cursor.get("begun"):
            width = int(task.table.overlap_s * _MICROS) if self._described.version == "time" else 0
            cursor = {"since": max(0, int(cursor["since"]) - width), "told": [], "begun": True}
        yield from self._changes(task, listing, cursor)

    def _start(self, task: Task, listing: Listing, now: int) -> int:
        """Return the version from which on changes are told."""
        if self._described.version == "time":
            return now - int(self._described.settle_s * _MICROS)
        records = (r for page, _ in self._all(task, listing, {}) for r in page)
        return max((r.version[0] for r in records), default=0)

    def _changes(self, task: Task, listing: Listing, cursor: Cursor) -> Iterator[Page]:
        since, told = int(cursor["since"]), set(cursor.get("told", []))
        newest, at_newest = int(cursor.get("newest", since)), set(cursor.get("at_newest", told))
        token, begun = cursor.get("token"), {"begun": True} if cursor.get("begun") else {}
        held = cursor.get("held")
        while True:
            asked = {"since": since, "token": token}
            records, answer = self._page(task, listing, asked)
            now = server_now(answer)
            out = []
            for record in records:
                version = record.version[0]
                if self._unsettled(record, now):
                    held = version if held is None else min(held, version)
                if held is not None and version >= held:
                    continue  # the next poll tells it, and what comes behind it
                if version < since or (version == since and record.key in told):
                    continue
                out.append(record)
                if version > newest:
                    newest, at_newest = version, set()
                if version == newest:
                    at_newest.add(record.key)
            token = self._next(listing, asked, records, answer)
            more = token is not None or (listing.paging == "none" and listing.sorted and len(records) >= listing.size)
            if more and listing.sorted and records and since < records[-1].version[0] <= newest:
                since, told, token = newest, set(at_newest), None
            elif more and token is None and held is None:
                raise Fatal(
                    f"{self._tenant.path}: more {task.table.table} share one time than a page of {listing.size} holds",
                    hint="describe how pages follow one another: `options.list.paging`",
                )
            else:
                more = token is not None
            if not more:
                if held is not None and newest >= held:  # of a list that is not sorted
                    newest, at_newest = held - 1, set()
                yield Page(out, {"since": newest, "told": sorted(at_newest), **begun}, len(records), last=True)
                return
            state: dict[str, Any] = {
                "since": since,
                "told": sorted(told),
                "newest": newest,
                "at_newest": sorted(at_newest),
            }
            yield Page(out, {**state, "token": token, "held": held, **begun}, len(records))

    def _keys(self, task: Task, listing: Listing) -> Iterator[Page]:
        for records, _ in self._all(task, listing, {}):
            yield Page([], {}, len(records), met=[r.key for r in records if not r.deleted], whole=True)
        yield Page([], {}, whole=True, last=True)

    # ------------------------------------------------------------------------------------------------ everything

    def parts(self, task: Task, where: str | None) -> list[Cursor]:
        """Return the one part there is. Raises Fatal for a condition: it is not known how to ask it."""
        if where is not None:
            raise Fatal(f"{self._tenant.path} cannot be asked for a part of {task.entity}", hint="leave `--where` out")
        return [{}]

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read everything."""
        listing, token = self._listing(), part.get("token")
        while True:
            asked = {"token": token}
            records, answer = self._page(task, listing, asked)
            token = self._next(listing, asked, records, answer)
            yield Page([r for r in records if not r.deleted], {"token": token}, len(records), last=token is None)
            if token is None:
                return

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single records; one whose time is so new that it may stand for another state, too, is read again behind it."""
        reading = self._described.read
        if reading is None:
            raise Fatal(
                f"{self._tenant.path}: single records of {task.entity} cannot be read",
                hint="describe it in `options.read`: docs/connectors/rest.md",
            )
        found, now = self._read(task, reading, keys)
        fresh = [r.key for r in found if not r.deleted and self._unsettled(r, now)]
        if fresh:
            self._context.stop.wait(self._described.settle_s)
            again = {r.key: r for r in self._read(task, reading, fresh)[0]}
            found = [again.get(r.key, r) for r in found]
        return found

    def _unsettled(self, record: Record, now: int) -> bool:
        """Return whether a record's time may come to stand for another state, too: it is coarse, and not over yet by the server's clock.

        One that is no whole multiple of ``settle_s`` shows that times are finer than that.
        """
        width, at = int(self._described.settle_s * _MICROS), record.version[0]
        return bool(self._described.version == "time" and width and at > now - width and at % width == 0)

    def _read(self, task: Task, reading: Reading, keys: Sequence[str]) -> tuple[list[Record], int]:
        records, out, now = Records(self._described, task.table, self._tenant), list[Record](), 0
        for at in range(0, len(keys), reading.size):
            some = keys[at : at + reading.size]
            names = {"key": some[0]} if reading.size == 1 else {"keys": reading.separator.join(some)}
            url = address(reading.url, task.table, f"options.read.url of {self._tenant.path}", **names)
            answer = self._client.send("GET", url, ok=(404, 410), name="read")
            now = server_now(answer)
            there: dict[str, Record] = {}
            if answer.status < 300:
                body = answer.json()
                listed = _list(dig(body, reading.items)) if reading.size > 1 else [dig(body, reading.path)]
                there = {r.key: r for item in listed for r in [records.of(item, now=now)]}
            out += [there.get(key) or records.missing(key, now) for key in some]
        return out, now

    # ------------------------------------------------------------------------------------------------ lists

    def _listing(self) -> Listing:
        if self._described.list is None:
            raise Fatal(
                f"{self._tenant.path}: records cannot be listed",
                hint="describe it in `options.list`: docs/connectors/rest.md",
            )
        return self._described.list

    def _all(self, task: Task, listing: Listing, asked: dict[str, Any]) -> Iterator[tuple[list[Record], Answer]]:
        token = None
        while True:
            records, answer = self._page(task, listing, {**asked, "token": token})
            yield records, answer
            token = self._next(listing, {"token": token}, records, answer)
            if token is None:
                return

    def _page(
        self, task: Task, listing: Listing, asked: dict[str, Any], *, first_only: bool = False
    ) -> tuple[list[Record], Answer]:
        """Ask for one page."""
        params: dict[str, Any] = dict(listing.parameters)
        since, token = asked.get("since"), asked.get("token")
        if listing.since is not None and since is not None:
            params[listing.since] = self._spelt(listing, int(since))
        if listing.size_parameter:
            params[listing.size_parameter] = 1 if first_only else listing.size
        url = address(listing.url, task.table, f"options.list.url of {self._tenant.path}")
        if listing.paging in ("url", "link") and token is not None:
            url, params = str(token), {}
        elif listing.paging in ("page", "offset"):
            start = listing.first if listing.paging == "page" else 0
            params[listing.parameter or listing.paging] = start if token is None else token
        elif token is not None:
            params[listing.parameter or "cursor"] = token
        answer = self._client.send("GET", url, params=params, name="list")
        if answer.status >= 400:
            raise Fatal(
                f"{self._tenant.path}: the list of {task.table.table} answered {answer.status}",
                hint="correct `options.list.url`, or `url`",
            )
        now, records = server_now(answer), Records(self._described, task.table, self._tenant)
        found = [records.of(item, now=now) for item in _list(dig(answer.json(), listing.items))]
        return found, answer

    def _next(
        self, listing: Listing, asked: dict[str, Any], records: Sequence[Record], answer: Answer
    ) -> str | int | None:
        """Return what leads to the next page; None behind the last."""
        if listing.paging in ("page", "offset"):
            if len(records) < listing.size:
                return None
            start = asked.get("token")
            if listing.paging == "page":
                return int(listing.first if start is None else start) + 1
            return int(start or 0) + len(records)
        if listing.paging == "link":
            found = re.search(r'<([^>]+)>\s*;[^,]*\brel="?next"?', answer.headers.get("Link", ""))
            return found[1] if found else None
        if listing.paging in ("cursor", "url"):
            if listing.next_header:
                return answer.headers.get(listing.next_header) or None
            return text_at(answer.json(), listing.next) or None
        return None

    def _spelt(self, listing: Listing, since: int) -> str | int:
        if self._described.version == "integer":
            return since
        at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=since)
        match listing.since_format:
            case "s":
                return since // _MICROS
            case "ms":
                return since // 1000
            case "date":
                return at.date().isoformat()
            case _:
                return at.isoformat(timespec="microseconds" if since % _MICROS else "seconds").replace("+00:00", "Z")


def _list(found: Any) -> list[Any]:
    if found is MISSING or not isinstance(found, list):
        raise Retry(
            "an answer has no list where `items` says",
            hint="correct `items` in the options, or see whether something else answers in the API's place",
        )
    return found


class RestProducer(ApiProducer):
    """Capture what the configuration describes."""

    source = RestSource
    kinds: ClassVar[tuple[str, ...]] = ("poll", "overlap", "deletes")

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return the schedules; keys are compared only if the configuration asks for it."""
        found = super().schedules(entity)
        if "find_deletes" not in self.spec.options:
            found.pop("deletes", None)
        return found
