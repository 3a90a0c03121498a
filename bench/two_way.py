"""Two captured systems that are both edited: merge throughput with echoes, and with conflicts on every tenth record."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from confluent_kafka import KafkaError, TopicPartition

from bench.contestant import Contestant, Say
from bench.rounds import running, scene
from bench.tidelock_run import Tidelock
from bench.work import POLL_S, PROBES, STALLED_S, Connection, Pair, Span
from tidelock.embedded import Stack
from tidelock.errors import Fatal
from tidelock.kafka import KafkaClients
from tidelock.topics import Topics

_CHUNK = 500
# of ten records, one is edited on both sides at once; the others on one side
_EDIT: LiteralString = """
    update contact set city = %(city)s
    where id between %(first)s and %(last)s and (id %% 10 = 0 or id %% 2 = %(side)s)
"""
# What must be true in the end, on either side: every row that was edited on one side only holds that edit.
_STATE: LiteralString = """
    select count(*) filter (where id %% 10 <> 0 and id %% 2 = 1 and city = 'edited source')
             + count(*) filter (where id %% 10 <> 0 and id %% 2 = 0 and city = 'edited target'),
           count(*) filter (where id %% 10 = 0 and city like 'edited %%'),
           coalesce(sum(hashtext(id || city)) filter (where id %% 10 = 0), 0)
    from contact where id between %(first)s and %(last)s
"""


def measure(stack: Stack, folder: Path, events: int, say: Say) -> dict[str, Any]:
    """Return edits per second until both systems hold the same, and how many conflicts and journal entries there were."""
    with scene(stack, folder, "bench_two_way", say) as place:
        contestant = Tidelock(place, two_way=True)
        topics, kafka = Topics(f"{place.name}."), KafkaClients(place.endpoints.kafka)
        with running(contestant) as (pair, _):
            back = Pair(place.target, place.source, probes_from=PROBES // 2)
            back.wait_ready(contestant.check)  # or edits would come before the capture they are meant for
            back.close()
            span = pair.span(events, "seeded")
            pair.insert(span)
            pair.wait(span, contestant.check)
            journal = sum(_ends(kafka, topics.journal("contact")).values())
            begun = time.monotonic()
            _edit_both(place.source, place.target, span)
            seconds = _wait(pair, span, contestant) - begun
            entries = sum(_ends(kafka, topics.journal("contact")).values()) - journal
            conflicts = _count(kafka, topics.ops("conflicts"))
    edits = events + events // 10
    found = {
        "edits": edits,
        "conflicting_records": events // 10,
        "conflict_records_written": conflicts,
        "seconds": round(seconds, 2),
        "edits_per_s": round(edits / seconds),
        "journal_entries_per_s": round(entries / seconds),
    }
    say(f"two_way: {found['edits_per_s']:,} edits/s, {found['journal_entries_per_s']:,} journal entries/s")
    return {"two_way": found}


def _edit_both(source: str, target: str, span: Span) -> None:
    errors: list[psycopg.Error] = []

    def edit(dsn: str, name: str, side: int) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                for first in range(span.first, span.last + 1, _CHUNK):
                    last = min(first + _CHUNK - 1, span.last)
                    connection.execute(_EDIT, {"first": first, "last": last, "side": side, "city": f"edited {name}"})
        except psycopg.Error as error:
            errors.append(error)

    threads = [
        threading.Thread(target=edit, args=(source, "source", 1), daemon=True),
        threading.Thread(target=edit, args=(target, "target", 0), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise Fatal(f"an edit was refused: {errors[0]}", hint="See PostgreSQL's log in the stack's folder.")


def _wait(pair: Pair, span: Span, contestant: Contestant) -> float:
    """Wait until both sides hold every edit and agree on the conflicts; return when that was seen (monotonic)."""
    single = sum(1 for i in range(span.first, span.last + 1) if i % 10)
    double = span.rows - single
    best: tuple[int, int] = (-1, -1)
    moved = time.monotonic()
    while True:
        source, target = (_state(connection, span) for connection in (pair.source, pair.target))
        now = time.monotonic()
        if source == target and source[:2] == (single, double):
            return now
        if (source[0], target[0]) != best:
            best, moved = (source[0], target[0]), now
        if now - moved > STALLED_S:
            raise Fatal(
                f"the two systems do not come to hold the same: of {single} rows edited on one side"
                f" {source[0]} and {target[0]} are right, the conflicting ones differ: {source[2] != target[2]}",
                hint="The workers' log tells why.",
            )
        contestant.check()
        time.sleep(POLL_S * 4)  # this question costs more than the one-way one


def _state(connection: Connection, span: Span) -> tuple[int, int, int]:
    row = connection.execute(_STATE, span.values()).fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def _ends(kafka: KafkaClients, topic: str) -> dict[int, int]:
    """Return the end offset of every partition; the few markers of transactions are counted in it."""
    consumer = kafka.consumer("bench", "bench-ends")
    try:
        partitions = consumer.list_topics(topic, timeout=30.0).topics[topic].partitions
        return {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=30.0)[1] for n in partitions}
    finally:
        consumer.close()


def _count(kafka: KafkaClients, topic: str) -> int:
    """Return how many committed messages a topic holds now."""
    ends = _ends(kafka, topic)
    consumer = kafka.consumer("bench", "bench-count", enable_partition_eof=True)
    try:
        consumer.assign([TopicPartition(topic, n, 0) for n in ends])
        left, count = set(ends), 0
        while left:
            for message in consumer.consume(10_000, 1.0):
                error = message.error()
                if error is None:
                    count += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
        return count
    finally:
        consumer.close()
