"""The merge stage: journal entries in, writes, golden records and decisions out. It decodes, keeps records at hand, and encodes.

Every decision is `processors.merge`'s. State per record is one value under its canonical id in ``state.merge.<entity>``; the order of
fields and columns in it is named by a layout, so that records written under an older configuration are read by name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from confluent_kafka import Message
from opentelemetry.trace import SpanKind

from processors import record as records
from processors.edits import Readers
from processors.effects import Effects, Notice, Send
from processors.golden import GoldenWriter, hub_schema
from processors.guards import ActorLimits
from processors.merge import Merge
from processors.plan import EntityPlan, RowReader
from processors.record import Record
from processors.stage import Headers, Output, Overlay, Row
from tidelock.avro import NULL, VALUE_TAGS, decode_slice, encode_long, encode_string, fits
from tidelock.change import Change, ChangeReader, schema_columns, wire_header
from tidelock.codec import Codec, schema_id
from tidelock.context import Context
from tidelock.deadletter import dead_letter
from tidelock.envelopes import Entry, Receipts, encode_write_head, plain_system
from tidelock.errors import Reject

LAYOUT_KEY = b"!layout/"
CACHE_RECORDS = 8_000  # decoded records kept per worker, about 4 kB each; the store keeps many more encoded


class _Entity:
    """Everything of one entity that does not change between batches."""

    def __init__(self, context: Context, plan: EntityPlan) -> None:
        topics, codec = context.topics, context.codec
        self.plan = plan
        self.name = plan.name
        self.readers = Readers(lambda number: _row_reader(codec, plan, number))
        self.merge = Merge(plan, self.readers)
        self.hub = topics.hub(plan.name)
        self.identity = topics.identity(plan.name)
        self.sync = {s: topics.sync(s, plan.name) for s in plan.systems}
        self.limits = ActorLimits(plan, context.config.partitions)
        self.direct = frozenset(s.system for s in plan.systems.values() if s.direct)
        self.golden = GoldenWriter(plan, wire_header(codec.registry.register(f"{self.hub}-value", hub_schema(plan))))
        self.names = {
            f"{s.system}/{s.tenant}": encode_string(s.system) + encode_string(s.tenant) + encode_string(plan.name)
            for s in plan.systems.values()
        }
        self.columns = {s.system: [encode_string(c) for c in s.columns] for s in plan.systems.values()}
        self.tags = {s.system: [VALUE_TAGS[k] for k in s.write_types] for s in plan.systems.values()}
        order = {
            "fields": [f.name for f in plan.fields],
            "columns": {s: list(p.columns) for s, p in sorted(plan.systems.items())},
        }
        self.order = json.dumps(order, sort_keys=True).encode()
        self.layout = hashlib.blake2b(self.order, digest_size=8).digest()


def _row_reader(codec: Codec, plan: EntityPlan, number: int) -> RowReader:
    schema = codec.registry.schema(number)
    return plan.systems[schema["tidelock.system"]].reader(schema_columns(schema))


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
        self._write_header = self._codec.header("write")
        self._state_header = self._codec.header("state")
        self._sources: dict[str, bytes] = {}
        self._records: OrderedDict[tuple[str, int, bytes], Record] = OrderedDict()
        self._touched: set[tuple[str, int, bytes]] = set()
        self._layouts_put: set[tuple[str, int]] = set()
        self._counts: dict[tuple[str, str, str], int] = defaultdict(int)

    def changelog(self, topic: str) -> str:
        """Name the changelog of a journal."""
        return self._changelogs[topic]

    def forget(self) -> None:
        """Drop what the aborted batch touched."""
        for key in self._touched:
            self._records.pop(key, None)
        self._touched.clear()
        self._layouts_put.clear()
        self._counts.clear()

    def applied(self) -> None:
        """Keep the most recently used records only, and count what has now really happened."""
        self._touched.clear()
        while len(self._records) > CACHE_RECORDS:
            self._records.popitem(last=False)
        for (name, place, entity), n in self._counts.items():
            self._context.activity.count(name, place.partition("/")[0], entity, n)
        self._counts.clear()

    # ------------------------------------------------------------------------------------------------ a batch

    def process(self, batch: list[Message], state: Overlay) -> Sequence[Row]:
        """Fold a batch; see `processors.stage.Stage.process`."""
        out: list[Row] = []
        work = self._decode(batch, state, out)
        golden: dict[tuple[str, int, bytes], None] = {}
        effects = Effects()
        for message, topic, partition, item in work:
            entity = self._entities[topic]
            try:
                if isinstance(item, Receipts):
                    place = f"{item.system}/{item.tenant}"
                    for receipt in item.items:
                        key = (topic, partition, receipt.canonical_id.encode())
                        record = self._record(key, entity, state)
                        entity.merge.on_receipt(record, receipt.canonical_id, place, receipt, effects)
                        self._take(key, entity, record, effects, golden, out)
                elif isinstance(item, Entry) and item.kind == "release_actor":
                    entity.limits.release(topic, partition, item.system, item.keys[0], item.offset, state)
                else:
                    cid = message.key() or b""
                    key = (topic, partition, cid)
                    record = self._record(key, entity, state)
                    self._one(message, entity, record, cid.decode(), item, state, effects)
                    self._take(key, entity, record, effects, golden, out)
            except Reject as error:
                out.append(dead_letter(self._topics, message, "merge", "hub", entity.name, error.kind, str(error)))
                self._counts["dead_letters", "hub", entity.name] += 1
        for key in golden:
            record = self._records[key]
            entity = self._entities[key[0]]
            out.append(
                (entity.hub, key[2], None if record.deleted else entity.golden.encode(key[2], record), key[1], None)
            )
        for key in self._touched:
            topic, partition, cid = key
            entity = self._entities[topic]
            if (topic, partition) not in self._layouts_put:
                self._layouts_put.add((topic, partition))
                if state.get(topic, partition, LAYOUT_KEY + entity.layout) is None:
                    state.put(topic, partition, LAYOUT_KEY + entity.layout, entity.order)
            state.put(topic, partition, cid, self._state_header + records.encode(self._records[key], entity.layout))
        return out

    def _decode(
        self, batch: list[Message], state: Overlay, out: list[Row]
    ) -> list[tuple[Message, str, int, Receipts | Entry | int]]:
        """Find out what each message is and fetch the records of the whole batch at once."""
        work: list[tuple[Message, str, int, Receipts | Entry | int]] = []
        wanted: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        codec = self._codec
        for message in batch:
            topic, partition, value = message.topic(), message.partition(), message.value()
            item: Receipts | Entry | int
            try:
                kind = codec.kind(value)
                if kind == "Change":
                    item = schema_id(value)
                elif kind == "Receipts":
                    if plain_system(value) in self._entities[topic].direct:
                        continue  # all landed as they were written, where that is what merge took for granted
                    item = Receipts.decode(value)
                elif kind == "Entry":
                    item = Entry.decode(value)
                else:
                    raise Reject(f"a {kind} does not belong into a journal", kind="unexpected_envelope")
            except (Reject, IndexError, ValueError) as error:
                kind = error.kind if isinstance(error, Reject) else "bad_avro"
                name = self._entities[topic].name
                out.append(dead_letter(self._topics, message, "merge", "hub", name, kind, str(error)))
                self._counts["dead_letters", "hub", name] += 1
                continue
            scope = wanted[topic, partition]
            if isinstance(item, Receipts):
                scope.update(r.canonical_id.encode() for r in item.items)
            else:
                scope.add(message.key() or b"")
            work.append((message, topic, partition, item))
        for (topic, partition), cids in wanted.items():
            missing = [c for c in cids if (topic, partition, c) not in self._records]
            if missing:
                state.load(topic, partition, missing)
        return work

    def _record(self, key: tuple[str, int, bytes], entity: _Entity, state: Overlay) -> Record:
        record = self._records.get(key)
        if record is not None:
            if key not in self._touched:
                self._records.move_to_end(key)
                self._touched.add(key)
            return record
        topic, partition, cid = key
        value = state.get(topic, partition, cid)
        if value is None:
            record = Record.new(len(entity.plan.fields))
        else:
            layout, record = records.decode(value)
            if layout != entity.layout:
                self._reorder(entity, record, state.get(topic, partition, LAYOUT_KEY + layout))
        self._records[key] = record
        self._touched.add(key)
        return record

    def _reorder(self, entity: _Entity, record: Record, order: bytes | None) -> None:
        """Bring a record written under another configuration into this one's order, by name."""
        if order is None:
            raise Reject("the state names a layout that is not in its changelog", kind="unknown_layout")
        records.reorder(record, json.loads(order), json.loads(entity.order))

    def _one(
        self,
        message: Message,
        entity: _Entity,
        record: Record,
        cid: str,
        item: Entry | int,
        state: Overlay,
        effects: Effects,
    ) -> None:
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
            entity.limits.check(message.topic(), message.partition(), change, state)
            merge.on_change(
                record, cid, place, change, entity.readers.get(entity.plan.systems[change.system], item), item, effects
            )
        elif item.kind == "linked":
            change = self._change(item.payload)
            if record.deleted:
                effects.identify.append(
                    Entry("bounce", cid, item.system, item.tenant, item.native_key, item.position, payload=item.payload)
                )
                return
            number = schema_id(item.payload)
            merge.on_linked(
                record,
                cid,
                f"{item.system}/{item.tenant}",
                change,
                entity.readers.get(entity.plan.systems[item.system], number),
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

    def _take(
        self,
        key: tuple[str, int, bytes],
        entity: _Entity,
        record: Record,
        effects: Effects,
        golden: dict[tuple[str, int, bytes], None],
        out: list[Row],
    ) -> None:
        _, partition, cid = key
        if effects.golden_changed:
            golden[key] = None
        if effects.identify:  # before the asks for creates: a place must be left before it can be entered again
            out += [(entity.identity, None, self._entry_header + e.encode(), 0, None) for e in effects.identify]
        for send in effects.sends:
            value = self._write(entity, cid, record, send)
            place = send.place
            system = place.partition("/")[0]
            if send.ask:
                tenant = place.partition("/")[2]
                ask = Entry(
                    "create", cid.decode(), system, tenant, partition=partition, keys=record.keys, payload=value
                )
                out.append((entity.identity, None, self._entry_header + ask.encode(), 0, None))
            else:
                out.append((entity.sync[system], cid, value, partition, self._traced(send, entity)))
            self._counts["writes", place, entity.name] += 1
        for name, place in effects.counts:
            self._counts[name, place, entity.name] += 1
        if effects.clashes or effects.notices or effects.timers:
            self._rarely(entity, cid, effects, out)
        effects.clear()

    def _write(self, entity: _Entity, cid: bytes, record: Record, send: Send) -> bytes:
        system = send.place.partition("/")[0]
        cause = send.cause
        flight = send.flight
        parts = [
            self._write_header,
            encode_write_head(
                cid,
                flight.version,
                flight.op,
                send.native_key,
                self._spelt(cause.system),
                cause.time,
                cause.event_id,
                cause.actor,
                self._spelt(cause.rule),
                entity.names[send.place],
            ),
        ]
        if flight.columns:
            names, tags, bases = entity.columns[system], entity.tags[system], send.bases
            reader = None
            if bases and (copy := record.copies.get(send.place)) is not None:
                reader = entity.readers.get(entity.plan.systems[system], copy.schema_id)
            parts.append(encode_long(len(flight.columns)))
            for c, raw in flight.columns.items():
                parts.append(names[c])
                parts.append(tags[c] + raw[1:] if raw[0] else NULL)
                base = bases.get(c, NULL)
                kind = reader.types[c] if reader is not None else None
                # What stands there is spelt as capture types it, or as we wrote it if nobody has captured it since.
                if not base[0]:
                    parts.append(NULL)
                elif kind is not None and fits(kind, base):
                    parts.append(VALUE_TAGS[kind] + base[1:])
                else:
                    parts.append(tags[c] + base[1:])
        parts.append(b"\x00")
        return b"".join(parts)

    def _traced(self, send: Send, entity: _Entity) -> Headers | None:
        """Record the merge of a traced change as a span, and return the headers that carry its context on."""
        tracing, event = self._context.tracing, send.cause.event_id
        if not tracing.bound or not tracing.sampled(event):
            return None
        now = time.time_ns() // 1000
        name = self._topics.journal(entity.name)
        facts: dict[str, str | int] = {
            "messaging.destination.name": name,
            "messaging.operation.type": "process",
            "tidelock.to": send.place,
        }
        return tracing.step(event, f"process {name}", SpanKind.CONSUMER, now, now, None, facts)

    def _spelt(self, text: str) -> bytes:
        known = self._sources.get(text)
        if known is None:
            known = self._sources[text] = encode_string(text)
        return known

    def _rarely(self, entity: _Entity, cid: bytes, effects: Effects, out: list[Row]) -> None:
        plan, codec, topics = entity.plan, self._codec, self._topics
        for clash in effects.clashes:
            kind = plan.fields[clash.field].type
            value = {
                "canonical_id": cid.decode(),
                "entity": entity.name,
                "field": plan.fields[clash.field].name,
                "system": clash.place.partition("/")[0],
                "against": clash.against.partition("/")[0],
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
            "fingerprint": f"{kind}/{system}/{entity.name}/{cid.decode()}",
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
