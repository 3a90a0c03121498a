"""From messages to an order of writing: decode, fold what is one record's, parents before children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from confluent_kafka import Message

from sinks.base import Scope
from sinks.instructions import decode_write, fold
from sinks.packs import Fate
from tidelock.context import Context
from tidelock.envelopes import Write
from tidelock.errors import Reject


@dataclass(slots=True)
class Item:
    """One message on its way: the write it holds (None: it could not be read), and what became of it.

    ``folded`` is what is really written: with earlier writes to the record in it (``instead_of``), or None if a later one has it.
    """

    message: Message
    scope: Scope
    offset: int
    entity: str
    value: bytes
    write: Write | None = None
    folded: Write | None = None
    instead_of: list[Item] = field(default_factory=list)
    fate: Fate | None = None
    plain: bool = False
    trouble: Reject | None = None


Wave = list[list[Item]]  # groups of items: one entity in one tenant each, deletes apart from the others


class Planner:
    """Read messages of one system and put them in order."""

    def __init__(self, context: Context, system: str, order: Sequence[str]) -> None:
        self._codec = context.codec
        self._header = context.codec.header("write")
        self._system = system
        self._order = list(order)
        self._entities = {context.topics.sync(system, entity): entity for entity in order}

    def read(self, message: Message) -> Item:
        """Decode a message; what cannot be read is told in ``trouble``."""
        topic, value = str(message.topic()), message.value() or b""
        item = Item(
            message, (topic, int(message.partition() or 0)), int(message.offset() or 0), self._entities[topic], value
        )
        try:
            if value[:5] != self._header and (kind := self._codec.kind(value)) != "Write":
                raise Reject(
                    f"the message is no write but {kind}", kind="not_a_write", hint="find out who writes to this topic"
                )
            write = decode_write(value)
            if write.system != self._system or write.entity != item.entity:
                raise Reject(
                    f"the write is for {write.entity} of {write.system}",
                    kind="not_for_us",
                    hint="find out who writes to this topic",
                )
            item.write = item.folded = write
        except (IndexError, ValueError, KeyError) as error:
            item.trouble = Reject(f"the write does not fit its schema: {error!r}", kind="bad_avro")
        except Reject as error:
            item.trouble = error
        return item

    def waves(self, items: list[Item]) -> list[Wave]:
        """Fold writes to one record into one, and put the rest into waves: within one, a record stands once."""
        last: dict[str, tuple[int, Item]] = {}
        waves: list[list[Item]] = []
        for item in items:
            write = item.write
            if write is None:
                continue
            key = f"{item.entity}/{write.tenant}/{write.canonical_id}"
            before = last.get(key)
            number = 0
            if before is not None:
                number, earlier = before
                assert earlier.folded is not None
                both = fold(earlier.folded, write)
                if both is not None:
                    item.folded, earlier.folded = both, None
                    item.instead_of, earlier.instead_of = [*earlier.instead_of, earlier], []
                    place = waves[number].index(earlier)
                    waves[number][place] = item
                    last[key] = (number, item)
                    continue
                number += 1
            if number == len(waves):
                waves.append([])
            waves[number].append(item)
            last[key] = (number, item)
        return [self._groups(wave) for wave in waves]

    def _groups(self, wave: list[Item]) -> Wave:
        puts: dict[str, dict[str, list[Item]]] = {}  # by entity and tenant
        deletes: dict[str, dict[str, list[Item]]] = {}
        for item in wave:
            write = item.folded
            assert write is not None
            of = deletes if write.op == "delete" else puts
            of.setdefault(item.entity, {}).setdefault(write.tenant, []).append(item)
        first = [group for e in self._order if e in puts for group in puts[e].values()]
        return first + [group for e in reversed(self._order) if e in deletes for group in deletes[e].values()]
