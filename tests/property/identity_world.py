"""A small world around the real `Identity`: systems, users, capture, route, a minimal merge, writes and receipts.

One value (its match keys) stands for all fields; a note beside it is only captured, so that what a change leaves out is missed.
Every queue can be served next; what is served is the driver's choice.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import Any

from processors.identity_core import Identity
from processors.identity_rows import Sight
from processors.identity_rules import Rules
from tests.property.identity_systems import (
    Answer,
    Job,
    JsonJoiner,
    MemoryRows,
    Row,
    System,
    Value,
    Write,
    keys_of,
    pos,
    row_of,
    whole,
)

# ------------------------------------------------------------------------------------------------ a minimal merge


@dataclass(eq=False)
class Copy:
    native: str
    cur: Value | None
    at: int
    note: str = ""
    behind: dict[str, int] = field(default_factory=dict)  # where what later changes have left out was last captured
    landed: list[tuple[int, Value | None]] = field(default_factory=list)
    flight: Write | None = None
    held: list[Sight] = field(default_factory=list)

    def believed(self) -> Value | None:
        return self.landed[-1][1] if self.landed else self.cur


@dataclass
class Golden:
    value: Value | None = None
    deleted: bool = False
    copies: dict[str, Copy] = field(default_factory=dict)
    creating: dict[str, Value | None] = field(default_factory=dict)
    parked: dict[str, Value | None] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ the world


class Tape:
    """Write down every decision."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def linked(self, cid: str, sight: Sight, grants: tuple[str, ...]) -> None:
        self.told.append(("linked", cid, sight, grants))

    def change(self, cid: str, sight: Sight) -> None:
        self.told.append(("change", cid, sight))

    def link(self, place: str, native: str, partition: int, cid: str, through: int) -> None:
        self.told.append(("link", place, native, partition, cid, through))

    def no_link(self, place: str, native: str, partition: int) -> None:
        self.told.append(("no_link", place, native, partition))

    def note(self, kind: str, cid: str, place: str, native: str, reason: str, payload: bytes) -> None:
        self.told.append((kind, cid, place, native, reason, payload))

    def receipts(self, cid: str, payload: bytes) -> None:
        self.told.append(("receipts", cid, payload))

    def write(self, cid: str, place: str, payload: bytes) -> None:
        self.told.append(("write", cid, place, payload))

    def held(self, sight: Sight, rivals: tuple[str, ...], reason: str) -> None:
        self.told.append(("held", sight, rivals, reason))

    def conflict(self, sight: Sight, chosen: str, other: str) -> None:
        self.told.append(("conflict", sight, chosen, other))

    def waiting(self, place: str, creates: int) -> None:
        pass  # a gauge per batch, not a decision

    def drain(self, place: str) -> None:
        self.told.append(("drain", place))


class World(Tape):
    """Systems, route, merge and identify, joined by queues that anybody may be served from next."""

    def __init__(self, r: random.Random, policy: str, trace: list[Any] | None = None, *, seeding: bool = False) -> None:
        super().__init__()
        self.r, self.trace = r, trace
        places = [f"{name}/t" for name in "abc"[: r.choice([2, 2, 3])]]
        self.systems = {p: System(p, r.random() < 0.4, r.random() < 0.5, r.random() < 0.6) for p in places}
        for s in self.systems.values():
            s.partial = s.log and r.random() < 0.5
        self.policy = policy
        self.grants = r.random() < 0.8
        self.releases = r.choice([0.0, 0.0, 0.4])
        self.sloppy = r.choice([0.0, 0.05])  # how often something is delivered twice, or a cache dropped
        others = {p: tuple(q for q in places if q != p) for p in places}
        closing = frozenset(places if seeding else ())
        self.rules = Rules("contact", tuple(places), others if self.grants else {}, policy, closing)
        self.marks = [(p, i) for p in sorted(closing) for i in range(2)]  # ends of seeds, still to come
        self.rows = MemoryRows()
        self.identity = Identity(self.rules, self.rows, self, JsonJoiner())
        self.offsets = itertools.count()
        self.numbers = itertools.count(1)
        self.route_links: dict[tuple[str, str], str] = {}
        self.long_way: dict[tuple[str, str], int] = {}
        self.past: dict[tuple[str, str], list[Sight]] = defaultdict(list)
        self.link_queue: dict[tuple[str, str], deque[tuple[str, int]]] = defaultdict(deque)
        self.queue: deque[Job] = deque()
        self.journals: dict[str, deque[Job]] = defaultdict(deque)
        self.due: dict[str, deque[tuple[Write, Answer]]] = defaultdict(deque)
        self.golden: dict[str, Golden] = defaultdict(Golden)
        self.writes: dict[bytes, Write] = {}
        self.answers: dict[bytes, tuple[Write, Answer]] = {}
        self.taken_in: list[Job] = []
        self.ids: set[str] = set()
        self.decided = False  # a person may well have asked for two of ours in one place
        self.versions: dict[tuple[str, str], int] = {}  # of creates
        self.made: dict[tuple[str, str], str] = {}  # what our creates have made, for whom
        self.handled: set[tuple[str, str]] = set()  # what a person has decided about by name, or somebody has deleted
        self.died: set[str] = set()  # records that were dead when their merger came
        self.person_left = r.choice([0, 0, 1, 3])

    def say(self, *what: Any) -> None:
        if self.trace is not None:
            self.trace.append(what)

    # ---- route

    def sight(self, s: System, native: str, version: int, row: Row | None, ext: str) -> Sight:
        visible: str | None = ext if s.ext and row is not None and self.r.random() < 0.9 else None
        payload = json.dumps([version, row]).encode()
        keys = keys_of((row.get("mail", ""), row.get("phone", ""))) if row else ()
        return Sight(s.place, native, pos(version), keys, visible, row is None, 0, next(self.offsets), payload)

    def route(self, sight: Sight) -> None:
        k = sight.place, sight.native
        if k in self.route_links:
            self.journals[self.route_links[k]].append(("change", sight))
        else:
            self.queue.append(("unknown", sight))
            self.long_way[k] = max(sight.offset, self.long_way.get(k, -1))

    def take_link(self, k: tuple[str, str]) -> None:
        cid, through = self.link_queue[k].popleft()
        if cid and through >= self.long_way.get(k, -1):
            self.route_links[k] = cid
        else:
            self.route_links.pop(k, None)

    # ---- identify: entries in, decisions out

    def identify(self, job: Job) -> None:
        self.taken_in.append(job)
        apply(self.identity, job, self.answers)

    def linked(self, cid: str, sight: Sight, grants: tuple[str, ...]) -> None:
        super().linked(cid, sight, grants)
        if grants:
            assert cid not in self.ids, "an id was used twice"
        self.ids.add(cid)
        self.journals[cid].append(("linked", sight, grants))

    def change(self, cid: str, sight: Sight) -> None:
        super().change(cid, sight)
        self.journals[cid].append(("change", sight))

    def link(self, place: str, native: str, partition: int, cid: str, through: int) -> None:
        super().link(place, native, partition, cid, through)
        self.link_queue[place, native].append((cid, through))

    def no_link(self, place: str, native: str, partition: int) -> None:
        super().no_link(place, native, partition)
        self.link_queue[place, native].append(("", -1))

    def note(self, kind: str, cid: str, place: str, native: str, reason: str, payload: bytes) -> None:
        super().note(kind, cid, place, native, reason, payload)
        self.journals[cid].append((kind, place, native, reason, payload))

    def receipts(self, cid: str, payload: bytes) -> None:
        super().receipts(cid, payload)
        self.journals[cid].append(("receipt", *self.answers[payload]))

    def drain(self, place: str) -> None:
        super().drain(place)
        self.queue.append(("drain", place))

    def write(self, cid: str, place: str, payload: bytes) -> None:
        assert all(place != marked for marked, _ in self.marks), f"{place} is written before its seed is through"
        super().write(cid, place, payload)
        self.systems[place].inbox[cid].append((self.writes[payload],))

    # ---- merge

    def entry(self, cid: str) -> None:
        kind, *rest = self.journals[cid].popleft()
        g = self.golden[cid]
        getattr(self, f"on_{kind}")(cid, g, *rest)
        if g.value is not None and not (g.deleted or g.copies or g.creating):  # its copies were given to others
            g.deleted = True
            self.queue.append(("dying", cid))

    def on_linked(self, cid: str, g: Golden, sight: Sight, grants: tuple[str, ...]) -> None:
        if g.deleted:
            self.bounce(cid, sight)
            for place in grants:
                self.queue.append(("release", cid, place))
            return
        place = sight.place
        g.creating.pop(place, None)
        g.parked.pop(place, None)
        row = row_of(sight.payload)
        assert row is not None
        assert len(row) == 3, f"{place}/{sight.native} is linked without what earlier changes told: {row}"
        value = row["mail"], row["phone"]
        g.copies[place] = Copy(sight.native, value, int.from_bytes(sight.position, "big"), row["note"])
        if g.value is None:
            g.value = value
        for other in grants:
            if self.r.random() < self.releases:
                self.queue.append(("release", cid, other))
            else:
                g.creating[other] = g.value
                self.systems[other].inbox[cid].append((self.make(cid, other, g.value),))
        self.emit(cid, g)

    def make(self, cid: str, place: str, value: Value | None) -> Write:
        version = self.versions[cid, place] = self.versions.get((cid, place), 0) + 1
        return Write("create", cid, place, "", None, value, next(self.numbers), version)

    def bounce(self, cid: str, sight: Sight) -> None:
        self.queue.append(("bounce", cid, sight.place, sight.native, replace(sight, offset=-1, partition=-1)))

    def on_change(self, cid: str, g: Golden, sight: Sight) -> None:
        c = g.copies.get(sight.place)
        if c is None or c.native != sight.native:
            self.bounce(cid, sight)
            return
        if c.flight is not None and sight.position > pos(c.at):
            c.held.append(sight)
        else:
            self.observe(cid, g, sight.place, c, int.from_bytes(sight.position, "big"), row_of(sight.payload))
        self.emit(cid, g)

    def observe(self, cid: str, g: Golden, place: str, c: Copy, at: int, row: Row | None) -> None:
        expected = c.cur
        if at <= c.at:  # overtaken: only what later changes have left out counts still
            row = {k: v for k, v in (row or {}).items() if c.behind.get(k, c.at) < at}
            if not row:
                return
            c.behind |= dict.fromkeys(row, at)
        else:
            c.behind = {k: c.behind.get(k, c.at) for k in ("mail", "phone", "note") if k not in (row or {})}
            c.at = at
            while c.landed and c.landed[0][0] <= at:
                landed, expected = c.landed.pop(0)
                c.behind |= {k: max(p, landed) for k, p in c.behind.items() if k != "note"}
        if row is None:
            value = None
        else:
            mail, phone = expected or ("", "")
            value, c.note = (row.get("mail", mail), row.get("phone", phone)), row.get("note", c.note)
        c.cur = value
        if value is None:
            del g.copies[place]
            self.queue.append(("left", cid, place, c.native, pos(at)))
            if expected is not None and not g.deleted:
                g.deleted = True
                self.queue.append(("dying", cid))
        elif (
            value not in (expected, g.value)
            and not g.deleted
            and (g.value == expected or place == self.rules.places[0])
        ):
            g.value = value
            self.queue.append(("keys", cid, keys_of(value)))

    def on_no_create(self, cid: str, g: Golden, place: str, *_: Any) -> None:
        g.creating.pop(place, None)

    def on_park(self, cid: str, g: Golden, place: str, native: str, reason: str, payload: bytes) -> None:
        g.parked[place] = g.creating.pop(place, None)
        self.emit(cid, g)

    def on_retry(self, cid: str, g: Golden, place: str, *_: Any) -> None:
        g.parked.pop(place, None)
        self.emit(cid, g)

    def on_unlink(self, cid: str, g: Golden, place: str, native: str, *_: Any) -> None:
        c = g.copies.get(place)
        if c is not None and c.native == native:
            del g.copies[place]
            self.hand_back(cid, place, c)
            self.emit(cid, g)

    def on_merge(self, cid: str, g: Golden, place: str, native: str, winner: str, payload: bytes) -> None:
        if g.deleted:
            self.died.add(cid)
            return
        g.deleted = True
        for where, c in list(g.copies.items()):
            del g.copies[where]
            self.hand_back(cid, where, c)

    def hand_back(self, cid: str, place: str, c: Copy) -> None:
        """Let identify decide about a copy again, from what is known to stand there."""
        s = self.systems[place]
        row = whole(c.cur, c.note) if c.cur else None
        self.bounce(cid, self.sight(s, c.native, c.at, row, s.natives[c.native].ext))
        for sight in c.held:
            self.bounce(cid, sight)

    def on_receipt(self, cid: str, g: Golden, w: Write, a: Answer) -> None:
        place = w.place
        if w.op == "create":
            g.creating.pop(place, None)
            if place not in g.copies:
                g.copies[place] = Copy(a.native, a.value, a.version)
                self.emit(cid, g)
            return
        c = g.copies.get(place)
        if c is None or c.flight is not w:
            return
        c.flight, held, c.held = None, c.held, []
        if a.outcome == "applied":
            c.landed.append((a.version, a.value))
        elif a.outcome == "taken":
            g.parked[place] = w.value
            assert w.value is not None
            self.queue.append(("taken", cid, place, a.native, keys_of(w.value)[:1]))
        for sight in held:
            if g.copies.get(place) is c:
                self.observe(cid, g, place, c, int.from_bytes(sight.position, "big"), row_of(sight.payload))
            else:  # its key was used again meanwhile
                self.bounce(cid, sight)
        if a.outcome in ("refused", "missing") and g.copies.get(place) is c:
            self.observe(cid, g, place, c, a.version, whole(a.value, a.note) if a.value else None)
        if g.copies.get(place) is c and c.believed() is None:
            del g.copies[place]
            self.queue.append(("left", cid, place, c.native, pos(a.version)))
        self.emit(cid, g)

    def emit(self, cid: str, g: Golden) -> None:
        for place, s in self.systems.items():
            c = g.copies.get(place)
            if c is not None:
                if c.flight is not None:
                    continue
                if g.deleted:
                    c.flight = Write("delete", cid, place, c.native, c.believed(), None, next(self.numbers))
                elif c.believed() != g.value and g.parked.get(place, ()) != g.value:
                    c.flight = Write("update", cid, place, c.native, c.believed(), g.value, next(self.numbers))
                if c.flight is not None:
                    s.inbox[cid].append((c.flight,))
            elif not g.deleted and g.copies and place not in g.creating and g.parked.get(place, ()) != g.value:
                g.creating[place] = g.value
                w = self.make(cid, place, g.value)
                payload = f"write {w.number} {w.version}".encode()
                self.writes[payload] = w
                self.queue.append(("create", cid, place, payload))

    # ---- what can happen next

    def moves(self) -> list[Job]:
        out: list[Job] = []
        for p, s in self.systems.items():
            if s.dirty:
                out.append(("poll", p))
            out += [("capture", p, k) for k, q in s.captured.items() if q]
            out += [("write", p, x) for x, q in s.inbox.items() if q]
        out += [("journal", x) for x, q in self.journals.items() if q]
        out += [("link", k) for k, q in self.link_queue.items() if q]
        out += [("receipt", x) for x, q in self.due.items() if q]
        if self.queue:
            out.append(("identify",))
        out += [("mark", mark) for mark in self.marks]
        return out

    def step(self, move: Job) -> None:
        match move:
            case ("poll", p):
                self.systems[p].poll()
            case ("capture", p, native):
                version, row, ext = self.systems[p].captured[native].popleft()
                sight = self.sight(self.systems[p], native, version, row, ext)
                self.past[p, native].append(sight)
                self.say("route", sight)
                self.route(sight)
            case ("write", p, cid):
                (w,) = self.systems[p].inbox[cid].popleft()
                answer = self.systems[p].write(w)
                if w.op == "create" and answer.outcome == "applied":
                    self.made[p, answer.native] = cid
                self.say("write", w, answer)
                self.due[cid].append((w, answer))
            case ("journal", cid):
                self.say("journal", cid, self.journals[cid][0])
                self.entry(cid)
            case ("mark", (p, i)):
                self.say("mark", p, i)
                self.marks.remove((p, i))
                self.queue += [("seeded", p, i, 2)] * self.r.choice([1, 1, 2])
            case ("link", k):
                self.say("link", k, self.link_queue[k][0])
                self.take_link(k)
            case ("receipt", cid):
                w, answer = self.due[cid].popleft()
                if w.op == "create":
                    payload = f"receipt {w.number}".encode()
                    self.answers[payload] = w, answer
                    created = ("created", cid, w.place, answer.native, pos(answer.version), payload)
                    self.queue += [created] * (2 if self.r.random() < self.sloppy else 1)
                else:
                    self.journals[cid].append(("receipt", w, answer))
            case _:
                self.say("identify", self.queue[0])
                self.identify(self.queue.popleft())
        if self.r.random() < self.sloppy:
            self.disturb()

    def disturb(self) -> None:
        """Route reads a part of its topic again, or identify starts again from its rows."""
        if self.past and self.r.random() < 0.7:
            k = self.r.choice(sorted(self.past))
            seen = self.past[k]
            for sight in seen[self.r.randrange(len(seen)) :]:
                self.say("again", sight)
                self.route(sight)
        else:
            self.identity = Identity(self.rules, self.rows, self, JsonJoiner())

    def user(self, values: list[Value]) -> None:
        s = self.systems[self.r.choice(list(self.systems))]
        alive = [k for k, n in s.natives.items() if n.alive]
        gone = [k for k, n in s.natives.items() if not n.alive]
        act = self.r.choice(["new", "new", "alter", "note", "delete"]) if alive else "new"
        value = self.r.choice(values)
        native = self.r.choice(alive) if alive else ""
        if act == "new":
            if s.holder(value):
                return
            if gone and self.r.random() < 0.3:  # the key of a deleted row is used again
                native = self.r.choice(gone)
                s.natives[native].ext = ""
                s.alter(native, value)
            else:
                native = s.insert(value)
        elif act == "alter":
            if s.holder(value, native):
                return
            s.alter(native, value)
        elif act == "note":
            s.alter(native, s.natives[native].value, f"note {next(self.numbers)}")
        else:
            s.alter(native, None)
            self.handled.add((s.place, native))
        self.say(s.place, act, native, value)

    def person(self) -> None:
        """Somebody decides about identity, wisely or not."""
        s = self.systems[self.r.choice(list(self.systems))]
        alive = [cid for cid, g in self.golden.items() if not g.deleted]
        if not s.natives or not alive:
            return
        native, cid = self.r.choice(list(s.natives)), self.r.choice(alive)
        self.decided = True
        decision = self.r.choice(
            [
                ("decide_link", cid, s.place, native),
                ("decide_unlink", s.place, native),
                ("decide_split", s.place, native),
                ("decide_merge", cid, (self.r.choice(alive),)),
                ("decide_merge", cid, (self.r.choice(alive),)),
            ]
        )
        self.queue.append(decision)
        if decision[0] != "decide_merge":
            self.handled.add((s.place, native))

    def late(self) -> list[tuple[str, str]]:
        return [(x, p) for x, g in self.golden.items() for p, v in g.parked.items() if not g.deleted and v == g.value]


def apply(identity: Identity, job: Job, answers: dict[bytes, tuple[Write, Answer]]) -> None:
    kind, *rest = job
    if kind == "created":
        payload = rest[-1]
        write, answer = answers[payload]
        applied, taken = answer.outcome == "applied", answer.outcome == "taken"
        identity.created(*rest, applied=applied, taken=taken, reason=answer.outcome, version=write.version)
    else:
        getattr(identity, kind)(*rest)
    identity.flush()
