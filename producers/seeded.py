"""The end of the first seed, told to identify: nothing is created in a system before all it held has been looked at.

When everything that a seed has read stands in the cdc topic, a mark is written to every partition of it. Route hands each on to
identify behind what stood before it, and when all have come the place is open for creates (`processors.identity_seeds`). That marks
were given is on record under ``seeded/<system>/<tenant>/<entity>`` in ``ops.signals``; giving them twice is harmless.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import stamina
import structlog
from confluent_kafka import KafkaException

from producers.base import Publisher
from producers.signals import Signal
from tidelock.context import Context
from tidelock.envelopes import SEEDED, Entry
from tidelock.errors import Retry
from tidelock.kafka import translate

log = structlog.get_logger()

REREAD = "reread-"
"""How the numbers of seeds begin that read single rows again."""


class Marks:
    """The end-of-seed marks of one tenant, the only one unless named; each tenant's first seed ends for itself.

    ``last`` is what ``ops.signals`` holds (`producers.signals.Signals.last`).
    """

    def __init__(
        self,
        context: Context,
        system: str,
        publisher: Publisher,
        last: Mapping[str, Signal],
        tenant: str | None = None,
    ) -> None:
        self._context = context
        self._system = system
        self._tenant = context.config.systems[system].only_tenant if tenant is None else tenant
        self._publisher = publisher
        self._last = last
        self._given: set[str] = set()

    def given(self, entity: str) -> bool:
        """Return whether an entity's marks were given, by this process or an earlier one."""
        return entity in self._given or self._key(entity) in self._last

    def give(self, entity: str, why: str) -> None:
        """Wait until all that was published stands in its topic, then mark its end there. Raises Retry or Fatal."""
        publisher, topic = self._publisher, self._context.topics.cdc(self._system, entity)
        publisher.flush()  # a mark must not overtake a row that has to be sent again
        header = self._context.codec.header("entry")
        count = self._partitions(topic)
        for partition in range(count):
            entry = Entry("seeded", system=self._system, tenant=self._tenant, partition=partition, offset=count)
            publisher.raw(topic, None, header + entry.encode(), partition, [SEEDED])
        publisher.flush()
        content: dict[str, Any] = {"kind": "seeded", "why": why, "partitions": count, "at": int(time.time())}
        publisher.signal(self._key(entity), content)
        publisher.flush()
        self._given.add(entity)
        log.info(
            "creates need not wait for it any more",
            system=self._system,
            tenant=self._tenant,
            entity=entity,
            why=why,
        )

    def starting(self, entity: str, record: Signal | None, *, on_start: bool, reads: bool = False) -> bool:
        """Look at the record of an entity's last seed when capture starts; return whether to seed it from its beginning.

        Gives the marks where nothing is to be waited for (any more): the seed was done, by an earlier version perhaps, or it is not
        to be read at the start. ``reads``: the first reading takes everything all the same. Raises Retry or Fatal.
        """
        given, state = self.given(entity), None if record is None else record.get("state")
        if not given and record is not None and state == "done" and whole(record):
            self.give(entity, "seed")
        elif (
            not given
            and not on_start
            and not reads
            and not (record is not None and state == "running" and whole(record))
        ):
            self.give(entity, "not seeded on start")
        if not on_start or state == "running":
            return False
        return record is None or (not given and not whole(record))

    def _partitions(self, topic: str) -> int:
        # A topic that was made a moment ago may not be known everywhere yet.
        for attempt in stamina.retry_context(on=Retry, attempts=8, timeout=30.0, wait_initial=0.1, wait_max=2.0):
            with attempt:
                return self._look(topic)
        raise AssertionError("the last attempt raises or returns")

    def _look(self, topic: str) -> int:
        try:
            known = self._publisher.producer.list_topics(topic, timeout=30.0).topics[topic]
        except KafkaException as error:
            raise translate(error, f"looking at {topic}") from error
        if known.error is not None or not known.partitions:
            raise Retry(f"topic {topic} has no partitions yet", hint="run `tidelock up`, which creates all topics")
        return len(known.partitions)

    def _key(self, entity: str) -> str:
        return f"seeded/{self._system}/{self._tenant}/{entity}"


def whole(record: Signal) -> bool:
    """Return whether a seed's record is of one that reads all there is: no condition, not just single rows once more."""
    return not record.get("where") and not str(record.get("id", "")).startswith(REREAD)
