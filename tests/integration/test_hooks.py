"""The service for webhooks on a real Kafka: from the call to the change, and what is answered when something is wrong."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from producers.hooks import HooksWorker
from producers.webhook import WebhookProducer
from tests.apicaptures import ApiRig
from tests.loyalty import SECRET
from tests.secrecy import topics
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.errors import Fatal
from tidelock.kafka import KafkaClients
from tidelock.signatures import SCHEMES

pytestmark = pytest.mark.stack

SYSTEM = "shop"
FORGED: dict[str, Any] = {"webhook-signature": "v1,AAAA"}
MOST = 20_000


def config_of(prefix: str, data: Path, central: str, **hooks: Any) -> Config:
    columns = [{"column": c, "field": c} for c in ("email", "name")]
    return Config.model_validate(
        {
            "prefix": prefix,
            "partitions": 2,
            "data": str(data),
            "central": {"dsn": central},
            "hooks": {"port": 0, "max_body_bytes": MOST, **hooks},
            "systems": {
                SYSTEM: {
                    "kind": "webhook",
                    "capture": "webhook",
                    "credentials": {"hook_secret": SECRET},
                    "tenants": {"one": {}, "two": {}},
                    "entities": {"contact": {"table": "member", "map": columns}},
                },
                "crm": {"capture": "none", "entities": {"contact": {"table": "contact", "map": columns}}},
            },
            "entities": {"contact": {"fields": {"email": {}, "name": {}}}},
            "flows": [{"entity": "contact", "from": SYSTEM, "to": "crm"}],
        }
    )


class Service:
    """The worker, stepping in a thread, and a sender."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.worker = HooksWorker(context)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.sender = httpx.Client(base_url=f"http://127.0.0.1:{self.worker.port}", timeout=30)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.worker.step(0.05)

    def send(
        self, body: Any, number: str = "n1", path: str = f"/hooks/{SYSTEM}/one", late_s: float = 0.0, **more: Any
    ) -> httpx.Response:
        """Send a webhook that was signed some seconds ago."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = str(self.sender.base_url.join(path))
        headers = SCHEMES["standard"].sign(
            [SECRET], number=number, timestamp=time.time() - late_s, method="POST", url=url, body=raw
        )
        return self.sender.post(path, content=raw, headers={**headers, **more})

    def close(self) -> None:
        """Stop it."""
        self.sender.close()
        self._stop.set()
        self._thread.join(30)
        self.worker.close()
        self.context.close_access()


Make = Callable[..., tuple[ApiRig, Service]]


@pytest.fixture
def make(stack: Stack, topic_prefix: str, tmp_path: Path, database: Callable[[str], str]) -> Iterator[Make]:
    made: list[Any] = []
    central = database("central")

    def both(*, kafka: str | None = None, **hooks: Any) -> tuple[ApiRig, Service]:
        rig = ApiRig(stack, config_of(topic_prefix, tmp_path, central, **hooks), WebhookProducer)
        made.append(rig)
        clients = rig.clients if kafka is None else KafkaClients(kafka)
        service = Service(Context(rig.config, clients, rig.codec, "hooks"))
        made.append(service)
        return rig, service

    yield both
    for one in reversed(made):
        one.close()


def event(key: int, kind: str = "member.updated", **data: Any) -> dict[str, Any]:
    return {"type": kind, "timestamp": "2026-09-21T10:00:00Z", "data": {"id": key, **data}}


def test_a_webhook_is_in_kafka_when_it_is_answered_and_becomes_a_change(make: Make) -> None:
    rig, service = make()
    answer = service.send(event(1, email="a@example.com"))
    assert (answer.status_code, answer.json()) == (200, {"state": "accepted"})
    jobs = rig.topics.jobs("increments", SYSTEM)
    assert len(rig.messages(jobs)) == 1
    assert service.send(event(1, email="a@example.com")).json() == {"state": "repeated"}
    assert len(rig.messages(jobs)) == 1
    rig.start()
    rig.until(lambda: "1" in rig.known("one"))
    assert (rig.known("one")["1"] or {})["email"].endswith(b"a@example.com")
    service.send(event(1, "member.deleted") | {"timestamp": "2026-09-21T10:00:01Z"}, "n2")
    rig.until(lambda: rig.known("one")["1"] is None)
    rig.until(lambda: {p for t, p in rig.marks() if t == "one"} == {0, 1})
    counted = [c["name"] for _, v in rig.messages(rig.topics.ops("activity")) for c in rig.codec.decode(v)["counts"]]
    assert "hooks_accepted" in counted
    assert "hooks_repeated" in counted


def test_what_is_refused_before_anybody_reads_it(make: Make) -> None:
    rig, service = make()
    sender = service.sender
    assert service.send(event(1), path="/hooks/elsewhere").status_code == 404
    assert service.send(event(1), path=f"/hooks/{SYSTEM}/nobody").status_code == 404
    assert sender.post("/hooks").status_code == 404
    got = sender.get(f"/hooks/{SYSTEM}/one")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    assert sender.post(f"/hooks/{SYSTEM}/one", content=b"{}").status_code == 401
    wrong = service.send(event(1), **FORGED)
    assert (wrong.status_code, wrong.json()["error"]) == (401, "signature_wrong")
    assert service.send(b"{", "n2").status_code == 400
    assert sender.get("/healthz").status_code == 200
    assert SECRET not in wrong.text
    assert rig.messages(rig.topics.jobs("increments", SYSTEM)) == []


def test_bad_input_gets_the_right_answer_is_counted_and_reaches_no_topic(make: Make) -> None:
    rig, service = make()
    mark = "b4d-input"
    bad = event(1, email=f"{mark}@example.com")

    def pieces() -> Iterator[bytes]:
        yield json.dumps(bad).encode()
        yield b" " * MOST

    cases: list[tuple[str, int, Callable[[], httpx.Response]]] = [
        ("unreadable", 400, lambda: service.send(f'{{"email": "{mark}"'.encode(), "b1")),
        ("unreadable", 400, lambda: service.send(mark.encode() + b"\xff\x00", "b2")),
        ("no_key", 400, lambda: service.send({"type": "member.updated", "data": {"email": mark}}, "b3")),
        ("signature_wrong", 401, lambda: service.send(bad, "b4", **FORGED)),
        ("signature_missing", 401, lambda: service.sender.post(f"/hooks/{SYSTEM}/one", json=bad)),
        ("too_old", 401, lambda: service.send(bad, "b5", late_s=301.0)),
        ("too_new", 401, lambda: service.send(bad, "b6", late_s=-330.0)),
        ("too_large", 413, lambda: service.send({**bad, "more": "x" * MOST}, "b7")),
        ("too_large", 413, lambda: service.sender.post(f"/hooks/{SYSTEM}/one", content=pieces())),
        ("unknown", 404, lambda: service.send(bad, "b8", path="/hooks/elsewhere")),
        ("unknown", 404, lambda: service.send(bad, "b9", path=f"/hooks/{SYSTEM}/nobody")),
        ("method", 405, lambda: service.sender.get(f"/hooks/{SYSTEM}/one?{mark}")),
        ("method", 405, lambda: service.sender.put(f"/hooks/{SYSTEM}/one", json=bad)),
    ]
    expected: Counter[str] = Counter()
    for reason, status, send in cases:
        answer = send()
        assert (answer.status_code, answer.json()["error"]) == (status, reason)
        assert mark not in answer.text
        expected[f"hooks_refused_{reason}"] += 1
    good = event(2, email="good@example.com")
    assert service.send(good, "g1").json() == {"state": "accepted"}
    assert service.send(bad, "g1").json() == {"state": "repeated"}, "a number that is known already is a replay"
    expected |= Counter(hooks_accepted=1, hooks_repeated=1)

    def counted() -> Counter[str]:
        found: Counter[str] = Counter()
        for _, value in rig.messages(rig.topics.ops("activity")):
            for count in rig.codec.decode(value)["counts"]:
                if count["name"].startswith("hooks_"):
                    found[count["name"]] += count["value"]
        return found

    rig.until(lambda: counted() == expected)
    said = b"".join(data for _, data in topics(rig.clients, rig.config.prefix))
    assert b"good@example.com" in said, "what is good is in a topic, so that the search proves something"
    assert mark.encode() not in said


def test_a_body_that_is_too_large_is_not_taken_whether_it_says_so_or_not(make: Make) -> None:
    _, service = make()
    large = event(1, email="x" * MOST)
    assert service.send(large).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * (MOST // 5)

    assert service.sender.post(f"/hooks/{SYSTEM}/one", content=pieces()).status_code == 413
    assert service.send(event(1, email="x" * (MOST - 1000)), "n2").status_code == 200


def test_many_at_once_are_all_stored_and_a_delivery_that_comes_twice_at_once_only_once(make: Make) -> None:
    rig, service = make()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: service.send(event(n // 2), f"n{n // 2}").status_code, range(200)))
    assert answers == [200] * 200
    assert len(rig.messages(rig.topics.jobs("increments", SYSTEM))) == 100


def test_without_kafka_a_sender_is_told_to_try_again(make: Make) -> None:
    _, service = make(kafka="127.0.0.1:9", patience_s=0.5)
    answer = service.send(event(1))
    assert (answer.status_code, answer.json()["error"]) == (503, "kafka")
    assert int(answer.headers["retry-after"]) > 0


def test_a_tenant_that_is_off_or_revoked_is_answered_503_until_it_is_on_again(make: Make) -> None:
    rig, service = make()
    tenants = service.context.access.tenants
    tenants.disable(SYSTEM, "one", "moving house")
    answer = service.send(event(1))
    assert (answer.status_code, answer.json()["error"]) == (503, "tenant_off")
    assert answer.headers["retry-after"] == "600"
    assert service.send(event(1), path=f"/hooks/{SYSTEM}/two").status_code == 200, "the others go on"
    tenants.enable(SYSTEM, "one")
    assert service.send(event(1)).status_code == 200
    tenants.revoke(SYSTEM, "one", "refused")
    assert service.send(event(2), "n2").json()["error"] == "tenant_revoked"
    assert len(rig.messages(rig.topics.jobs("increments", SYSTEM))) == 2


def test_a_port_that_is_taken_is_said_with_what_to_do(make: Make) -> None:
    rig, service = make()
    spec = rig.config.hooks
    assert spec is not None
    taken = rig.config.model_copy(update={"hooks": spec.model_copy(update={"port": service.worker.port})})
    with pytest.raises(Fatal, match=r"choose another `hooks\.port`"):
        HooksWorker(Context(taken, rig.clients, rig.codec, "hooks", 1))
    foreign = rig.config.model_copy(update={"hooks": spec.model_copy(update={"host": "192.0.2.1"})})
    with pytest.raises(Fatal, match="address of this machine"):
        HooksWorker(Context(foreign, rig.clients, rig.codec, "hooks", 1))


def test_a_sender_that_hangs_up_leaves_nothing_behind(make: Make) -> None:
    rig, service = make()
    with socket.create_connection(("127.0.0.1", service.worker.port)) as line:
        line.sendall(b"POST /hooks/shop/one HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    counted = service.context.activity.totals
    rig.until(lambda: counted["hooks_refused_disconnected"] == 1)
    assert service.send(event(1)).status_code == 200
