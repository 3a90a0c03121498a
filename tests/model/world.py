"""A whole installation in memory: the real router, identify and merge stages on lists instead of Kafka, between simulated systems.

Every move (a user's edit, a capture, a poll, one message through one stage, one write, its receipt, a restart, a re-delivery) is one
step, so that a test can choose any interleaving.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from processors.identify import IdentifyStage
from processors.mapping import compile_plans
from processors.merge_stage import MergeStage
from processors.router import Router, sources
from processors.scratch import ScratchMessage, ScratchState
from processors.stage import Headers
from tests.model.systems import System
from tidelock.avro import NULL, encode_slice
from tidelock.change import CREATE, DELETE, OURS, UPDATE, ChangeWriter, event_id, key_digest, position
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import SEEDED, Entry, Receipt, Receipts, Write
from tidelock.errors import Reject
from tidelock.kafka import murmur2_partition

ENTITY = "contact"
FIELDS = ("email", "name", "city", "points")


class MemoryRegistry:
    """Ids for schemas, without a server."""

    def __init__(self) -> None:
        self._schemas: list[dict[str, Any]] = []

    def register(self, _subject: str, schema: dict[str, Any]) -> int:
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def schema(self, number: int) -> dict[str, Any]:
        if not 0 < number <= len(self._schemas):
            raise Reject(f"no schema id {number}", kind="unknown_schema")
        return self._schemas[number - 1]


def named(place: str) -> str:
    """Return the name of the simulated system that is a place."""
    return place.removesuffix("/default")


class World:
    """An installation between systems, one step at a time. ``seeded``: what the systems held at the start was read long ago.

    A system that has several tenants is one `System` per tenant here, and shares its topics.
    """

    def __init__(self, config: Config, systems: list[System], *, seeded: bool = True) -> None:
        self.config = config
        self.systems = {s.name: s for s in systems}
        self.plans = compile_plans(config)
        self.topics: dict[str, list[list[ScratchMessage]]] = {}
        self.registry = MemoryRegistry()
        self.context = self._context()
        self.states = {"merge": ScratchState(), "identify": ScratchState()}
        self.cursors: dict[tuple[str, str, int], int] = defaultdict(int)
        self.links: dict[tuple[str, int], dict[bytes, bytes | None]] = defaultdict(dict)
        self.merge: MergeStage
        self.identify: IdentifyStage
        self.router: Router
        self.restart_merge()
        self.restart_identify()
        self.restart_router()
        t = self.context.topics
        self.cdc = {s.name: t.cdc(s.system, ENTITY) for s in systems}
        self.sync = {s.name: t.sync(s.system, ENTITY) for s in systems}
        self.writers = {s.name: self._writer(s) for s in systems}
        self.writes: list[Write] = []  # every write a sink has taken, in order
        self.now = 0
        self.receipts_header = self.context.codec.header("receipts")
        self.entry_header = self.context.codec.header("entry")
        for s in systems if seeded else ():
            self.end_seed(s)

    def _context(self) -> Context:
        codec = Codec(self.registry)  # type: ignore[arg-type]
        return Context(config=self.config, kafka=None, codec=codec, role="test")  # type: ignore[arg-type]

    def _writer(self, s: System) -> ChangeWriter:
        return self.context.codec.change_writer(self.cdc[s.name], s.system, s.tenant, ENTITY, s.columns)

    # ------------------------------------------------------------------------------------------------ restarts

    def reconfigure(self, config: Config) -> None:
        """Restart everything with another configuration, on the same state, topics and links."""
        self.config = config
        self.plans = compile_plans(config)
        self.context = self._context()
        self.writers = {s.name: self._writer(s) for s in self.systems.values()}
        self.restart_merge()
        self.restart_identify()
        self.restart_router()

    def restart_merge(self) -> None:
        self.merge = MergeStage(self._context(), compile_plans(self.config))

    def restart_identify(self) -> None:
        self.identify = IdentifyStage(self._context(), compile_plans(self.config))

    def restart_router(self) -> None:
        """A new router knows only links; its predecessor's barrier has come back (processors.route waits for that)."""
        self.router = Router(
            sources(self.context), self.context.codec.header("entry"), lambda scope, key: self.links[scope].get(key)
        )

    # ------------------------------------------------------------------------------------------------ topics

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Headers | None = None
    ) -> None:
        n = 1 if ".identity." in f".{topic}" or topic.startswith(("ops.", "dlq.")) else self.config.partitions
        parts = self.topics.setdefault(topic, [[] for _ in range(n)])
        p = partition if partition >= 0 else murmur2_partition(key or b"", n)
        parts[p].append(ScratchMessage(topic, p, len(parts[p]), key, value, headers))

    def advance(self, seconds: float) -> None:
        """Let time pass; only source times and the clock of captures know of it."""
        self.now += int(seconds * 1_000_000)

    def _send(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for topic, key, value, partition, *_ in rows:
            self.produce(topic, key, value, partition)

    def end_seed(self, s: System) -> None:
        """Let everything that a system's seed has put into its topic be looked at, now."""
        if s.captured_at_all:
            self.mark(s)
            for p in self.behind("route", self.cdc[s.name]):
                while p in self.behind("route", self.cdc[s.name]):
                    self.route(self.cdc[s.name], p)
            identity = self.context.topics.identity(ENTITY)
            while self.behind("identify", identity):
                self.fold("identify", identity, 0)

    def mark(self, s: System) -> None:
        """Publish the marks of a seed's end (producers.seeded)."""
        n = self.config.partitions
        for p in range(n):
            entry = Entry("seeded", system=s.system, tenant=s.tenant, partition=p, offset=n)
            self.produce(self.cdc[s.name], None, self.entry_header + entry.encode(), p, [SEEDED])

    def behind(self, group: str, topic: str) -> list[int]:
        """Return the partitions of a topic that a group has not read to the end."""
        return [
            p for p, messages in enumerate(self.topics.get(topic, ())) if self.cursors[group, topic, p] < len(messages)
        ]

    def _next(self, group: str, topic: str, p: int) -> ScratchMessage:
        at = self.cursors[group, topic, p]
        self.cursors[group, topic, p] = at + 1
        return self.topics[topic][p][at]

    # ------------------------------------------------------------------------------------------------ moves

    def named_moves(self) -> list[tuple[str, Callable[[], None]]]:
        """List everything that can happen next, apart from users, as (``poll:alpha``, ``capture:alpha``, ``route:alpha``, ``sink:alpha``,
        ``receipt:alpha``, ``learn``, ``merge`` or ``identify``; what to call)."""
        t = self.context.topics
        out: list[tuple[str, Callable[[], None]]] = []
        read: set[str] = set()
        for s in self.systems.values():
            if s.dirty:
                out.append((f"poll:{s.name}", s.poll))
            if s.captured:
                out.append((f"capture:{s.name}", partial(self.capture, s)))
            if s.system not in read:  # its tenants share the topics
                read.add(s.system)
                cdc, sync = self.cdc[s.name], self.sync[s.name]
                out += [(f"route:{s.system}", partial(self.route, cdc, p)) for p in self.behind("route", cdc)]
                out += [
                    (f"sink:{self.next_write(sync, p)}", partial(self.write, sync, p))
                    for p in self.behind("sink", sync)
                ]
            if s.receipts:
                out.append((f"receipt:{s.name}", partial(self.tell, s)))
        out += [("learn", partial(self.learn, p)) for p in self.behind("route", t.links(ENTITY))]
        for stage, topic in (("merge", t.journal(ENTITY)), ("identify", t.identity(ENTITY))):
            out += [(stage, partial(self.fold, stage, topic, p)) for p in self.behind(stage, topic)]
        return out

    def moves(self) -> list[Callable[[], None]]:
        """List everything that can happen next, apart from users."""
        return [move for _, move in self.named_moves()]

    def capture(self, s: System) -> None:
        """Publish the next thing a system's capture has seen."""
        seen = s.captured.pop(0)
        self.now += 1
        pos = position(seen.version)
        event = event_id(key_digest(s.system, s.tenant, ENTITY, seen.key), pos)
        after = None
        if seen.values is not None:
            after = [
                NULL if c.name in seen.absent else encode_slice(c.type, seen.values.get(c.name)) for c in s.columns
            ]
        op = DELETE if seen.values is None else CREATE if seen.version == 1 else UPDATE
        value = self.writers[s.name].write(
            event, pos, op if seen.op is None or after is None else seen.op, self.now + s.skew, self.now, seen.key.encode(),
            after, absent=seen.absent, origin=OURS if seen.ours else None, actor=s.actor,
        )  # fmt: skip
        self.produce(self.cdc[s.name], f"{s.tenant}/{seen.key}".encode(), value)

    def route(self, topic: str, p: int) -> None:
        self._send(self.router.route([self._next("route", topic, p)]))
        self._send(self.router.marks)
        self.router.marks.clear()

    def learn(self, p: int) -> None:
        m = self._next("route", self.context.topics.links(ENTITY), p)
        self.links[m.topic(), p][m.key() or b""] = m.value()
        self.router.learn(m.topic(), p, m.key() or b"", m.value())

    def fold(self, stage: str, topic: str, p: int, *, abort: bool = False) -> None:
        """Put one message through a stage; ``abort`` first lets a transaction of the same message fail."""
        state = self.states[stage]
        runner = self.merge if stage == "merge" else self.identify
        if abort:
            at = self.cursors[stage, topic, p]
            runner.process([self.topics[topic][p][at]], state)
            state.abort()
            runner.forget()
        rows = runner.process([self._next(stage, topic, p)], state)
        self._send(rows)
        state.commit()
        runner.applied()

    def next_write(self, topic: str, p: int) -> str:
        """Return the name of the system that a sink's next write is for."""
        write = Write.decode(self.topics[topic][p][self.cursors["sink", topic, p]].value() or b"")
        return named(f"{write.system}/{write.tenant}")

    def write(self, topic: str, p: int) -> None:
        """Let a sink take its next write. What became of it is told by `tell`, at any time later."""
        s = self.systems[self.next_write(topic, p)]
        m = self._next("sink", topic, p)
        write = Write.decode(m.value() or b"")
        self.writes.append(write)
        s.receipts.append((p, write, s.apply(write)))

    def tell(self, s: System) -> None:
        """Publish the receipt of a system's oldest write that has none yet."""
        receipt = s.receipts.pop(0)
        s.told.append(receipt)
        self.tell_again(s, receipt)

    def tell_again(self, s: System, told: tuple[int, Write, Receipt]) -> None:
        """Publish a receipt, be it for the second time."""
        p, write, receipt = told
        pack = Receipts(s.system, s.tenant, ENTITY, self.now, [receipt]).encode()
        if write.op == "create" and s.captured_at_all:
            entry = Entry(
                "created", write.canonical_id, s.system, s.tenant, receipt.native_key or "", receipt.position or bytes(16),
                partition=p, payload=self.receipts_header + pack,
            )  # fmt: skip
            self.produce(self.context.topics.identity(ENTITY), None, self.entry_header + entry.encode(), 0)
        else:
            self.produce(self.context.topics.journal(ENTITY), None, self.receipts_header + pack, p)

    def enter(self, entry: Entry, *, identity: bool = False) -> None:
        """Put an entry of a person or a tool into the journal of its record, or into the identity topic."""
        t, value = self.context.topics, self.entry_header + entry.encode()
        if identity:
            self.produce(t.identity(ENTITY), None, value, 0)
        else:
            self.produce(t.journal(ENTITY), entry.canonical_id.encode(), value)

    def timers(self) -> bool:
        """Fire the timers that were asked for since the last time; tell whether there were any."""
        topic = self.context.topics.ops("signals")
        fired = False
        for p in self.behind("clock", topic):
            while self.cursors["clock", topic, p] < len(self.topics[topic][p]):
                m = self._next("clock", topic, p)
                if m.value() is None or not (m.key() or b"").startswith(b"timer/"):
                    continue
                body = json.loads(m.value() or b"")
                self.enter(Entry(body["entry"], body["canonical_id"], body["system"], body["tenant"]))
                fired = True
        return fired

    # ------------------------------------------------------------------------------------------------ what came of it

    def settle(self, r: random.Random, most: int = 6000, *, timers: int = 4) -> int:
        """Let everything that can happen happen, in random order; return the number of steps. Raises AssertionError on a loop.

        ``timers``: how many times pending timers fire. What another record blocks is tried again for ever, more and more slowly.
        """
        rounds = 0
        for n in range(most):
            moves = self.moves()
            if not moves:
                if rounds < timers and self.timers():
                    rounds += 1
                    continue
                return n
            r.choice(moves)()
        raise AssertionError(f"still busy after {most} steps: a loop")

    def decoded(self, topic: str) -> list[dict[str, Any]]:
        """Return everything a topic with fixed schema holds, decoded, oldest first per partition."""
        values = [m.value() for messages in self.topics.get(topic, ()) for m in messages]
        return [self.context.codec.decode(v) for v in values if v is not None]

    def golden(self) -> dict[str, dict[str, Any]]:
        """Return the golden records, decoded, by canonical id."""
        out: dict[str, dict[str, Any]] = {}
        for messages in self.topics.get(self.context.topics.hub(ENTITY), ()):
            for m in messages:
                cid = (m.key() or b"").decode()
                if m.value() is None:
                    out.pop(cid, None)
                else:
                    out[cid] = self.context.codec.decode(m.value() or b"")
        return out

    def linked(self) -> dict[tuple[str, str], str]:
        """Return (name of a simulated system, native key) → canonical id from the links topic."""
        out: dict[tuple[str, str], str] = {}
        for messages in self.topics.get(self.context.topics.links(ENTITY), ()):
            for m in messages:
                system, tenant, native = (m.key() or b"").decode().split("/", 2)
                name = named(f"{system}/{tenant}")
                if m.value() is None:
                    out.pop((name, native), None)
                else:
                    out[name, native] = self.context.codec.decode(m.value() or b"")["canonical_id"]
        return out
