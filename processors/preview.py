"""What a first sync would do, before it does it: the stages themselves, run in memory over what the systems hold.

Everything that was captured (the last change of every record) goes through router, identify and merge; writes go to rows in memory that
begin as what each system holds, and are answered with receipts, until nothing is left to do. What differs then is what would be written.
Only destinations' own refusals (a value that must be unique, a rule of theirs) cannot be foreseen.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import Message

from processors.identify import IdentifyStage
from processors.mapping import compile_plans
from processors.merge_stage import MergeStage
from processors.plan import SystemPlan
from processors.router import Router, sources
from processors.scratch import ScratchMessage, ScratchState
from processors.stage import Row, Stage
from tidelock.avro import NULL, VALUE_TAGS, FieldType, decode_slice, encode_slice, from_value, to_value
from tidelock.change import DELETE, position
from tidelock.context import Context
from tidelock.envelopes import APPLIED, CREATE_OP, SEEDED, WRITE_OPS, Entry, Receipt, Receipts, Write
from tidelock.errors import Fatal, Reject
from tidelock.kafka import murmur2_partition

_CREATE = WRITE_OPS[CREATE_OP]
_BATCH = 2000
_LATER = 1 << 62  # our writes land behind everything that was captured
_TYPES = {2: FieldType.STRING, 4: FieldType.INTEGER, 6: FieldType.NUMBER, 8: FieldType.BOOLEAN, 10: FieldType.BYTES}


@dataclass(slots=True)
class Planned:
    """What would happen to one record of a destination: columns with what stands there now and what would."""

    op: str
    key: str | None
    canonical_id: str
    columns: dict[str, tuple[Any, Any]]


@dataclass(slots=True)
class Place:
    """One destination (a tenant of a system) for one entity; ``refused`` counts what would be kept back, by reason."""

    system: str
    tenant: str
    entity: str
    held: int = 0
    planned: list[Planned] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(reason, key, message) of what would be kept back."""

    def count(self, op: str) -> int:
        """Return how many records would be created, updated or deleted."""
        return sum(1 for p in self.planned if p.op == op)

    @property
    def untouched(self) -> int:
        """Return how many records that are there would be left as they are."""
        return self.held - sum(1 for p in self.planned if p.op != _CREATE)


Rows = dict[str, dict[str, bytes]]  # native key → column → generic value


class Preview:
    """One run over the changes of an installation, as (topic, key, value). Nothing is written anywhere."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._plans = compile_plans(context.config)
        self._topics: dict[str, deque[ScratchMessage]] = defaultdict(deque)
        self._next: Counter[tuple[str, int]] = Counter()
        self._links: dict[tuple[str, int], dict[bytes, bytes | None]] = defaultdict(dict)
        self._router = Router(
            sources(context), context.codec.header("entry"), lambda scope, key: self._links[scope].get(key)
        )
        self._merge = MergeStage(context, self._plans)
        self._identify = IdentifyStage(context, self._plans)
        self._states = {"merge": ScratchState(), "identify": ScratchState()}
        self._before: dict[tuple[str, str], Rows] = defaultdict(dict)  # by place and entity
        self._after: dict[tuple[str, str], Rows] = defaultdict(dict)
        self._types: dict[tuple[str, str], dict[str, FieldType]] = defaultdict(dict)
        self._ids: dict[tuple[str, str, str], str] = {}
        self._made = 0
        self._receipts = context.codec.header("receipts")
        self._entry = context.codec.header("entry")
        self.places: dict[tuple[str, str], Place] = {
            (place, name): Place(p.system, p.tenant, name)
            for name, plan in self._plans.items()
            for place, p in plan.places.items()
        }

    def run(self, changes: Iterable[tuple[str, bytes, bytes]]) -> list[Place]:
        """Take the last change of every record and return what would happen, by destination."""
        for topic, key, value in changes:
            self._take(topic, key, value)
        for topic, source in sources(self._context).items():
            for tenant in self._context.config.systems[source.system].all_tenants:
                for p in range(self._partitions(topic)):
                    entry = Entry(
                        "seeded", system=source.system, tenant=tenant, partition=p, offset=self._partitions(topic)
                    )
                    self._produce(topic, None, self._entry + entry.encode(), p, [SEEDED])
        self._settle()
        return self._results()

    # ------------------------------------------------------------------------------------------------ what is there

    def _take(self, topic: str, key: bytes, value: bytes) -> None:
        try:
            reader = self._context.codec.change_reader(value)
            change = reader.read(value)
        except (Reject, ValueError, IndexError):
            return  # routing would make a dead letter of it
        plan = self._plans.get(change.entity)
        place = f"{change.system}/{change.tenant}"
        if plan is None or place not in plan.places or change.op == DELETE or change.after is None:
            return
        row = {c.name: to_value(c.type, s) for c, s in zip(change.columns, change.after, strict=True)}
        self._types[place, change.entity].update({c.name: c.type for c in change.columns})
        self._before[place, change.entity][change.native_key] = row
        self._after[place, change.entity][change.native_key] = dict(row)
        self.places[place, change.entity].held += 1
        self._produce(topic, key, value)

    # ------------------------------------------------------------------------------------------------ running

    def _partitions(self, topic: str) -> int:
        one = ".identity." in f".{topic}" or topic.rpartition(".")[0].endswith(("ops", "dlq")) or ".ops." in f".{topic}"
        return 1 if one or ".dlq." in f".{topic}" else self._context.config.partitions

    def _produce(
        self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Any = None
    ) -> None:
        p = partition if partition >= 0 else murmur2_partition(key or b"", self._partitions(topic))
        self._next[topic, p] += 1
        self._topics[topic].append(ScratchMessage(topic, p, self._next[topic, p] - 1, key, value, headers))

    def _send(self, rows: Iterable[Row]) -> None:
        for topic, key, value, partition, headers in rows:
            self._produce(topic, key, value, partition, headers)

    def _settle(self) -> None:
        """Let everything happen, in the order of the picture: all that is known first, then what follows from it."""
        t, entities = self._context.topics, list(self._plans)
        busy = True
        while busy:
            busy = False
            for topic in sources(self._context):
                while batch := self._some(topic):
                    self._send(self._router.route(cast("list[Message]", batch)))
                    busy = True
            self._send(self._router.marks)
            self._router.marks.clear()
            for entity in entities:
                busy |= self._fold("identify", self._identify, t.identity(entity))
                while batch := self._some(t.links(entity)):
                    for m in batch:
                        self._links[m.topic(), m.partition()][m.key() or b""] = m.value()
                        self._router.learn(m.topic(), m.partition(), m.key() or b"", m.value())
                    busy = True
                busy |= self._fold("merge", self._merge, t.journal(entity))
                for system in self._context.config.systems:
                    while batch := self._some(t.sync(system, entity)):
                        self._write(batch)
                        busy = True

    def _some(self, topic: str) -> list[ScratchMessage]:
        waiting = self._topics[topic]
        return [waiting.popleft() for _ in range(min(len(waiting), _BATCH))]

    def _fold(self, name: str, stage: Stage, topic: str) -> bool:
        state, busy = self._states[name], False
        while batch := self._some(topic):
            self._send(stage.process(cast("list[Message]", batch), state))
            state.commit()
            stage.applied()
            busy = True
        return busy

    def _write(self, batch: Iterable[ScratchMessage]) -> None:
        """Take writes as a destination would that has no rules of its own, and answer them."""
        for m in batch:
            w = Write.decode(m.value() or b"")
            place = f"{w.system}/{w.tenant}"
            rows, key = self._after[place, w.entity], w.native_key
            if w.op == _CREATE:
                plan = self._plan(place, w.entity)
                self._made += 1
                key = w.canonical_id if plan.direct else f"\x00{self._made}"
            self._ids[place, w.entity, str(key)] = w.canonical_id
            if w.op == "delete":
                rows.pop(str(key), None)
            else:
                written = self._context.codec.decode(m.value() or b"")[
                    "columns"
                ]  # `Write.decode` forgets the values' types
                rows.setdefault(str(key), {}).update({c["name"]: _generic_of(c["value"]) for c in written})
            receipt = Receipt(w.canonical_id, w.version, APPLIED, key, position(_LATER, self._made))
            pack = self._receipts + Receipts(w.system, w.tenant, w.entity, 0, [receipt]).encode()
            t = self._context.topics
            if w.op == _CREATE and self._plan(place, w.entity).captured:
                entry = Entry(
                    "created",
                    w.canonical_id,
                    w.system,
                    w.tenant,
                    str(key),
                    position(_LATER),
                    m.partition(),
                    payload=pack,
                )
                self._produce(t.identity(w.entity), None, self._entry + entry.encode(), 0)
            else:
                self._produce(t.journal(w.entity), None, pack, m.partition())

    def _plan(self, place: str, entity: str) -> SystemPlan:
        found = self._plans[entity].places.get(place)
        if found is None:
            raise Fatal(f"there is no {place} with {entity} in the configuration", hint="`tidelock check`")
        return found

    # ------------------------------------------------------------------------------------------------ what came of it

    def _results(self) -> list[Place]:
        for (place, entity), result in self.places.items():
            before, after, types = self._before[place, entity], self._after[place, entity], self._types[place, entity]
            for key in sorted(before.keys() | after.keys()):
                old, new = before.get(key), after.get(key)
                if old == new:
                    continue
                op = "create" if old is None else "delete" if new is None else "update"
                there, then = old or {}, new or {}
                columns = {
                    n: (_shown(there.get(n, NULL), types.get(n)), _shown(then.get(n, NULL), types.get(n)))
                    for n in (then if op != "delete" else there)
                    if there.get(n, NULL) != then.get(n, NULL)
                }
                shown = None if key.startswith("\x00") else key
                result.planned.append(Planned(op, shown, self._ids.get((place, entity, key), ""), columns))
        for topic, letters in self._topics.items():
            if ".dlq." in f".{topic}":
                self._letters(topic, letters)
        return [p for p in self.places.values() if p.held or p.planned or p.refused]

    def _letters(self, topic: str, letters: Iterable[ScratchMessage]) -> None:
        """Count what would become a dead letter where its record comes from."""
        entity = topic.rpartition(".")[2]
        for m in letters:
            headers = {n: v for n, v in m.headers() or () if isinstance(v, bytes)}
            kind, message = headers.get("dlq.kind", b"").decode(), headers.get("dlq.message", b"").decode()
            try:
                payload = m.value() or b""
                if self._context.codec.kind(payload) == "Entry":
                    payload = Entry.decode(payload).payload
                change = self._context.codec.change_reader(payload).read(payload)
                where, key = f"{change.system}/{change.tenant}", change.native_key
            except (Reject, ValueError, IndexError):
                where, key = topic.split(".")[-2], (m.key() or b"").decode(errors="replace")
            found = self.places.get((where, entity)) or next(
                (p for p in self.places.values() if p.entity == entity and p.system == where), None
            )
            if found is not None:
                found.refused[kind] += 1
                found.examples.append((kind, key, message))


def _generic_of(value: Any) -> bytes:
    """Encode a decoded generic value again."""
    if value is None:
        return NULL
    kinds = {str: FieldType.STRING, bool: FieldType.BOOLEAN, int: FieldType.INTEGER, float: FieldType.NUMBER}
    kind = kinds.get(type(value), FieldType.BYTES)
    return to_value(kind, encode_slice(kind, value))


def _shown(generic: bytes, kind: FieldType | None) -> Any:
    """Return a generic value as a person would read it."""
    if generic == NULL:
        return None
    fits = kind is not None and VALUE_TAGS[kind] == generic[:1]
    value = decode_slice(kind if fits and kind is not None else _TYPES[generic[0]], from_value(generic, 0)[0])
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.isoformat() if isinstance(value, dt.date) else value


def preview(context: Context, changes: Iterable[tuple[str, bytes, bytes]]) -> list[Place]:
    """Return what a first sync of an installation would do, by destination; ``changes`` as `Preview.run` takes them."""
    return Preview(context).run(changes)
