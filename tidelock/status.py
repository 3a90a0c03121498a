"""What is going on, from one query: workers, flows, lag, dead letters. The page, ``status --json`` and metrics are to use this."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from tidelock import captures
from tidelock.activity import BUCKETS_MS
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.kafka import KafkaClients, translate
from tidelock.places import TENANT_HEAD, tenant_key
from tidelock.topicread import read_all, read_latest
from tidelock.topics import Topics
from tidelock.waiting import Wait, waits
from tidelock.workers import roles

WINDOW_S = 3600.0
DOWN_S = 180.0  # an outage that has not been told again for so long is over, or its worker is
SILENT_AFTER_S = 15.0  # workers say something about once a second


@dataclass
class Flow:
    """One system and entity: what came from it, what went to it. None means that it is not known, never zero.

    ``tenants``: those that take no writes, and why, in a few words.
    """

    system: str
    entity: str
    state: str
    read: int | None
    written: int | None
    refused: int | None
    rejected: int | None
    echoes: int | None
    conflicts: int | None
    p50_ms: float | None
    p95_ms: float | None
    lag: int | None
    dead_letters: int
    next: str
    tenants: str = ""


@dataclass(frozen=True)
class Trouble:
    """A tenant that takes no writes, as its sink has said: it ``waits``, is ``revoked``, ``busy``, or (by the configuration) ``off``."""

    system: str
    tenant: str
    state: str
    since: float | None  # seconds since 1970
    message: str
    next: str

    @property
    def stuck(self) -> bool:
        """Return whether it is not meant to be so."""
        return self.state in ("waits", "revoked")


@dataclass
class Status:
    """Everything at one moment."""

    summary: str
    workers: list[dict[str, Any]]
    flows: list[Flow]
    seeds: list[dict[str, Any]]  # reading a source: system, entity, state, rows so far
    hub_dead_letters: int  # what the stages between the systems could not take
    waits: list[dict[str, Any]]  # creates that wait for a seed: how many, for which, and why
    tenants: list[dict[str, Any]]  # those that take no writes
    hooks: dict[str, dict[str, int]]  # webhooks within the window: by system, how many met which fate

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def query(config: Config, kafka: KafkaClients, codec: Codec) -> Status:
    """Look at the topics. Raises Retry if Kafka does not answer."""
    topics = Topics(config.prefix)
    now = time.time()
    counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    buckets: dict[tuple[str, str], list[int]] = {}
    heard: dict[str, float] = {}
    for message in read_all(kafka, [topics.ops("activity")], since_ms=int((now - WINDOW_S) * 1000)):
        value = codec.decode(message.value())
        heard[value["worker"]] = message.timestamp()[1] / 1000
        for c in value["counts"]:
            counts[c["system"], c["entity"]][c["name"]] += c["value"]
        for lat in value["latencies"]:
            known = buckets.setdefault((lat["system"], lat["entity"]), [0] * (len(BUCKETS_MS) + 1))
            for i, n in enumerate(lat["buckets"]):
                known[i] += n
    signals = _signals(kafka, topics)
    waiting = waits(signals, config)
    tenants = troubles(signals, config)
    unread = captures.unread(signals, config)
    lag = _lag(config, kafka, topics)
    down = _down(kafka, codec, topics, now)
    dead = _dead(config, kafka, topics)
    workers = [_worker(config, role, heard, now) for role in roles(config)]
    silent = {w["worker"] for w in workers if w["state"] != "ok"}
    flows: list[Flow] = []
    for name, system in config.systems.items():
        flows += [
            _flow(
                config,
                name,
                entity,
                counts.get((name, entity)),
                buckets.get((name, entity)),
                lag,
                dead,
                silent,
                waiting,
                down,
                tenants,
                unread,
            )
            for entity in system.entities
        ]
    late = [f for f in flows if f.state != "ok"]
    if not heard:
        summary = "no signal: no worker has said anything within the last hour; `tidelock run` starts them"
    elif silent:
        summary = f"{len(silent)} of {len(workers)} workers are silent: {', '.join(sorted(silent))}"
    elif late:
        summary = f"{len(flows) - len(late)} of {len(flows)} flows are ok; {', '.join(f'{f.system} {f.entity}: {f.state}' for f in late)}"
    else:
        summary = f"all {len(flows)} flows are ok"
    hub = sum(n for (system, _), n in dead.items() if system == "hub")
    if hub:
        summary += f"; {hub} dead letters between the systems: tidelock dlq ls"
    for wait in waiting:
        summary += f"; {wait.text}"
    for trouble in tenants:
        if trouble.stuck:
            summary += f"; {trouble.system}/{trouble.tenant} takes no writes: {trouble.message}"
    told = [asdict(t) for t in tenants]
    return Status(summary, workers, flows, _seeds(signals), hub, [w.as_dict() for w in waiting], told, _hooks(counts))


def troubles(signals: dict[str, dict[str, Any]], config: Config) -> list[Trouble]:
    """Return the tenants that take no writes, from the last record of every key of ``ops.signals`` and from the configuration."""
    out = []
    for system, spec in config.systems.items():
        for tenant, its in spec.all_tenants.items():
            body = signals.get(tenant_key(system, tenant))
            if not its.enabled:
                way = f"set systems.{system}.tenants.{tenant}.enabled to true"
                out.append(Trouble(system, tenant, "off", None, "it is switched off", way))
            elif body is not None:
                known = (str(body[name]) for name in ("state", "message", "hint"))
                state, message, hint = known
                out.append(Trouble(system, tenant, state, float(body["since"]), message, hint))
    return out


def _hooks(counts: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return what became of webhooks by system; those for no system that there is stand under ``unknown``."""
    out: dict[str, dict[str, int]] = {}
    for (system, _), named in counts.items():
        fates = {name.removeprefix("hooks_"): n for name, n in named.items() if name.startswith("hooks_")}
        if fates:
            out[system or "unknown"] = fates
    return out


def _signals(kafka: KafkaClients, topics: Topics) -> dict[str, dict[str, Any]]:
    """Return the last records of captures and seeds, of what waits for them, and of tenants that take no writes, by key."""
    found = read_latest(kafka, [topics.ops("signals")]).items()
    heads = (b"seed/", b"seeded/", b"waiting/", TENANT_HEAD.encode(), captures.HEAD.encode())
    return {k.decode(): json.loads(m.value()) for k, m in found if k.startswith(heads)}


def _seeds(signals: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how far seeds are, from what captures write to ``ops.signals``."""
    out = []
    for key, body in signals.items():
        if key.startswith("seed/"):
            _, system, *tenant, entity = key.split("/")
            known = {name: body.get(name) for name in ("state", "rows", "estimate")}
            out.append({"system": "/".join((system, *tenant)), "entity": entity, **known})
    return out


def _worker(config: Config, role: str, heard: dict[str, float], now: float) -> dict[str, Any]:
    name = f"{config.prefix}{role}-0"
    at = heard.get(name)
    state = "no signal" if at is None or now - at > SILENT_AFTER_S else "ok"
    return {"worker": role, "state": state, "last_heard_s_ago": None if at is None else round(now - at, 1)}


def _flow(
    config: Config,
    system: str,
    entity: str,
    counts: dict[str, int] | None,
    buckets: list[int] | None,
    lag: dict[str, int],
    dead: dict[tuple[str, str], int],
    silent: set[str],
    waiting: list[Wait],
    down: dict[str, str],
    tenants: list[Trouble],
    unread: list[captures.Trouble],
) -> Flow:
    led_to = any(system in f.to and f.entity == entity for f in config.flows)
    mine = [t for t in tenants if t.system == system and led_to]
    closed = [t for t in unread if (t.system, t.entity) == (system, entity)]
    letters = dead.get((system, entity), 0)
    behind = lag.get(Topics(config.prefix).sync(system, entity))
    if f"sink.{system}" in silent or f"capture.{system}" in silent:
        state, what = "no signal", "look at the log of `tidelock run`; it says why a worker waits"
    elif behind and system in down:
        state, what = "waits", down[system]
    elif held := [t for t in mine if t.stuck]:
        first = held[0]
        state, what = (
            "waits",
            f"{first.tenant}: {first.message}: {first.next}" if first.next else f"{first.tenant}: {first.message}",
        )
        what += f"; and {len(held) - 1} more tenants" if len(held) > 1 else ""
    elif closed:
        state, what = _not_read(closed)
    elif letters:
        state, what = "degraded", "tidelock dlq ls"
    elif stuck := next((w for w in waiting if (w.system, w.entity) == (system, entity) and w.stuck), None):
        state, what = "waits", stuck.next
    elif behind and behind > 10_000:
        state, what = "late", "wait, or add workers: tidelock run --scale"
    else:
        state, what = "ok", ""
    known = counts or {}
    read, written, refused, rejected, echoes, conflicts = (
        known.get(n, 0) if counts is not None else None
        for n in ("captured", "written", "refused", "rejected", "echoes", "conflicts")
    )
    return Flow(
        system,
        entity,
        state,
        read,
        written,
        refused,
        rejected,
        echoes,
        conflicts,
        percentile(buckets, 0.5),
        percentile(buckets, 0.95),
        behind,
        letters,
        what,
        _named(mine),
    )


def _not_read(closed: list[captures.Trouble]) -> tuple[str, str]:
    """Return state and next action of a flow of which something is not read: what is known of comes first."""
    first = min(closed, key=lambda t: not t.known)
    what = f"{first.tenant}: {first.message}"
    if not first.known:
        what += f"; `tidelock tenants ls` says whether it is on, the log of capture.{first.system} what keeps it"
    what += f"; and {len(closed) - 1} more tenants" if len(closed) > 1 else ""
    return ("waits" if first.known else "no signal"), what


def _named(tenants: list[Trouble]) -> str:
    """Say in a few words which tenants take no writes, each state with its tenants."""
    by_state: dict[str, list[str]] = {}
    for t in tenants:
        by_state.setdefault(t.state, []).append(t.tenant)
    most = 5
    return "; ".join(
        f"{state}: {', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"
        for state, names in by_state.items()
    )


def percentile(buckets: list[int] | None, q: float) -> float | None:
    """Return the upper bound (ms) of the bucket in which a quantile lies; None without data."""
    total = sum(buckets or ())
    if not buckets or not total:
        return None
    seen = 0
    for bound, n in zip((*BUCKETS_MS, float("inf")), buckets, strict=True):
        seen += n
        if seen >= q * total:
            return float(bound)
    return None


def _lag(config: Config, kafka: KafkaClients, topics: Topics) -> dict[str, int]:
    """Return messages not yet written per sync topic."""
    admin = kafka.admin()
    consumer = kafka.consumer("tidelock-cli", "tidelock-cli")
    out: dict[str, int] = {}
    try:
        known = admin.list_topics(timeout=10).topics
        for name, system in config.systems.items():
            parts = [
                TopicPartition(t, p)
                for e in system.entities
                if (t := topics.sync(name, e)) in known
                for p in known[t].partitions
            ]
            if not parts:
                continue
            group = f"{config.prefix}sink.{name}"
            found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, parts)])[group].result()
            for tp in found.topic_partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), timeout=10)
                # The last offset of what a transaction has written is its marker, which is no message.
                out[tp.topic] = out.get(tp.topic, 0) + max(0, high - max(tp.offset, low) - 1)
    except KafkaException as error:
        raise translate(error, "reading offsets") from error
    finally:
        consumer.close()
    return out


def _down(kafka: KafkaClients, codec: Codec, topics: Topics, now: float) -> dict[str, str]:
    """Return what to do about each destination that takes no writes now, by system: its sink says so once a minute."""
    out: dict[str, str] = {}
    for message in read_all(kafka, [topics.ops("alerts")], since_ms=int((now - DOWN_S) * 1000)):
        alert = codec.decode(message.value())
        if alert["kind"] == "destination_down":
            out[alert["system"]] = "" if alert["severity"] == "info" else f"{alert['message']}: {alert['hint']}"
    return {system: text for system, text in out.items() if text}


def _dead(config: Config, kafka: KafkaClients, topics: Topics) -> dict[tuple[str, str], int]:
    """Count dead letters per system and entity."""
    consumer = kafka.consumer("tidelock-cli", "tidelock-cli")
    out: dict[tuple[str, str], int] = {}
    try:
        known = consumer.list_topics(timeout=10).topics
        places: list[tuple[str, str, tuple[str, ...]]] = [
            (n, e, ("capture", "route", "identify", "sink")) for n, s in config.systems.items() for e in s.entities
        ]
        places += [("hub", e, ("route", "identify", "merge")) for e in config.entities]
        for name, entity, stages in places:
            for stage in stages:
                topic = topics.dlq(stage, name, entity)
                for p in known[topic].partitions if topic in known else ():
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
                    if high > low:
                        out[name, entity] = out.get((name, entity), 0) + high - low
    except KafkaException as error:
        raise translate(error, "reading dead letter topics") from error
    finally:
        consumer.close()
    return out
