"""The worker around a sink: from the topics of writes to the destination, and from there receipts, audit and dead letters.

The order of a step, with the fault points (`tidelock.faults`) between its parts:

1.  read a batch; fold, and order parents before children                              → ``sink.consumed``
2.  write, in one transaction of the destination                                        → ``sink.written``
3.  see that Kafka has what the step before has said, and tell the group so             → ``sink.settled``
4.  commit the destination: rows, offsets, and the memo of what became of these writes  → ``sink.committed``
5.  produce receipts, audit and dead letters                                            → ``sink.produced``

A crash before 4 leaves nothing. A crash after it leaves messages that stand written in the destination's offsets but whose receipts may not be
in Kafka: they are read again and answered from the memo. A destination that keeps no offsets writes again, which its sink makes harmless.

Where a system has several tenants, steps 2 to 5 happen for each of them apart (`sinks.lanes`): a tenant's troubles are its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import cast

import structlog
from confluent_kafka import Message

from sinks.base import Done, Kept, Scope, SideBySide, Sink, Transactional
from sinks.intake import Intake
from sinks.lanes import Lanes
from sinks.outlet import Outlet
from sinks.packs import Fate, decode_memo, encode_memo, is_plain, plain_receipt
from sinks.plan import Item, Planner, Wave
from sinks.promises import Promise
from sinks.references import Referencing, parents_first, reference_columns
from sinks.reports import Reports
from sinks.tenants import Tenants
from sinks.wrappers import Bisecting, Breaker, Measured, Retrying
from tidelock import faults
from tidelock.context import Context
from tidelock.envelopes import STALE, TENANT_OFF, TENANT_WAITS, Receipt, Write
from tidelock.errors import Fatal, Retry, Revoked
from tidelock.links import LinkView

log = structlog.get_logger()

GROUP = "tidelock.sinks"  # entry points: kind → callable(context, system) → Sink
REMIND_S = 60.0  # while an outage lasts, it is told this often
_SAMPLE = 20  # latencies taken of each batch


class SinkWorker:
    """Write to one system: call `step` in a loop, `close` at the end."""

    def __init__(self, context: Context, system: str) -> None:
        self._context = context
        self._system = system
        spec = context.config.systems[system]
        self._sink: Sink = make_sink(context, system)
        self._store: Transactional | None = self._sink if isinstance(self._sink, Transactional) else None
        self._tracing = context.tracing
        self._views: dict[str, LinkView] = {}
        counted = Measured(self._sink, self._tracing, self._count)
        self._writer = Referencing(Bisecting(counted), context.config, system, self._view)
        self._retrying = Retrying()
        self._breaker = Breaker()
        self._outage_told = float("-inf")
        self._revoked = False
        self._lanes: Lanes | None = None  # only where there are several tenants, or the only one is switched off
        self._planner = Planner(context, system, parents_first(context.config, system))
        self._group = f"{context.config.prefix}sink.{system}"
        self._outlet = Outlet(context)
        self._reports = Reports(context, system, self._outlet.produce, self._tracing)
        self._promise = Promise(spec, system, self._reports.alert)
        topics = {context.topics.sync(system, entity): entity for entity in spec.entities}
        self._intake = Intake(context, self._group, sorted(topics), spec.batch)
        self._said: dict[Scope, int] = {}  # offsets whose reports are produced, but not acknowledged yet
        self._memos: dict[
            Scope, tuple[int, dict[int, Fate]]
        ] = {}  # partitions being answered from memory, up to an offset
        self._ready = False

    # ------------------------------------------------------------------------------------------------ stepping

    def step(self, wait_s: float) -> int:
        """Take one batch, waiting up to ``wait_s`` for it; return how many messages are done. Raises Fatal, and Retry if Kafka fails."""
        left_s = self._breaker.left_s
        if left_s > 0:
            self._context.stop.wait(min(left_s, wait_s))
            self._intake.read(0.0)  # nothing is started: it only says that we live
            self._tick()
            return 0
        try:
            done = self._take(wait_s)
        except Retry as error:
            self._rest(error)
            return 0
        if done and self._breaker.passed():
            log.info("the destination takes writes again", action="sink_recovered", system=self._system)
            self._reports.recovered()
            self._outage_told = float("-inf")
            if self._revoked:
                self._revoked = False
                self._reports.revoked(None)
        self._tick()
        return done

    def _take(self, wait_s: float) -> int:
        if not self._ready:
            self._sink.setup()
            tenants = self._context.config.systems[self._system].all_tenants.values()
            if len(tenants) > 1 or not all(its.enabled for its in tenants):
                self._lanes = self._divided()
            self._ready = True
            for parent in {
                p
                for columns in reference_columns(self._context.config, self._system).values()
                for p in columns.values()
            }:
                if parent in self._context.config.entities:
                    self._view(parent)
        if self._lanes is not None:
            return self._by_tenant(self._lanes, wait_s)
        messages = self._intake.read(0.0 if self._said else wait_s)
        if self._intake.gained:
            self._start()
        if not messages and self._said:
            self._settle()
            messages = self._intake.read(wait_s)
        if self._memos:
            messages = self._remember(messages)
        if messages:
            self._batch(messages)
        return len(messages)

    def close(self) -> None:
        """Finish what is said, and leave."""
        try:
            if self._lanes is not None:
                self._answer(self._lanes, self._lanes.close())
            self._settle()
            self._context.activity.publish(self._outlet.producer, self._context.codec, self._context.topics, force=True)
        finally:
            self._outlet.close()
            self._intake.close()
            self._sink.close()
            for view in self._views.values():
                view.close()
            self._tracing.close()

    def _rest(self, error: Retry) -> None:
        """The destination is in trouble: leave it alone for a while, and begin again from what it has."""
        if self._store is not None:
            self._store.abort()
        pause_s = self._breaker.failed(error)
        self._context.activity.count("retries", self._system, "", 1)
        if self._breaker.failures in (1, 5):
            log.warning(str(error), action="sink_waits", pause_s=round(pause_s, 2))
        if isinstance(error, Revoked) and not self._revoked:
            self._revoked = True
            self._reports.revoked(error)
        now = time.monotonic()
        if (
            self._breaker.failures >= 5 and now - self._outage_told > REMIND_S
        ):  # again and again, so that it is known to last
            self._outage_told = now
            self._reports.outage(error)
        self._intake.stop()
        self._memos.clear()
        if self._lanes is not None:
            self._lanes.drop()

    # ------------------------------------------------------------------------------------------------ partitions

    def _start(self) -> None:
        """Take over gained partitions and read on where the destination, or else the group, says."""
        if self._lanes is not None:
            self._lanes.drop()
        self._settle()
        committed = self._intake.committed()
        if self._store is None:
            self._intake.start(committed)
            return
        positions: dict[Scope, int] = {}
        kept = self._store.claim(self._group, self._intake.topic_ids())
        for scope, there in kept.items():
            told = committed[scope]
            if there.next < 0 or there.next == told:
                positions[scope] = told if there.next < 0 else there.next
            elif told > there.next:
                raise Fatal(
                    f"system {self._system} has been written up to offset {there.next} of {scope[0]}/{scope[1]}, but the group has been told {told}: "
                    "the destination was restored from a backup, or another one was written to meanwhile",
                    hint=f"bring the group {self._group} back to the earlier offset, or reseed the system; then start again",
                )
            else:
                positions[scope] = max(there.since, told)
                self._memos[scope] = (there.next, decode_memo(there.memo))
        self._intake.start(positions)

    def _remember(self, messages: Sequence[Message]) -> list[Message]:
        """Answer messages that stand written in the destination already; return the others."""
        new: list[Message] = []
        old: list[Item] = []
        for message in messages:
            scope = (str(message.topic()), int(message.partition() or 0))
            memo = self._memos.get(scope)
            offset = int(message.offset() or 0)
            if memo is None or offset >= memo[0]:
                self._memos.pop(scope, None)
                new.append(message)
                continue
            item = self._planner.read(message)
            if item.write is not None:
                item.fate = memo[1].get(offset) or Fate.of(plain_receipt(item.write))
            old.append(item)
            if offset + 1 == memo[0]:
                del self._memos[scope]
        if old:
            self._say(old, receipts=not self._in_log)
            self._said.update({i.scope: i.offset + 1 for i in old})
        return new

    # ------------------------------------------------------------------------------------------------ several tenants

    def _divided(self) -> Lanes:
        """Make a lane for every tenant. Raises Fatal if the sink cannot keep them apart."""
        if self._store is not None:
            kind = self._context.config.systems[self._system].kind
            raise Fatal(
                f"system {self._system} has `tenants`, but a connector of kind {kind} writes all of a system in one transaction",
                hint="make each of them a system of its own, and use `enabled` of the system",
            )
        tenants = Tenants(self._context, self._system, self._reports, self._promise)
        at_once = self._sink.tenants_at_once if isinstance(self._sink, SideBySide) else 1
        most = self._context.config.systems[self._system].batch
        return Lanes(self._system, tenants.lanes(), self._write_all, tenants.tell, most=most, at_once=at_once)

    def _write_all(self, items: list[Item]) -> None:
        for wave in self._planner.waves(items):
            self._write(wave)

    def _by_tenant(self, lanes: Lanes, wait_s: float) -> int:
        """Read on, and let every lane go on; what is done is answered, and the group told so."""
        messages = self._intake.read(lanes.patience_s(wait_s))
        if self._intake.gained:
            self._start()
        if messages:
            if faults.ENABLED:
                faults.point("sink.consumed")
            items = [self._planner.read(m) for m in messages]
            self._promise.read(item.write for item in items if item.write is not None)
            lanes.take(items)
            self._intake.next.update(
                {(str(m.topic()), int(m.partition() or 0)): int(m.offset() or 0) + 1 for m in messages}
            )
        return self._answer(lanes, lanes.turn(wait_s))

    def _answer(self, lanes: Lanes, done: Sequence[Item]) -> int:
        """Say what became of items, and tell the group up to where all is done."""
        if done:
            if faults.ENABLED:
                faults.point("sink.committed")
            for item in done:
                if item.fate is not None and item.fate.kind in (TENANT_WAITS, TENANT_OFF):
                    self._count("held", item.entity, 1)
            self._say(list(done), receipts=True)
            if faults.ENABLED:
                faults.point("sink.produced")
            self._said.update(lanes.ends())
            self._settle()
            self._sample([i for i in done if i.fate is not None and i.fate.kind not in (TENANT_WAITS, TENANT_OFF)])
        return len(done)

    # ------------------------------------------------------------------------------------------------ a batch

    @property
    def _in_log(self) -> bool:
        return self._store is not None and self._store.receipts_in_log

    def _batch(self, messages: Sequence[Message]) -> None:
        if faults.ENABLED:
            faults.point("sink.consumed")
        items = [self._planner.read(m) for m in messages]
        self._promise.read(item.write for item in items if item.write is not None)
        waves = self._planner.waves(items)
        if self._store is not None:
            store = self._store
            self._retrying.run(lambda: self._unit(store, items, waves))
        else:
            for wave in waves:
                self._retrying.run(lambda wave=wave: self._write(wave))  # type: ignore[misc]
            self._settle()
        if faults.ENABLED:
            faults.point("sink.committed")
        self._say(items, receipts=not self._in_log)
        if faults.ENABLED:
            faults.point("sink.produced")
        ends = {item.scope: item.offset + 1 for item in items}
        self._said.update(ends)
        self._intake.next.update(ends)
        if self._store is None:
            self._settle()
        self._sample(items)

    def _unit(self, store: Transactional, items: list[Item], waves: list[Wave]) -> None:
        """Write everything in one transaction, with what is needed to answer for it later."""
        try:
            for wave in waves:
                self._write(wave)
            if faults.ENABLED:
                faults.point("sink.written")
            self._settle()
            if faults.ENABLED:
                faults.point("sink.settled")
            memos: dict[Scope, list[tuple[int, Fate]]] = {}
            since: dict[Scope, int] = {}
            for item in items:
                since.setdefault(item.scope, item.offset)
                if item.fate is not None and not item.plain:
                    memos.setdefault(item.scope, []).append((item.offset, item.fate))
            kept = {
                s: Kept(end, since[s], encode_memo(memos.get(s, ())))
                for s, end in {i.scope: i.offset + 1 for i in items}.items()
            }
            store.commit(Done(kept, self._reports.for_log(items) if store.receipts_in_log else b""))
        except BaseException:
            store.abort()
            raise

    def _write(self, wave: Wave) -> None:
        """Write groups of one entity each; a record stands at most once in a wave."""
        for group in wave:
            folded = [item for item in group if item.folded is not None]
            outcomes = self._writer.write([cast("Write", item.folded) for item in folded])
            for item, outcome in zip(folded, outcomes, strict=True):
                item.plain = is_plain(cast("Write", item.write), outcome)
                item.fate = Fate.of(outcome)
                for earlier in item.instead_of:
                    assert earlier.write is not None
                    receipt = Receipt(
                        earlier.write.canonical_id, earlier.write.version, STALE, outcome.native_key, outcome.position
                    )
                    earlier.fate, earlier.plain = Fate.of(receipt), False

    def _say(self, items: list[Item], *, receipts: bool) -> None:
        """Produce what became of these items."""
        self._reports.send(items, receipts=receipts, attempts=self._retrying.attempts)

    def _settle(self) -> None:
        """Wait until Kafka has everything that was said, then tell the group how far this worker has come. Raises Retry or Fatal."""
        if not self._said:
            return
        lost = self._outlet.flush()
        if lost is not None:
            self._said.clear()
            raise lost
        said, self._said = self._said, {}
        self._intake.commit({s: o for s, o in said.items() if s in self._intake.owned})
        if faults.ENABLED:
            faults.point("sink.told")

    def _sample(self, items: list[Item]) -> None:
        now = time.time_ns() // 1000
        for item in items[:: max(1, len(items) // _SAMPLE)]:
            if item.write is not None:
                self._context.activity.latency(self._system, item.entity, now - item.write.source_time)

    def _count(self, name: str, entity: str, n: int) -> None:
        self._context.activity.count(name, self._system, entity, n)

    def _tick(self) -> None:
        self._context.activity.publish(self._outlet.producer, self._context.codec, self._context.topics)

    def _view(self, entity: str) -> LinkView:
        view = self._views.get(entity)
        if view is None:
            view = self._views[entity] = LinkView(self._context, entity)
            view.catch_up()
        return view


def make_sink(context: Context, system: str) -> Sink:
    """Find a system's sink by entry point. Raises Fatal if no such connector is installed."""
    kind = context.config.systems[system].kind
    points = {p.name: p for p in entry_points(group=GROUP)}
    if kind not in points:
        raise Fatal(
            f"there is no connector {kind!r} to write to system {system}",
            hint=f"set `kind` of system {system} to one of: {', '.join(sorted(points))}",
        )
    sink: Sink = points[kind].load()(context, system)
    return sink
