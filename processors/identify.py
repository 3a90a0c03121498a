"""The identify stage: entries of ``identity.<entity>`` in, links, journal entries and creates out.

It decodes and encodes; every decision is `processors.identity_core`'s. One partition per entity, so there is one order in which
identity is decided. State is kept row by row in ``state.identify.<entity>``; nothing is kept in memory between two batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from processors.identity_core import Identity
from processors.identity_outputs import Outputs
from processors.identity_rows import Sight, key_row, native_row, record_row
from processors.identity_rules import Rules
from processors.identity_sight import Spotter
from processors.plan import EntityPlan
from processors.stage import Headers, Overlay, Row
from tidelock.context import Context
from tidelock.deadletter import dead_letter
from tidelock.envelopes import APPLIED, OUTCOMES, STALE, TAKEN, Entry, Receipts
from tidelock.errors import Reject


class Message(Protocol):
    """What this stage asks of a Kafka message; stages do not know the client."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> Headers | None: ...


@dataclass(slots=True)
class _Rows:
    """One topic's rows in an overlay (`processors.identity_rows.Rows`)."""

    get: Callable[[bytes], bytes | None]
    put: Callable[[bytes, bytes | None], None]
    scan: Callable[[bytes], Iterator[tuple[bytes, bytes]]]


class _Entity:
    """What does not change between batches."""

    def __init__(self, context: Context, plan: EntityPlan) -> None:
        self.name = plan.name
        captured = tuple(place for place, p in plan.places.items() if p.captured)
        self.rules = Rules(
            plan.name,
            captured,
            {place: grants(plan, place) for place in captured},
            plan.spec.ambiguous,
            frozenset(captured),
            {place: plan.tail(plan.places[place].given) for place in captured if plan.places[place].given},
        )
        self.places = frozenset(self.rules.places)
        self.spotter = Spotter(plan, context.codec)
        self.out = Outputs(plan.name, context.topics, context.codec, self.rules.places, context.config.partitions)


def grants(plan: EntityPlan, source: str) -> tuple[str, ...]:
    """Return the places in which a record that is born in the place ``source`` may be created without asking.

    Not those of tenants that take some records only: most grants would come back unused, each by an entry of its own.
    """
    system = plan.places[source].system
    into = {s for s in plan.systems if plan.reaches(system, s) and any(flow.create for flow in plan.into(s))}
    return tuple(
        place
        for place, p in plan.places.items()
        if place != source and p.captured and p.when is None and p.system in into
    )


class IdentifyStage:
    """Decide identity for all entities (`processors.stage.Stage`)."""

    name = "identify"

    def __init__(self, context: Context, plans: dict[str, EntityPlan]) -> None:
        self._context = context
        topics = context.topics
        self._entities = {topics.identity(e): _Entity(context, p) for e, p in plans.items()}
        self._changelogs = {topics.identity(e): topics.state("identify", e) for e in plans}
        self.inputs = tuple(self._entities)
        self._header = context.codec.header("entry")
        self._counts: dict[tuple[str, str, str], int] = defaultdict(int)

    def changelog(self, topic: str) -> str:
        """Name the changelog of an identity topic."""
        return self._changelogs[topic]

    def forget(self) -> None:
        """Drop what the last batch counted; there is nothing else."""
        self._counts.clear()
        for entity in self._entities.values():
            entity.out.rows = []
            entity.out.counts.clear()

    def applied(self) -> None:
        """Count what has really happened."""
        for (name, system, entity), n in self._counts.items():
            self._context.activity.count(name, system, entity, n)
        self._counts.clear()

    def process(self, batch: list[Message], state: Overlay) -> Sequence[Row]:
        """Decide a batch; see `processors.stage.Stage.process`."""
        rows: list[Row] = []
        self._counts.clear()
        work: dict[tuple[str, int], list[tuple[Message, Entry]]] = {}
        for message in batch:
            topic, partition = message.topic(), message.partition()
            try:
                entry = self._decode(message.value())
            except Reject as error:
                rows.append(self._dead(message, "hub", self._entities[topic], error))
                continue
            scope = work.get((topic, partition))
            if scope is None:
                scope = work[topic, partition] = []
            scope.append((message, entry))
        for (topic, partition), entries in work.items():
            self._entity(self._entities[topic], topic, partition, entries, state, rows)
        return rows

    def _decode(self, value: bytes | None) -> Entry:
        if value is None or (value[:5] != self._header and self._context.codec.kind(value) != "Entry"):
            raise Reject("only entries belong into an identity topic", kind="unexpected_envelope")
        try:
            return Entry.decode(value)
        except (IndexError, ValueError) as error:
            raise Reject(f"the entry does not fit its schema: {error!r}", kind="bad_avro") from error

    def _dead(self, message: Message, system: str, entity: _Entity, error: Reject) -> Row:
        self._counts["dead_letters", system, entity.name] += 1
        return dead_letter(self._context.topics, message, self.name, system, entity.name, error.kind, str(error))

    # ------------------------------------------------------------------------------------------------ one entity

    def _entity(
        self,
        entity: _Entity,
        topic: str,
        partition: int,
        entries: list[tuple[Message, Entry]],
        state: Overlay,
        rows: list[Row],
    ) -> None:
        """Decide entries of one entity, all of the batch fetched in two reads of the store."""
        mine = _Rows(
            partial(state.get, topic, partition),
            partial(state.put, topic, partition),
            partial(state.scan, topic, partition),
        )
        out = entity.out
        out.rows = rows
        identity = Identity(entity.rules, mine, out, entity.spotter)
        wanted: list[bytes] = []
        for _, e in entries:
            if e.native_key:
                wanted.append(native_row(f"{e.system}/{e.tenant}", e.native_key))
            if e.canonical_id:
                wanted.append(record_row(e.canonical_id))
        state.load(topic, partition, wanted)
        sights = self._sights(entity, mine, entries, rows)
        keys = [key_row(k) for s in sights.values() if s is not None for k in s.keys]
        keys += [key_row(k) for _, e in entries if e.kind == "keys" for k in e.keys]
        if keys:
            state.load(topic, partition, keys)
        for i, (message, entry) in enumerate(entries):
            out.headers = message.headers()
            if entry.kind == "unknown":
                sight = sights.get(i)
                if sight is not None:
                    identity.unknown(sight)
                elif i not in sights:
                    self._known(entity, identity, message, entry)
            else:
                try:
                    self._one(entity, identity, entry, sights.get(i))
                except Reject as error:
                    rows.append(self._dead(message, entry.system or "hub", entity, error))
        identity.flush()
        for (name, place), n in out.counts.items():
            self._counts[name, place.partition("/")[0], entity.name] += n
        out.counts.clear()

    def _sights(
        self, entity: _Entity, mine: _Rows, entries: list[tuple[Message, Entry]], rows: list[Row]
    ) -> dict[int, Sight | None]:
        """Read the changes that have to be looked at, by number of the entry; None for one that cannot be read."""
        sights: dict[int, Sight | None] = {}
        read, get = entity.spotter.read, mine.get
        for i, (message, e) in enumerate(entries):
            unknown = e.kind == "unknown"
            if not (unknown or (e.kind in ("bounce", "stray") and e.payload)):
                continue
            place = f"{e.system}/{e.tenant}"
            try:
                if place not in entity.places:
                    raise Reject(
                        f"{place} is not a captured place of {entity.name}", kind="unknown_place",
                        hint="check `systems` in the configuration: capture, tenants and entities",
                    )  # fmt: skip
                if unknown:
                    row = get(native_row(place, e.native_key))
                    if row is None or not row[0] & 1:  # else it is linked and is only passed on
                        sights[i] = read(place, e.native_key, e.payload, e.partition, e.offset)
                else:
                    sights[i] = read(place, e.native_key, e.payload, -1, -1)
            except Reject as error:
                sights[i] = None
                rows.append(self._dead(message, e.system or "hub", entity, error))
        return sights

    def _known(self, entity: _Entity, identity: Identity, message: Message, e: Entry) -> None:
        """Pass a change on; if its native has left its record within this batch, look at it after all."""
        place = f"{e.system}/{e.tenant}"
        if identity.pass_on(place, e.native_key, e.partition, e.offset, e.position, e.payload):
            return
        try:
            identity.unknown(entity.spotter.read(place, e.native_key, e.payload, e.partition, e.offset))
        except Reject as error:
            entity.out.rows.append(self._dead(message, e.system, entity, error))

    def _one(self, entity: _Entity, identity: Identity, e: Entry, sight: Sight | None) -> None:
        """Hand an entry that is not an unknown change to its decision. Raises Reject (``unknown_entry``, ``bad_avro``)."""
        place = f"{e.system}/{e.tenant}"
        match e.kind:
            case "keys":
                identity.keys(e.canonical_id, e.keys)
            case "create":
                identity.create(e.canonical_id, place, e.payload)
            case "created":
                self._created(identity, place, e)
            case "barrier":
                entity.out.barrier(e.system, e.partition, e.keys[0] if e.keys else "")
            case "seeded":
                if place in entity.places:  # else it is captured no more
                    identity.seeded(place, e.partition, e.offset)
            case "drain":
                entity.out.headers = None
                identity.drain(place)
            case "left":
                identity.left(e.canonical_id, place, e.native_key, e.position)
            case "dying":
                identity.dying(e.canonical_id)
            case "bounce":
                identity.bounce(e.canonical_id, place, e.native_key, sight)
            case "stray":
                identity.stray(e.canonical_id, place, e.native_key, sight)
            case "taken":
                identity.taken(e.canonical_id, place, e.native_key, e.keys)
            case "release":
                identity.release(e.canonical_id, place)
            case "retry":
                identity.retry(e.canonical_id, place)
            case "link":
                if identity.foreign(e.canonical_id, place):
                    raise Reject(
                        f"{place}/{e.native_key} cannot be linked to {e.canonical_id}, which belongs to another tenant",
                        kind="other_tenant",
                        hint="whose a record is, is decided where that field is kept: correct it there, then link again",
                    )
                identity.decide_link(e.canonical_id, place, e.native_key)
            case "unlink":
                identity.decide_unlink(place, e.native_key)
            case "split":
                identity.decide_split(place, e.native_key)
            case "merge":
                identity.decide_merge(e.canonical_id, e.keys)
            case _:
                raise Reject(f"identify does not know entries of kind {e.kind!r}", kind="unknown_entry")

    def _created(self, identity: Identity, place: str, e: Entry) -> None:
        try:
            item = Receipts.decode(e.payload).items[0]
        except (IndexError, ValueError) as error:
            raise Reject(f"the receipt of a create does not fit its schema: {error!r}", kind="bad_avro") from error
        native = item.native_key or e.native_key
        identity.created(
            e.canonical_id,
            place,
            native,
            item.position or e.position,
            e.payload,
            applied=item.outcome in (APPLIED, STALE) and bool(native),
            taken=item.outcome == TAKEN,
            reason=item.kind or OUTCOMES[item.outcome],
            version=item.version,
        )
