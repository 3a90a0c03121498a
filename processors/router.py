"""Where a change goes: to the journal of its record or, where that is not known, the long way, through identify.

A link is used only once every change of that native key that was sent the long way has come through; the link says up to which
offset of `cdc` that is. What was sent the long way is kept in memory only; `processors.route` says how a restart is safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Message

from processors.stage import Row
from processors.store import Scope
from tidelock.avro import decode_bytes, decode_long
from tidelock.change import value_position
from tidelock.context import Context
from tidelock.deadletter import dead_letter
from tidelock.envelopes import SEEDED, Entry
from tidelock.topics import Topics

log = structlog.get_logger()

BARRIER = b"barrier/"  # before system/partition: the key under which identify answers a barrier on a links topic
_SHORTEST = 37  # wire header, event id, position
_CACHED_LINKS = 100_000
_ABSENT: Any = object()
Link = tuple[int, bytes]  # through, canonical id as text


@dataclass(slots=True, frozen=True)
class Source:
    """What a `cdc` topic stands for, and where its changes go."""

    system: str
    entity: str
    link_prefix: bytes
    links: str
    journal: str
    identity: str
    topics: Topics


def read_link(value: bytes) -> Link:
    """Read a wire-format link (schemas/link.avsc) without decoding it: through, and the canonical id."""
    canonical_id, at = decode_bytes(value, 5)
    for _ in range(3):  # system, tenant, native key: the message key has them
        size, at = decode_long(value, at)
        at += size
    return decode_long(value, at)[0], canonical_id


def barrier_key(system: str, partition: int) -> bytes:
    """Return the key of the answer to a barrier of one system's partition."""
    return BARRIER + f"{system}/{partition}".encode()


class Router:
    """Decide where changes go. ``stored`` reads a raw link value by scope and key; it is asked once per key and then cached."""

    def __init__(
        self, sources: dict[str, Source], entry_header: bytes, stored: Callable[[Scope, bytes], bytes | None]
    ) -> None:
        self._sources = sources
        self._header = entry_header
        self._stored = stored
        self._links: dict[Scope, dict[bytes, Link | None]] = {}
        # Offset of the last change sent the long way, by link partition and key, until a link covers it.
        self._sent: dict[Scope, dict[bytes, int]] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.marks: list[
            Row
        ] = []  # end-of-seed marks that were met: to go on when all that stood before is in its topic

    def learn(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Take a message of a links topic that stands in the store already; None says that the link is gone."""
        scope = (topic, partition)
        link = None if value is None else read_link(value)
        known = self._links.get(scope)
        if known is not None and key in known:
            known[key] = link
        sent = self._sent.get(scope)
        if link is not None and sent and sent.get(key, link[0] + 1) <= link[0]:
            del sent[key]

    def forget(self, scope: Scope) -> None:
        """Forget everything of a links partition: it may have moved on elsewhere."""
        self._links.pop(scope, None)
        self._sent.pop(scope, None)

    def route(self, batch: Iterable[Message]) -> list[Row]:
        """Return what to produce for changes, in their order; what is no change goes to the dead letters."""
        if sum(map(len, self._links.values())) > _CACHED_LINKS:
            self._links.clear()
        rows: list[Row] = []
        add = rows.append
        last: tuple[Any, Any] = (None, None)
        source: Source = _ABSENT
        links: dict[bytes, Link | None] = {}
        sent: dict[bytes, int] = {}
        count = 0
        for message in batch:
            topic, partition = here = message.topic(), message.partition()
            if here != last:
                if count:
                    self.counts["routed", source.system, source.entity] += count
                    count = 0
                last = here
                source = self._sources[topic]
                scope = (source.links, partition)
                links = self._links.setdefault(scope, {})
                sent = self._sent.setdefault(scope, {})
            key, value = message.key(), message.value()
            if not key or value is None or len(value) < _SHORTEST or value[0] != 0 or b"/" not in key:
                if key is None and value and SEEDED in (message.headers() or ()):
                    self.marks.append((source.identity, None, value, 0, None))
                else:
                    add(self._dead(source, message))
                continue
            name = source.link_prefix + key
            link = links.get(name, _ABSENT)
            if link is _ABSENT:
                raw = self._stored(scope, name)
                link = links[name] = None if raw is None else read_link(raw)
            if link is not None and (not sent or sent.get(name, -1) <= link[0]):
                add((source.journal, link[1], value, -1, message.headers()))
                count += 1
            else:
                sent[name] = message.offset()
                add(self._unknown(source, message, key, value, name))
        if count:
            self.counts["routed", source.system, source.entity] += count
        return rows

    def barrier(self, source: Source, partition: int, token: str) -> Row:
        """Make the entry that identify answers with a link in the same partition: key `barrier_key`, canonical id the token."""
        entry = Entry("barrier", system=source.system, partition=partition, keys=(token,))
        return source.identity, None, self._header + entry.encode(), 0, None

    def _unknown(self, source: Source, message: Message, key: bytes, value: bytes, name: bytes) -> Row:
        tenant, _, native_key = key.decode().partition("/")
        entry = Entry(
            "unknown",
            system=source.system,
            tenant=tenant,
            native_key=native_key,
            position=value_position(value),
            partition=message.partition(),
            offset=message.offset(),
            payload=value,
        )
        self.counts["unknown", source.system, source.entity] += 1
        return source.identity, name, self._header + entry.encode(), 0, message.headers()

    def _dead(self, source: Source, message: Message) -> Row:
        self.counts["dead_letters", source.system, source.entity] += 1
        text = "the key is not tenant/native key, or the value is no change in the Confluent wire format"
        log.error("dead letter", message=f"{message.topic()}/{message.partition()}@{message.offset()}", error=text)
        return dead_letter(source.topics, message, "route", source.system, source.entity, "not_a_change", text)


def sources(context: Context) -> dict[str, Source]:
    """Return the `cdc` topics of all captured systems and entities, with where their changes go."""
    t = context.topics
    return {
        t.cdc(system, entity): Source(
            system, entity, f"{system}/".encode(), t.links(entity), t.journal(entity), t.identity(entity), t
        )
        for system, spec in context.config.systems.items()
        if spec.capture != "none"
        for entity in spec.entities
    }
