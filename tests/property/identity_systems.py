"""The systems of `tests.property.identity_world`: their records, captures and sinks, and what a captured change tells."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from processors.identity_rows import Sight

Value = tuple[str, str]  # e-mail and phone; "" is none
Row = dict[str, str]  # what a change tells: of "mail", "phone" and "note", those that it does not leave out
Job = tuple[Any, ...]


def pos(version: int) -> bytes:
    return version.to_bytes(16, "big")


def keys_of(value: Value) -> tuple[str, ...]:
    return tuple(f"{kind}:{v}" for kind, v in zip(("mail", "phone"), value, strict=True) if v)


def row_of(payload: bytes) -> Row | None:
    """Return what a change tells; None if it is a delete."""
    row: Row | None = json.loads(payload)[1]
    return row


class JsonJoiner:
    """Join what changes tell, column by column (`processors.identity_rules.Joiner`); a payload is its version and its row."""

    def join(self, older: Sight, newer: Sight, /) -> Sight:
        known: dict[str, tuple[int, str]] = {}
        newest = newer if newer.position >= older.position else older
        for payload in (*older.earlier, older.payload, *newer.earlier, newer.payload):
            version, row = json.loads(payload)
            known |= {c: (version, v) for c, v in row.items() if c not in known or known[c][0] <= version}
        top = int.from_bytes(newest.position, "big")
        parts = {v: {c: x for c, (w, x) in known.items() if w == v} for v in {w for w, _ in known.values()} | {top}}
        *earlier, payload = (json.dumps([v, parts[v]]).encode() for v in sorted(parts))
        ext = newest.ext if newest.ext is not None else newer.ext if newest is older else older.ext
        keys = keys_of((known.get("mail", (0, ""))[1], known.get("phone", (0, ""))[1]))
        return replace(newest, keys=keys, ext=ext, payload=payload, earlier=tuple(earlier))

    def version(self, write: bytes, /) -> int:
        return int(write.split()[-1])

    def partial(self, sight: Sight, /) -> bool:
        return len({c for p in (*sight.earlier, sight.payload) for c in row_of(p) or ()}) < 3

    def parts(self, sight: Sight, /, *, linked: bool) -> list[Sight]:
        parts = [json.loads(p) for p in (*sight.earlier, sight.payload)]
        if linked:
            parts[0][1] = {c: v for _, row in parts for c, v in row.items()}
        return [replace(sight, position=pos(p[0]), payload=json.dumps(p).encode(), earlier=()) for p in parts]


class MemoryRows:
    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def put(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.data.pop(key, None)
        else:
            self.data[key] = value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((k, v) for k, v in self.data.items() if k.startswith(prefix))


# ------------------------------------------------------------------------------------------------ systems


@dataclass
class Native:
    value: Value
    ext: str
    alive: bool = True
    version: int = 1
    note: str = ""

    def row(self) -> Row:
        return whole(self.value, self.note)


def whole(value: Value, note: str) -> Row:
    return {"mail": value[0], "phone": value[1], "note": note}


@dataclass
class System:
    """A system of record. ``log``: capture sees every state, else the latest; ``ext``: it keeps our id in a field;
    ``partial``: its log leaves out what has not changed."""

    place: str
    unique: bool
    log: bool
    ext: bool
    partial: bool = False
    natives: dict[str, Native] = field(default_factory=dict)
    captured: dict[str, deque[tuple[int, Row | None, str]]] = field(default_factory=lambda: defaultdict(deque))
    dirty: set[str] = field(default_factory=set)
    inbox: dict[str, deque[Job]] = field(default_factory=lambda: defaultdict(deque))

    def touched(self, native: str, before: Row | None = None) -> None:
        if self.log:
            self.capture(native, before if self.partial else None)
        else:
            self.dirty.add(native)

    def capture(self, native: str, before: Row | None = None) -> None:
        n = self.natives[native]
        row = {c: v for c, v in n.row().items() if before is None or before[c] != v} if n.alive else None
        self.captured[native].append((n.version, row, n.ext))

    def poll(self) -> None:
        for native in sorted(self.dirty):
            self.capture(native)
        self.dirty.clear()

    def holder(self, value: Value, but: str | None = None) -> str | None:
        """Who holds the e-mail, if this system lets only one."""
        if not self.unique or not value[0]:
            return None
        return next((k for k, n in self.natives.items() if n.alive and n.value[0] == value[0] and k != but), None)

    def insert(self, value: Value, ext: str = "") -> str:
        native = f"{self.place[0]}{len(self.natives) + 1}"
        self.natives[native] = Native(value, ext if self.ext else "")
        self.touched(native)
        return native

    def alter(self, native: str, value: Value | None, note: str | None = None) -> None:
        n = self.natives[native]
        before = n.row() if n.alive else None
        n.version += 1
        n.alive = value is not None
        if value is not None:
            n.value = value
            n.note = (n.note if before else "") if note is None else note
        self.touched(native, before)

    def write(self, w: Write) -> Answer:
        if w.op == "create":
            assert w.value is not None
            other = self.holder(w.value)
            if other:
                return Answer("taken", other, 0, None)
            return Answer("applied", self.insert(w.value, w.cid), 1, w.value)
        n = self.natives[w.native]
        if not n.alive:
            return Answer("applied" if w.op == "delete" else "missing", w.native, n.version, None)
        if n.value not in (w.base, w.value):
            return Answer("refused", w.native, n.version, n.value, n.note)
        if w.value is not None:
            other = self.holder(w.value, w.native)
            if other:
                return Answer("taken", other, n.version, n.value)
        self.alter(w.native, w.value)
        return Answer("applied", w.native, n.version, w.value)


@dataclass(eq=False)
class Write:
    op: str
    cid: str
    place: str
    native: str
    base: Value | None
    value: Value | None
    number: int
    version: int = 0


@dataclass
class Answer:
    outcome: str
    native: str
    version: int
    value: Value | None
    note: str = ""
