"""The merge stage: journal entries in, writes, golden records and decisions out. It decodes, keeps records at hand, and encodes.

Every decision is `processors.merge`'s. State per record is one value under its canonical id in ``state.merge.<entity>``; the order of
fields and columns in it is named by a layout, so that records written under an older configuration are read by name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Message
from opentelemetry.trace import SpanKind

from processors import record as records
from processors.edits import Readers
from processors.effects import Effects, Notice, Send
from processors.golden import GoldenWriter, hub_schema
from processors.guards import ActorLimits
from processors.handback import HandBack
from processors.merge import Merge
from processors.plan import EntityPlan
from processors.record import Record
from processors.spelling import Spelling
from processors.stage import Headers, Output, Overlay, Row
from tidelock.avro import decode_slice
from tidelock.change import Change, ChangeReader, schema_columns, wire_header
from tidelock.codec import Codec, schema_id
from tidelock.context import Context
from tidelock.deadletter import dead_letter
from tidelock.envelopes import Entry, Receipts, plain_system
from tidelock.errors import Reject

LAYOUT_KEY = b"!layout/"
CACHE_RECORDS = 8_000  # decoded records kept per worker, about 4 kB each; the store keeps many more encoded


class _Entity:
    """Everything of one entity that does not change between batches."""

    def __init__(self, context: Context, plan: EntityPlan) -> None:
        topics, codec = context.topics, context.codec
        self.plan = plan
        self.name = plan.name
        self.readers = Readers(lambda number: schema_columns(codec.registry.schema(number)))
        self.merge = Merge(plan, self.readers, HandBack(plan, codec))
        self.hub = topics.hub(plan.name)
        self.identity = topics.identity(plan.name)
        self.sync = {s: topics.sync(s, plan.name) for s in plan.systems}
        self.limits = ActorLimits(plan, context.config.partitions)
        self.direct = frozenset(s for s, p in plan.systems.items() if p.direct)
        self.golden = GoldenWriter(plan, wire_header(codec.registry.register(f"{self.hub}-value", hub_schema(plan))))
        header = codec.header("write")
        self.spellings = {place: Spelling(p, self.readers, header) for place, p in plan.places.items()}
        self.fresh: dict[bytes, Record] = {}  # decoded records by canonical id, in two generations
        self.stale: dict[bytes, Record] = {}
        order = {
            "fields": [f.name for f in plan.fields],
            "columns": {s: list(p.columns) for s, p in sorted(plan.systems.items())},
        }
        self.order = json.dumps(order, sort_keys=True).encode()
        self.layout = hashlib.blake2b(self.order, digest_size=8).digest()

    def forget(self) -> None:
        """Drop every decoded record."""
        self.fresh, self.stale = {}, {}


@dataclass(slots=True)
class _Scope:
    """The work of a batch in one partition of one journal."""

    entity: _Entity
    topic: str
    partition: int
    items: list[tuple[Message, Receipts | Entry | int]] = field(default_factory=list)
    touched: dict[bytes, Record] = field(default_factory=dict)
    golden: dict[bytes, None] = field(default_factory=dict)  # records whose golden record has changed, in order


class MergeStage:
    """Fold journals of all entities (`processors.stage.Stage`)."""

    name = "merge"

    def __init__(self, context: Context, plans: dict[str, EntityPlan]) -> None:
        self._context = context
        self._codec: Codec = context.codec
        self._topics = context.topics
        self._entities = {self._topics.journal(e): _Entity(context, p) for e, p in plans.items()}
        self.inputs = tuple(self._entities)
        self._changelogs = {self._topics.journal(e): self._topics.state("merge", e) for e in plans}
        self._entry_header = self._codec.header("entry")
        self._state_header = self._codec.header("state")
        self._kinds: dict[bytes, tuple[str, int]] = {}  # wire header → kind of envelope, schema id
        self._layouts_put: set[tuple[str, int]] = set()
        self._counts: dict[tuple[str, str, str], int] = defaultdict(int)

    def changelog(self, topic: str) -> str:
        """Name the changelog of a journal."""
        return self._changelogs[topic]

    def forget(self) -> None:
        """Drop all that was decoded: of an aborted batch, or of partitions that others may have had meanwhile."""
        for entity in self._entities.values():
            entity.forget()
        self._layouts_put.clear()
        self._counts.clear()

    def applied(self) -> None:
        """Keep the most recently used records only, and count what has now really happened."""
        for entity in self._entities.values():
            if len(entity.fresh) > CACHE_RECORDS // 2:
                entity.fresh, entity.stale = {}, entity.fresh
        for (name, place, entity_name), n in self._counts.items():
            self._context.activity.count(name, place.partition("/")[0], entity_name, n)
        self._counts.clear()

    # ------------------------------------------------------------------------------------------------ a batch

    def process(self, batch: list[Message], state: Overlay) -> Sequence[Row]:
        """Fold a batch, partition by partition; see `processors.stage.Stage.process`."""
        out: list[Row] = []
        for scope in self._decode(batch, out):
            self._fold(scope, state, out)
            self._finish(scope, state, out)
        return out

    def _fold(self, scope: _Scope, state: Overlay, out: list[Row]) -> None:
        entity, merge, effects = scope.entity, scope.entity.merge, Effects()
        known = self._load(scope, state)
        for message, item in scope.items:
            try:
                if isinstance(item, Receipts):
                    place = f"{item.system}/{item.tenant}"
                    for receipt in item.items:
                        cid = receipt.canonical_id.encode()
                        record = scope.touched.get(cid) or self._record(scope, cid, known, state)
                        merge.on_receipt(record, receipt.canonical_id, place, receipt, effects)
                        self._take(scope, cid, record, effects, out)
                elif isinstance(item, Entry) and item.kind == "release_actor":
                    who = item.system, item.tenant, item.keys[0]
                    entity.limits.release(scope.topic, scope.partition, *who, item.offset, state)
                else:
                    cid = message.key() or b""
                    record = scope.touched.get(cid) or self._record(scope, cid, known, state)
                    self._one(message, scope, record, cid.decode(), item, state, effects)
                    self._take(scope, cid, record, effects, out)
            except Reject as error:
                out.append(self._dead(message, entity.name, error.kind, str(error)))

    def _finish(self, scope: _Scope, state: Overlay, out: list[Row]) -> None:
        """Encode what has changed: golden records, and the state of every record that was touched."""
        entity, topic, partition, touched = scope.entity, scope.topic, scope.partition, scope.touched
        if not touched:
            return
        hub, encode = entity.hub, entity.golden.encode
        for cid in scope.golden:
            record = touched[cid]
            out.append((hub, cid, None if record.deleted else encode(cid, record), partition, None))
        if (topic, partition) not in self._layouts_put:
            self._layouts_put.add((topic, partition))
            if state.get(topic, partition, LAYOUT_KEY + entity.layout) is None:
                state.put(topic, partition, LAYOUT_KEY + entity.layout, entity.order)
        head = self._state_header + entity.layout
        state.update(topic, partition, {cid: records.encode(record, head) for cid, record in touched.items()})

    def _decode(self, batch: list[Message], out: list[Row]) -> Iterable[_Scope]:
        """Find out what each message is, and sort them by partition."""
        scopes: dict[tuple[str, int], _Scope] = {}
        kinds = self._kinds
        for message in batch:
            topic, partition, value = message.topic(), message.partition(), message.value()
            scope = scopes.get((topic, partition))
            if scope is None:
                scope = scopes[topic, partition] = _Scope(self._entities[topic], topic, partition)
            item: Receipts | Entry | int
            try:
                known = kinds.get(value[:5]) if value else None
                if known is None:
                    known = kinds[value[:5]] = self._codec.kind(value), schema_id(value)
                kind, item = known
                if kind == "Receipts":
                    if plain_system(value) in scope.entity.direct:
                        continue  # all landed as they were written, where that is what merge took for granted
                    item = Receipts.decode(value)
                elif kind == "Entry":
                    item = Entry.decode(value)
                elif kind != "Change":
                    raise Reject(f"a {kind} does not belong into a journal", kind="unexpected_envelope")
            except (Reject, IndexError, ValueError) as error:
                kind = error.kind if isinstance(error, Reject) else "bad_avro"
                out.append(self._dead(message, scope.entity.name, kind, str(error)))
                continue
            scope.items.append((message, item))
        return scopes.values()

    def _dead(self, message: Message, entity: str, kind: str, text: str) -> Row:
        self._counts["dead_letters", "hub", entity] += 1
        return dead_letter(self._topics, message, "merge", "hub", entity, kind, text)

    def _load(self, scope: _Scope, state: Overlay) -> Mapping[bytes, bytes | None]:
        """Fetch the state of all records of a scope that are not at hand, at once."""
        fresh, stale = scope.entity.fresh, scope.entity.stale
        wanted: dict[bytes, None] = {}
        for message, item in scope.items:
            if isinstance(item, Receipts):
                for receipt in item.items:
                    wanted[receipt.canonical_id.encode()] = None
            else:
                wanted[message.key() or b""] = None
        missing = [cid for cid in wanted if cid not in fresh and cid not in stale]
        return state.load(scope.topic, scope.partition, missing) if missing else {}

    def _record(self, scope: _Scope, cid: bytes, known: Mapping[bytes, bytes | None], state: Overlay) -> Record:
        """Return a record that this batch meets for the first time."""
        entity = scope.entity
        record = entity.fresh.get(cid) or entity.stale.get(cid)
        if record is None:
            value = known.get(cid)
            if value is None:
                record = Record.new(len(entity.plan.fields))
            else:
                layout, record = records.decode(value)
                if layout != entity.layout:
                    order = state.get(scope.topic, scope.partition, LAYOUT_KEY + layout)
                    if order is None:
                        raise Reject("the state names a layout that is not in its changelog", kind="unknown_layout")
                    records.reorder(record, json.loads(order), json.loads(entity.order))
        scope.touched[cid] = entity.fresh[cid] = record
        return record

    def _one(
        self,
        message: Message,
        scope: _Scope,
        record: Record,
        cid: str,
        item: Entry | int,
        state: Overlay,
        effects: Effects,
    ) -> None:
        entity = scope.entity
        merge = entity.merge
        if isinstance(item, int):
            value = message.value()
            change = self._change(value)
            place = f"{change.system}/{change.tenant}"
            copy = record.copies.get(place)
            if copy is None or copy.native_key != change.native_key:
                effects.identify.append(
                    Entry(
                        "bounce", cid, change.system, change.tenant, change.native_key, change.position, payload=value
                    )
                )
                return
            if change.actor is not None:
                entity.limits.check(scope.topic, scope.partition, change, state)
            merge.on_change(
                record, cid, place, change, entity.readers.get(entity.plan.places[place], item), item, effects
            )
        elif item.kind == "linked":
            change = self._change(item.payload)
            number, place = schema_id(item.payload), f"{item.system}/{item.tenant}"
            back = merge.handed_back(record, place, item.native_key, effects)
            if back:
                effects.identify.append(
                    Entry(back, cid, item.system, item.tenant, item.native_key, item.position, payload=item.payload)
                )
                return
            merge.on_linked(
                record,
                cid,
                place,
                change,
                entity.readers.get(entity.plan.places[place], number),
                number,
                item.keys,
                effects,
            )
        else:
            merge.on_entry(record, cid, item, effects)

    def _change(self, value: bytes) -> Change:
        reader: ChangeReader = self._codec.change_reader(value)
        try:
            return reader.read(value)
        except (IndexError, ValueError) as error:
            raise Reject(f"the change does not fit its schema: {error!r}", kind="bad_avro") from error

    # ------------------------------------------------------------------------------------------------ effects → Kafka

    def _take(self, scope: _Scope, cid: bytes, record: Record, effects: Effects, out: list[Row]) -> None:
        entity = scope.entity
        if effects.golden_changed:
            scope.golden[cid] = None
        if effects.identify:  # before the asks for creates: a place must be left before it can be entered again
            out += [(entity.identity, None, self._entry_header + e.encode(), 0, None) for e in effects.identify]
        for send in effects.sends:
            spelling = entity.spellings[send.place]
            value = spelling.write(cid, record, send)
            if send.ask:
                ask = Entry(
                    "create", cid.decode(), spelling.system, spelling.tenant,
                    partition=scope.partition, keys=record.keys, payload=value,
                )  # fmt: skip
                out.append((entity.identity, None, self._entry_header + ask.encode(), 0, None))
            else:
                headers = self._traced(send, entity) if self._context.tracing.sampled(send.cause.event_id) else None
                out.append((entity.sync[spelling.system], cid, value, scope.partition, headers))
            self._counts["writes", send.place, entity.name] += 1
        for name, place in effects.counts:
            self._counts[name, place, entity.name] += 1
        if effects.clashes or effects.notices or effects.timers:
            self._rarely(entity, cid, effects, out)
        effects.clear()

    def _traced(self, send: Send, entity: _Entity) -> Headers:
        """Record the merge of a traced change as a span, and return the headers that carry its context on."""
        tracing, event = self._context.tracing, send.cause.event_id
        now = time.time_ns() // 1000
        name = self._topics.journal(entity.name)
        facts: dict[str, str | int] = {
            "messaging.destination.name": name,
            "messaging.operation.type": "process",
            "tidelock.to": send.place,
        }
        return tracing.step(event, f"process {name}", SpanKind.CONSUMER, now, now, None, facts)

    def _rarely(self, entity: _Entity, cid: bytes, effects: Effects, out: list[Row]) -> None:
        plan, codec, topics = entity.plan, self._codec, self._topics
        for clash in effects.clashes:
            kind = plan.fields[clash.field].type
            value = {
                "canonical_id": cid.decode(),
                "entity": entity.name,
                "field": plan.fields[clash.field].name,
                "system": plan.shown(clash.place),
                "against": plan.shown(clash.against),
                "base": "null" if clash.base is None else _json(decode_slice(kind, clash.base)),
                "golden": _json(decode_slice(kind, clash.golden)),
                "theirs": _json(decode_slice(kind, clash.theirs)),
                "rule": clash.rule,
                "outcome": clash.outcome,
                "event_id": clash.cause.event_id,
                "at": clash.cause.time,
            }
            out.append(Output(topics.ops("conflicts"), cid, codec.encode("conflict", value)))
        alerts = topics.ops("alerts")
        out += [Output(alerts, cid, codec.encode("alert", self._alert(entity, cid, n))) for n in effects.notices]
        for timer in effects.timers:
            system, _, tenant = timer.place.partition("/")
            body = {
                "kind": "timer",
                "entity": entity.name,
                "canonical_id": cid.decode(),
                "system": system,
                "tenant": tenant,
                "entry": timer.kind,
                "delay_s": timer.delay_s,
            }
            name = f"timer/{entity.name}/{cid.decode()}/{timer.place}"
            out.append(Output(topics.ops("signals"), name.encode(), json.dumps(body).encode()))

    def _alert(self, entity: _Entity, cid: bytes, notice: Notice) -> dict[str, object]:
        kind, place, message, hint = notice
        system = place.partition("/")[0]
        return {
            "fingerprint": f"{kind}/{entity.plan.shown(place)}/{entity.name}/{cid.decode()}",
            "kind": kind,
            "severity": "warning",
            "system": system,
            "entity": entity.name,
            "subject": cid.decode(),
            "message": message,
            "hint": hint,
            "at": 0,
        }


def _json(value: object) -> str:
    return json.dumps(value, default=str)
