"""Lists of records: filters, order by last change with the id as tie-breaker, pages by cursor, and pulling what was not exported."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.datastructures import QueryParams

from simulators.places import Place
from simulators.shop.problems import Problem
from simulators.shop.resources import Resource
from simulators.shop.store import Store
from simulators.shop.tables import Row, Table
from simulators.shop.values import HIGHEST, Wrong, lowered, milliseconds, stamp

MOST = 250
USUAL = 100
LONGEST = 200
SEVERAL = {
    "ids": r"[0-9]{1,9}(,[0-9]{1,9}){0,99}",
    "external_refs": r"[^,\s]{1,64}(,[^,\s]{1,64}){0,99}",
}
"""What lists of ids look like, at most `USUAL` of them."""
_START: Place = (-1, -1)
_BLANK = {"exported": 0, "erp_import_status": "pending", "status": 1}
"""What a blank value means where a list is asked for it."""


@dataclass(slots=True)
class Wish:
    """What a client asks for."""

    limit: int = USUAL
    start: Place = _START
    before_ms: int | None = None
    pull: bool = False
    equal: dict[str, Any] = field(default_factory=dict)
    ids: tuple[int, ...] | None = None
    refs: tuple[str, ...] | None = None
    filters: int = 0
    """A check sum of the filters: a cursor belongs to the list that it was given with."""


def read(resource: Resource, query: QueryParams) -> Wish:
    """Return what the query string asks for. Raises Problem."""
    wish, seen = Wish(), set()
    after_id: int | None = None
    for name, value in query.multi_items():
        if name in seen:
            raise _bad(name, f"Give {name} once.")
        seen.add(name)
        match name:
            case "limit":
                wish.limit = whole(name, value, 1, MOST)
            case "cursor":
                continue
            case "after_id":
                after_id = whole(name, value, 0, HIGHEST)
            case "updated_at_min":
                wish.start = (_moment(name, value), -1)
            case "updated_at_max":
                wish.before_ms = _moment(name, value)
            case "ids":
                wish.ids = tuple(whole(name, part, 0, HIGHEST) for part in _several(name, value))
            case "external_refs":
                wish.refs = tuple(_several(name, value))
            case "pull" if resource.exported:
                wish.pull = bool(whole(name, value, 0, 1))
            case "exported" | "status" if resource.field(name) is not None:
                wish.equal[name] = whole(name, value, 0, 1)
            case _ if name in resource.indexed or name in resource.choices:
                wish.equal[name] = _filter(resource, name, value)
            case _:
                raise Problem(400, "unknown_parameter", f"{resource.name} cannot be asked for {name!r}.")
    if after_id is not None:
        if wish.start == _START:
            raise _bad("after_id", "after_id breaks ties of updated_at_min; send both.")
        wish.start = (wish.start[0], after_id)
    if wish.pull and wish.equal.setdefault("exported", 0) != 0:
        raise _bad("pull", "pull=1 takes what is not exported; leave exported=1 out.")
    kept = sorted((n, v) for n, v in query.multi_items() if n not in ("cursor", "limit"))
    wish.filters = zlib.crc32(repr((resource.name, kept)).encode())
    if "cursor" in query:
        wish.start = max(wish.start, unwrapped(query["cursor"], wish.filters))
    return wish


def page(store: Store, table: Table, wish: Wish) -> dict[str, Any]:
    """Return one page; with `pull` its records are handed over in the same step."""
    rows: list[Row] = []
    more = False
    for row in _candidates(table, wish):
        if wish.before_ms is not None and row.at_ms >= wish.before_ms:
            break
        if (row.at_ms, row.id) <= wish.start or row.visible_ms > store.now_ms() or not _fits(row, wish.equal):
            continue
        if len(rows) == wish.limit:
            more = True
            break
        rows.append(row)
    if wish.pull:
        for row in rows:
            store.hand_over(table.resource, row)
    cursor = wrapped((rows[-1].at_ms, rows[-1].id), wish.filters) if more else None
    return {"data": [row.data for row in rows], "next_cursor": cursor}


def deletions(store: Store, resource: Resource, wish: Wish, keep_s: float) -> dict[str, Any]:
    """Return one page of what was removed for good, oldest first."""
    held = store.deletions[resource.name]
    oldest = store.now_ms() - int(keep_s * 1000)
    first = bisect_right(held, max(wish.start, (oldest - 1, HIGHEST)), key=lambda entry: entry[0])
    shown = held[first : first + wish.limit]
    cursor = wrapped(shown[-1][0], wish.filters) if len(held) > first + wish.limit else None
    return {"data": [told for _, told in shown], "next_cursor": cursor, "kept_since": stamp(oldest)}


def _candidates(table: Table, wish: Wish) -> Iterator[Row]:
    if wish.ids is not None or wish.refs is not None:
        named_ids = dict.fromkeys(wish.ids) if wish.ids is not None else None
        if wish.refs is not None:
            rows = [row for ref in dict.fromkeys(wish.refs) for row in table.having("external_ref", ref)]
            rows = [row for row in rows if named_ids is None or row.id in named_ids]
        else:
            rows = [table.rows[i] for i in named_ids or () if i in table.rows]
        yield from sorted(rows, key=lambda r: (r.at_ms, r.id))
        return
    named = [name for name in wish.equal if name in table.resource.indexed]
    if named:
        yield from table.having(named[0], wish.equal[named[0]])
        return
    log = table.waiting if wish.equal.get("exported") == 0 else table.log
    for _, record_id in log.after(wish.start):
        yield table.rows[record_id]


def _fits(row: Row, equal: dict[str, Any]) -> bool:
    for name, value in equal.items():
        held = row.data[name]
        if (_BLANK.get(name) if held is None else held) != value:
            return False
    return True


def _filter(resource: Resource, name: str, value: str) -> str:
    known = resource.field(name)
    assert known is not None
    if known.one_of and value not in known.one_of:
        raise _bad(name, f"{name} is one of {', '.join(known.one_of)}.")
    if not value.strip() or len(value) > LONGEST:
        raise _bad(name, f"{name} has between 1 and {LONGEST} characters here.")
    return lowered(value.strip()) if known.kind == "email" else value.strip()


def _several(name: str, value: str) -> list[str]:
    if re.fullmatch(SEVERAL[name], value, re.ASCII) is None:
        raise _bad(name, f"{name} takes one to {USUAL} values, separated by commas.")
    return value.split(",")


def whole(name: str, value: str, lowest: int, highest: int) -> int:
    """Return a whole number of the query string. Raises Problem."""
    if value.isascii() and value.isdigit() and len(value) < 20 and lowest <= int(value) <= highest:
        return int(value)
    raise _bad(name, f"{name} is a whole number between {lowest} and {highest}.")


def _moment(name: str, value: str) -> int:
    try:
        return milliseconds(value)
    except ValueError:
        raise _bad(
            name, f"{name} is an RFC 3339 time with a time zone (a plus sign is %2B): 2026-11-26T09:30:00.000Z."
        ) from None


def wrapped(place: Place, filters: int) -> str:
    """Return a cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode([*place, filters])).decode().rstrip("=")


def unwrapped(cursor: str, filters: int) -> Place:
    """Return the place that a cursor stands for. Raises Problem."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at_ms, record_id, belongs = msgspec.json.decode(raw, type=tuple[int, int, int])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise _bad("cursor", "Send next_cursor of an answer as it came.") from None
    if belongs != filters:
        raise _bad("cursor", "The cursor belongs to a list with other filters; begin anew or send the same ones.")
    return at_ms, record_id


def _bad(name: str, message: str) -> Problem:
    return Problem(400, "bad_parameter", message, errors=[Wrong("bad_parameter", name, message)])
