"""All topics of an installation, from its configuration: DESIGN section 3 as a list."""

from __future__ import annotations

from tidelock.config import DATABASE_CAPTURES, Config
from tidelock.kafka import TopicSpec
from tidelock.topics import Topics

DAY_S = 86_400
LANES = ("increments", "loads")
JOB_PARTITIONS = 8
"""Of the jobs of captures of HTTP APIs: more workers than this of one system share no more work."""


def all_topics(config: Config) -> list[TopicSpec]:
    """List the topics that the configured systems, entities and flows need."""
    t, n, kept_s = Topics(config.prefix), config.partitions, config.retention_days * DAY_S
    out: list[TopicSpec] = []

    def add(name: str, partitions: int = n, *, compact: bool = False, retention_s: int = -1) -> None:
        settings = {"min.cleanable.dirty.ratio": "0.2", "segment.bytes": "67108864"} if compact else {}
        out.append(TopicSpec(name, partitions, compact, retention_s, config.kafka.replication, settings))

    for entity in config.entities:
        add(t.journal(entity))
        add(t.identity(entity), 1)
        add(t.hub(entity), compact=True)
        add(t.links(entity), compact=True)
        add(t.state("merge", entity), compact=True)
        add(t.state("identify", entity), 1, compact=True)
        for stage in ("merge", "identify", "route"):
            add(t.dlq(stage, "hub", entity), 1)
    for name, system in config.systems.items():
        for entity in system.entities:
            if system.capture != "none":
                add(t.cdc(name, entity))
                for stage in ("capture", "route", "identify"):
                    add(t.dlq(stage, name, entity), 1)
            add(t.sync(name, entity))
            add(t.dlq("sink", name, entity), 1)
        if system.capture not in DATABASE_CAPTURES | {"none"}:
            for lane in LANES:
                add(t.jobs(lane, name), max(n, JOB_PARTITIONS), retention_s=7 * DAY_S)
    add(t.ops("activity"), 1, retention_s=DAY_S)
    add(t.ops("audit"), n, retention_s=kept_s)
    add(t.ops("conflicts"), 1, retention_s=kept_s)
    add(t.ops("alerts"), 1, retention_s=kept_s)
    add(t.ops("runs"), 1, retention_s=kept_s)
    add(t.ops("signals"), 1, compact=True)
    return out
