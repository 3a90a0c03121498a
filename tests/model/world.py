"""A whole installation in memory: the real router, identify and merge stages on lists instead of Kafka, between simulated systems.

Every move (a user's edit, a capture, a poll, one message through one stage, one write, a restart, a re-delivery) is one step, so that a
test can choose any interleaving. Systems differ as real ones do: logs or polling, unique values or not, our id in a column or not,
values reformatted when they are stored.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from processors.identify import IdentifyStage
from processors.mapping import compile_plans
from processors.merge_stage import MergeStage
from processors.router import Router, sources
from tidelock.avro import NULL, FieldType, decode_slice, encode_slice, to_value
from tidelock.change import CREATE, DELETE, OURS, UPDATE, Column, event_id, key_digest, position
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import APPLIED, MISSING, TAKEN, Entry, Receipt, Receipts, Write
from tidelock.errors import Reject
from tidelock.kafka import murmur2_partition

ENTITY = "contact"
COLUMNS = (
    Column("id", FieldType.STRING, "text", key=True),
    Column("email", FieldType.STRING, "text"),
    Column("name", FieldType.STRING, "text"),
    Column("city", FieldType.STRING, "text"),
    Column("points", FieldType.INTEGER, "bigint"),
    Column("hub_id", FieldType.STRING, "text"),
)
FIELDS = ("email", "name", "city", "points")
KINDS = {c.name: c.type for c in COLUMNS}


class Message:
    """What stages read of a confluent_kafka.Message."""

    def __init__(self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        self._all = (topic, partition, offset, key, value)

    def topic(self) -> str:
        return self._all[0]

    def partition(self) -> int:
        return self._all[1]

    def offset(self) -> int:
        return self._all[2]

    def key(self) -> bytes | None:
        return self._all[3]

    def value(self) -> bytes | None:
        return self._all[4]

    def headers(self) -> None:
        return None

    def error(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return (1, 0)


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


class MemoryOverlay:
    """State of one stage with the engine's promise: what a batch puts is there only after `commit`."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], dict[bytes, bytes]] = defaultdict(dict)
        self._new: dict[tuple[str, int], dict[bytes, bytes | None]] = defaultdict(dict)

    def load(self, _topic: str, _partition: int, keys: Iterable[bytes]) -> None:
        list(keys)

    def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        new = self._new[topic, partition]
        return new[key] if key in new else self.kept[topic, partition].get(key)

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        self._new[topic, partition][key] = value

    def scan(self, topic: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        merged: dict[bytes, bytes | None] = {**self.kept[topic, partition], **self._new[topic, partition]}
        for key in sorted(merged):
            value = merged[key]
            if key.startswith(prefix) and value is not None:
                yield key, value

    def commit(self) -> None:
        for scope, changes in self._new.items():
            for key, value in changes.items():
                if value is None:
                    self.kept[scope].pop(key, None)
                else:
                    self.kept[scope][key] = value
        self._new.clear()

    def abort(self) -> None:
        self._new.clear()


@dataclass
class Row:
    """One native record."""

    values: dict[str, Any]
    version: int
    alive: bool = True


@dataclass
class System:
    """One simulated system of record with a capture and a sink."""

    name: str
    log: bool
    unique: bool
    external_id: bool
    reformat: bool
    rows: dict[str, Row] = field(default_factory=dict)
    clock: int = 0
    made: int = 0
    dirty: set[str] = field(default_factory=set)
    captured: list[tuple[str, int, dict[str, Any] | None, bool]] = field(default_factory=list)
    wrote: int = 0

    def stored(self, column: str, value: Any) -> Any:
        return value.upper() if self.reformat and isinstance(value, str) and column in ("name", "city") else value

    def _note(self, key: str, ours: bool) -> None:
        row = self.rows[key]
        if self.log:
            self.captured.append((key, row.version, dict(row.values) if row.alive else None, ours))
        else:
            self.dirty.add(key)

    def poll(self) -> None:
        for key in sorted(self.dirty):
            row = self.rows[key]
            self.captured.append((key, self.clock, dict(row.values) if row.alive else None, False))
        self.dirty.clear()

    def holder(self, email: Any, but: str | None = None) -> str | None:
        if not self.unique or not email:
            return None
        return next((k for k, r in self.rows.items() if r.alive and k != but and r.values["email"] == email), None)

    def create(self, values: dict[str, Any], ours: bool = False) -> str:
        self.clock += 1
        self.made += 1
        key = f"{self.name}{self.made}"
        row = {c.name: None for c in COLUMNS} | {"id": key}
        row.update({c: self.stored(c, v) for c, v in values.items()})
        self.rows[key] = Row(row, self.clock)
        self._note(key, ours)
        return key

    def update(self, key: str, values: dict[str, Any], ours: bool = False) -> None:
        self.clock += 1
        row = self.rows[key]
        row.values.update({c: self.stored(c, v) for c, v in values.items()})
        row.version = self.clock
        self._note(key, ours)

    def delete(self, key: str, ours: bool = False) -> None:
        self.clock += 1
        row = self.rows[key]
        row.alive, row.version = False, self.clock
        self._note(key, ours)

    def apply(self, write: Write) -> Receipt:
        """Do what a sink does: check bases, write, and say what stands there now."""
        self.wrote += 1
        receipt = Receipt(write.canonical_id, write.version, native_key=write.native_key)
        new = {n: decode_slice(KINDS[n], v) for n, (v, _) in write.columns.items()}
        if write.op == "create":
            if self.external_id:
                done = next((k for k, r in self.rows.items() if r.alive and r.values["hub_id"] == write.canonical_id), None)
                if done is not None:
                    receipt.native_key, receipt.position = done, position(self.rows[done].version)
                    return receipt
            held = self.holder(new.get("email"))
            if held is not None:
                receipt.outcome, receipt.kind, receipt.native_key = TAKEN, "unique", held
                return receipt
            key = self.create(new | ({"hub_id": write.canonical_id} if self.external_id else {}), ours=True)
            receipt.native_key = key
            return self._standing(receipt, key, new, ())
        key = str(write.native_key)
        row = self.rows[key]
        if not row.alive:
            receipt.outcome = APPLIED if write.op == "delete" else MISSING
            receipt.position = position(self.clock)
            return receipt
        if write.op == "delete":
            self.delete(key, ours=True)
            receipt.position = position(self.clock)
            return receipt
        base = {n: decode_slice(KINDS[n], b) for n, (_, b) in write.columns.items()}
        refused = tuple(n for n in new if row.values[n] not in (base[n], self.stored(n, new[n])))
        taken = {n: v for n, v in new.items() if n not in refused}
        held = self.holder(taken.get("email"), key)
        if held is not None:
            receipt.outcome, receipt.kind, receipt.native_key, receipt.position = TAKEN, "unique", held, position(self.clock)
            return receipt
        if taken:
            self.update(key, taken, ours=True)
        receipt.refused = refused
        return self._standing(receipt, key, new, refused)

    def _standing(self, receipt: Receipt, key: str, new: dict[str, Any], refused: tuple[str, ...]) -> Receipt:
        row = self.rows[key]
        receipt.position = position(self.clock)
        for n in new:
            if n in refused or row.values[n] != new[n]:
                receipt.values[n] = to_value(KINDS[n], encode_slice(KINDS[n], row.values[n]))
        return receipt


class World:
    """An installation between systems, one step at a time."""

    def __init__(self, config: Config, systems: list[System]) -> None:
        self.config = config
        self.systems = {s.name: s for s in systems}
        self.plans = compile_plans(config)
        self.topics: dict[str, list[list[Message]]] = {}
        self.registry = MemoryRegistry()
        self.context = self._context()
        self.states = {"merge": MemoryOverlay(), "identify": MemoryOverlay()}
        self.cursors: dict[tuple[str, str, int], int] = defaultdict(int)
        self.links: dict[tuple[str, int], dict[bytes, bytes | None]] = defaultdict(dict)
        self.merge: MergeStage
        self.identify: IdentifyStage
        self.router: Router
        self.restart_merge()
        self.restart_identify()
        self.restart_router()
        t = self.context.topics
        self.cdc = {s: t.cdc(s, ENTITY) for s in self.systems}
        self.sync = {s: t.sync(s, ENTITY) for s in self.systems}
        self.writers = {
            s: self.context.codec.change_writer(self.cdc[s], s, "default", ENTITY, COLUMNS) for s in self.systems
        }
        self.now = 0
        self.receipts_header = self.context.codec.header("receipts")
        self.entry_header = self.context.codec.header("entry")

    def _context(self) -> Context:
        codec = Codec(self.registry)  # type: ignore[arg-type]
        return Context(config=self.config, kafka=None, codec=codec, role="test")  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------------------ restarts

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

    def produce(self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1) -> None:
        n = 1 if ".identity." in f".{topic}" or topic.startswith(("ops.", "dlq.")) else self.config.partitions
        parts = self.topics.setdefault(topic, [[] for _ in range(n)])
        p = partition if partition >= 0 else murmur2_partition(key or b"", n)
        parts[p].append(Message(topic, p, len(parts[p]), key, value))

    def _send(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for topic, key, value, partition, *_ in rows:
            self.produce(topic, key, value, partition)

    def behind(self, group: str, topic: str) -> list[int]:
        """Return the partitions of a topic that a group has not read to the end."""
        return [p for p, messages in enumerate(self.topics.get(topic, ())) if self.cursors[group, topic, p] < len(messages)]

    def _next(self, group: str, topic: str, p: int) -> Message:
        at = self.cursors[group, topic, p]
        self.cursors[group, topic, p] = at + 1
        return self.topics[topic][p][at]

    # ------------------------------------------------------------------------------------------------ moves

    def moves(self) -> list[Callable[[], None]]:
        """List everything that can happen next, apart from users."""
        t = self.context.topics
        out: list[Callable[[], None]] = []
        for s in self.systems.values():
            if s.dirty:
                out.append(s.poll)
            if s.captured:
                out.append(lambda s=s: self.capture(s))  # type: ignore[misc]
            for p in self.behind("route", self.cdc[s.name]):
                out.append(lambda topic=self.cdc[s.name], p=p: self.route(topic, p))  # type: ignore[misc]
            for p in self.behind("sink", self.sync[s.name]):
                out.append(lambda s=s, p=p: self.write(s, p))  # type: ignore[misc]
        for p in self.behind("route", t.links(ENTITY)):
            out.append(lambda p=p: self.learn(p))  # type: ignore[misc]
        for p in self.behind("merge", t.journal(ENTITY)):
            out.append(lambda p=p: self.fold("merge", t.journal(ENTITY), p))  # type: ignore[misc]
        for p in self.behind("identify", t.identity(ENTITY)):
            out.append(lambda p=p: self.fold("identify", t.identity(ENTITY), p))  # type: ignore[misc]
        return out

    def capture(self, s: System) -> None:
        key, version, values, ours = s.captured.pop(0)
        self.now += 1
        pos = position(version)
        event = event_id(key_digest(s.name, "default", ENTITY, key), pos)
        after = None if values is None else [encode_slice(c.type, values[c.name]) for c in COLUMNS]
        op = DELETE if values is None else CREATE if version == 1 else UPDATE
        value = self.writers[s.name].write(
            event, pos, op, self.now, self.now, key.encode(), after, origin=OURS if ours else None
        )
        self.produce(self.cdc[s.name], f"default/{key}".encode(), value)

    def route(self, topic: str, p: int) -> None:
        self._send(self.router.route([self._next("route", topic, p)]))  # type: ignore[list-item]

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
            runner.process([self.topics[topic][p][at]], state)  # type: ignore[list-item]
            state.abort()
            runner.forget()
        rows = runner.process([self._next(stage, topic, p)], state)  # type: ignore[list-item]
        self._send(rows)
        state.commit()
        runner.applied()

    def write(self, s: System, p: int, *, twice: bool = False) -> None:
        m = self._next("sink", self.sync[s.name], p)
        write = Write.decode(m.value() or b"")
        receipt = s.apply(write)
        pack = Receipts(s.name, "default", ENTITY, self.now, [receipt]).encode()
        for _ in range(2 if twice else 1):
            if write.op == "create":
                entry = Entry(
                    "created", write.canonical_id, s.name, "default", receipt.native_key or "", receipt.position or bytes(16),
                    partition=p, payload=self.receipts_header + pack,
                )  # fmt: skip
                self.produce(self.context.topics.identity(ENTITY), None, self.entry_header + entry.encode(), 0)
            else:
                self.produce(self.context.topics.journal(ENTITY), None, self.receipts_header + pack, p)

    def timers(self) -> bool:
        """Fire the timers that were asked for since the last time; tell whether there were any."""
        topic = self.context.topics.ops("signals")
        fired = False
        import json

        for p in self.behind("clock", topic):
            while self.cursors["clock", topic, p] < len(self.topics[topic][p]):
                m = self._next("clock", topic, p)
                if m.value() is None or not (m.key() or b"").startswith(b"timer/"):
                    continue
                body = json.loads(m.value() or b"")
                entry = Entry(body["entry"], body["canonical_id"], body["system"], body["tenant"])
                self.produce(
                    self.context.topics.journal(ENTITY), body["canonical_id"].encode(), self.entry_header + entry.encode()
                )
                fired = True
        return fired

    # ------------------------------------------------------------------------------------------------ what came of it

    def settle(self, r: random.Random, most: int = 6000) -> int:
        """Let everything that can happen happen, in random order; return the number of steps. Raises AssertionError on a loop."""
        rounds = 0
        for n in range(most):
            moves = self.moves()
            if not moves:
                if rounds < 4 and self.timers():
                    rounds += 1
                    continue
                return n
            r.choice(moves)()
        raise AssertionError(f"still busy after {most} steps: a loop")

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
        """Return (system, native key) → canonical id from the links topic."""
        out: dict[tuple[str, str], str] = {}
        for messages in self.topics.get(self.context.topics.links(ENTITY), ()):
            for m in messages:
                system, _, native = (m.key() or b"").decode().split("/", 2)
                if m.value() is None:
                    out.pop((system, native), None)
                else:
                    out[system, native] = self.context.codec.decode(m.value() or b"")["canonical_id"]
        return out


def null_of(value: Any) -> bytes:
    """Return the null slice; a name for readers of tests."""
    return NULL if value is None else b""
