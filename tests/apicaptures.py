"""Captures of APIs on the stack: workers of a vendor in memory with many tenants, and what came out in Kafka."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from producers.api import ApiProducer
from producers.seen import each_message
from tests.patience import DEADLINE_S
from tests.vendor import OFFICES, Office, VendorProducer
from tidelock.apis.records import Record
from tidelock.change import Change
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.envelopes import Entry
from tidelock.kafka import KafkaClients, close, ensure_topics, flush
from tidelock.registry import Registry
from tidelock.topology import all_topics

SYSTEM, ENTITY = "shop", "contact"
TABLE: dict[str, Any] = {
    "table": "people",
    "key": ["id"],
    "canonical_id": "tidelock_id",
    "every_s": 0.3,
    "map": [{"column": "email", "field": "email"}],
}


def config_of(prefix: str, data: Path, central: str, tenants: Collection[str], **more: Any) -> Config:
    """Return a configuration in which ``shop`` has these tenants and feeds ``crm``; ``more`` goes into its table or options."""
    options = more.pop("options", {})
    both = [{"column": c, "field": c} for c in ("email", "name")]
    return Config.model_validate(
        {
            "prefix": prefix,
            "partitions": 2,
            "data": str(data),
            "central": {"dsn": central},
            "systems": {
                SYSTEM: {
                    "kind": "vendor",
                    "capture": "vendor",
                    "credentials": {"token": "old"},
                    "tenants": {name: {} for name in tenants},
                    "options": {"seed_on_start": False, **options},
                    "entities": {ENTITY: {**TABLE, **more}},
                },
                "crm": {"capture": "none", "entities": {ENTITY: {"table": "contact", "map": both}}},
            },
            "entities": {ENTITY: {"fields": {"email": {}, "name": {}}}},
            "flows": [{"entity": ENTITY, "from": SYSTEM, "to": "crm"}],
        }
    )


class Worker:
    """A capture in a thread, stepping until it is stopped or an error ends it."""

    def __init__(self, context: Context, producer: type[ApiProducer]) -> None:
        self.context = context
        self.capture = producer(context, SYSTEM)
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.capture.setup()
            while not self._stop.is_set():
                self.capture.step(0.05)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def stop(self) -> None:
        """Stop it as the supervisor would."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.capture.close()
        self.context.close_access()


class ApiRig:
    """The vendor ``shop`` on the stack, with readers of everything that its captures publish."""

    def __init__(self, stack: Stack, config: Config, producer: type[ApiProducer] = VendorProducer) -> None:
        self.ends = stack.endpoints()
        self.config, self.producer = config, producer
        self.registry = Registry(self.ends.registry)
        self.codec = Codec(self.registry, config.prefix)
        self.clients = KafkaClients(self.ends.kafka)
        self.context = self.fresh_context(90)
        self.topics = self.context.topics
        ensure_topics(self.clients.admin(), all_topics(config))
        self.offices = {
            name: OFFICES.setdefault((SYSTEM, name), Office()) for name in config.systems[SYSTEM].all_tenants
        }
        self.workers: list[Worker] = []
        self._sender = self.clients.producer("test")

    def fresh_context(self, slot: int = 0) -> Context:
        """Return the context of another worker."""
        return Context(self.config, self.clients, self.codec, f"capture.{SYSTEM}", slot)

    def start(self, slot: int = 0) -> Worker:
        """Start a worker."""
        made = Worker(self.fresh_context(slot), self.producer)
        self.workers.append(made)
        return made

    def until(self, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
        """Wait until something is so; a worker that has failed ends the test."""
        end = time.monotonic() + deadline_s
        while not condition():
            for worker in self.workers:
                if worker.failure is not None:
                    raise worker.failure
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.05)

    def ready(self) -> None:
        """Wait until polling has begun everywhere."""
        self.until(lambda: self.polling() == set(self.offices))

    def polling(self) -> set[str]:
        """Return the tenants whose polling has begun."""
        found = self.signals("capture/")
        return {k.split("/")[2] for k, v in found.items() if "poll" in v["state"].get("cursors", {})}

    def signals(self, head: str) -> dict[str, dict[str, Any]]:
        """Return the last records of ``ops.signals`` under keys that begin so."""
        last: dict[str, dict[str, Any]] = {}

        def take(key: bytes, value: bytes | None) -> None:
            name = key.decode()
            if value is None:
                last.pop(name, None)
            elif name.startswith(head):
                last[name] = json.loads(value)

        each_message(self.context, self.topics.ops("signals"), take)
        return last

    def state(self, tenant: str) -> dict[str, Any]:
        """Return how far the capture of a tenant is."""
        found: dict[str, Any] = self.signals("capture/")[f"capture/{SYSTEM}/{tenant}/{ENTITY}"]["state"]
        return found

    def changes(self) -> list[Change]:
        """Return all changes that were published so far, per key in order."""
        return [self.codec.change_reader(v).read(v) for k, v in self.messages(self.topics.cdc(SYSTEM, ENTITY)) if k]

    def known(self, tenant: str) -> dict[str, dict[str, bytes] | None]:
        """Return the last row of every key of a tenant; None for one that was deleted."""
        out: dict[str, tuple[bytes, dict[str, bytes] | None]] = {}
        for change in self.changes():
            if change.tenant != tenant:
                continue
            row = change.after
            named = None if row is None else dict(zip([c.name for c in change.columns], row, strict=True))
            before = out.get(change.native_key)
            if before is None or change.position >= before[0]:
                out[change.native_key] = (change.position, named)
        return {key: row for key, (_, row) in out.items()}

    def marks(self) -> set[tuple[str, int]]:
        """Return the marks that were given, as (tenant, partition)."""
        found = [Entry.decode(v) for k, v in self.messages(self.topics.cdc(SYSTEM, ENTITY)) if not k]
        return {(e.tenant, e.partition) for e in found}

    def alerts(self) -> list[dict[str, Any]]:
        """Return all alerts."""
        return [self.codec.decode(v) for _, v in self.messages(self.topics.ops("alerts"))]

    def messages(self, topic: str) -> list[tuple[bytes, bytes]]:
        """Return (key, value) of all that a topic holds; tombstones are left out."""
        out: list[tuple[bytes, bytes]] = []
        each_message(self.context, topic, lambda k, v: out.append((k, v)) if v is not None else None)
        return out

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        """Send a message."""
        self._sender.produce(topic, value, key)
        flush(self._sender)

    def ask(self, kind: str, **request: Any) -> None:
        """Ask for something as the command line does."""
        body = {"kind": kind, "system": SYSTEM, **request}
        key = f"request/{kind}/{SYSTEM}/{'/'.join(str(v) for v in request.values())}"
        self.send(self.topics.ops("signals"), key.encode(), json.dumps(body).encode())

    def close(self) -> None:
        """Stop everything."""
        for worker in self.workers:
            worker.stop()
        close(self._sender)
        self.context.close_access()
        self.registry.close()
        for name in self.offices:
            OFFICES.pop((SYSTEM, name), None)


# ------------------------------------------------------------------------------------------------ in another process


class _Away(Office):
    """An office of the other process."""

    def __init__(self, line: Connection, name: str) -> None:
        self._line, self._name = line, name

    def _ask(self, what: str, *arguments: Any) -> Any:
        self._line.send((self._name, what, arguments))
        return self._line.recv()

    def call(self) -> None:
        """Count a call there."""
        self._ask("call")

    def since(self, version: int) -> list[str]:
        """Ask there."""
        found: list[str] = self._ask("since", version)
        return found

    def record(self, key: str) -> Record:
        """Ask there."""
        found: Record = self._ask("record", key)
        return found

    @property
    def newest(self) -> int:
        """Ask there."""
        return int(self._ask("newest"))


def _answer(line: Connection) -> None:
    with contextlib.suppress(EOFError, OSError), line:
        while True:
            name, what, arguments = line.recv()
            found = getattr(OFFICES[SYSTEM, name], what)
            line.send(found(*arguments) if callable(found) else found)


def _elsewhere(config: str, dsn: str, kafka: str, registry: str, line: Connection) -> None:
    content = json.loads(config)
    content["central"]["dsn"] = dsn
    content["systems"][SYSTEM]["credentials"] = {"token": "old"}
    made = Config.model_validate(content)
    made.systems[SYSTEM].options["parallel_jobs"] = 1  # one line, one question at a time
    for name in made.systems[SYSTEM].all_tenants:
        OFFICES[SYSTEM, name] = _Away(line, name)
    codec = Codec(Registry(registry), made.prefix)
    capture = VendorProducer(Context(made, KafkaClients(kafka), codec, f"capture.{SYSTEM}", 7), SYSTEM)
    capture.setup()
    while True:
        capture.step(0.05)


@contextmanager
def elsewhere(rig: ApiRig) -> Iterator[BaseProcess]:
    """Run a worker in a process of its own, which reads the offices of this one; killed at the end, if not before."""
    dsn = rig.config.central.dsn
    assert dsn is not None
    here, there = multiprocessing.Pipe()
    answering = threading.Thread(target=_answer, args=(here,))
    answering.start()
    config = rig.config.model_dump_json(by_alias=True, exclude_unset=True)
    process = multiprocessing.get_context("spawn").Process(
        target=_elsewhere, args=(config, dsn.get_secret_value(), rig.ends.kafka, rig.ends.registry, there)
    )
    process.start()
    there.close()
    try:
        yield process
    finally:
        process.kill()
        process.join(30)
        process.close()
        answering.join(30)
