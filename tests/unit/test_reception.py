"""What becomes of webhooks, without HTTP and Kafka: whose they are, whether they are genuine and new, and which jobs they make."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producers.jobs import Job, _decoder
from producers.reception import Accepted, Answer, Reception, hooks_of
from producers.source import Call
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry
from tidelock.signatures import SCHEMES

SECRET = "whsec_bG95YWx0eS1zZWNyZXQtb2YtdHdlbnR5LWZvdXI="
OTHER = "whsec_b3RoZXItc2VjcmV0LW9mLXR3ZW50eS1mb3VyLWNo"
NOW = 1_790_000_000.0
TABLE: dict[str, Any] = {
    "table": "member",
    "map": [{"column": c, "field": c} for c in ("email", "score", "address.city")],
}
FIELDS = {"email": {}, "score": {"type": "integer"}, "address.city": {}}


class Desk:
    """A reception and everything around it."""

    def __init__(self, data: Path, options: dict[str, Any], table: dict[str, Any], tenants: dict[str, Any]) -> None:
        columns = [{"column": c, "field": c.replace(".", "_")} for c in FIELDS]
        system = {
            "kind": "webhook",
            "capture": "webhook",
            "url": "https://loyalty.example",
            "credentials": {"hook_secret": SECRET},
            "options": options,
            "entities": {"contact": {**TABLE, "map": columns, **table}},
        }
        if tenants:
            system["tenants"] = tenants
        config = Config.model_validate(
            {
                "data": str(data),
                "systems": {
                    "loyalty": system,
                    "crm": {"capture": "none", "entities": {"contact": {**TABLE, "map": columns}}},
                },
                "entities": {"contact": {"fields": {c.replace(".", "_"): spec for c, spec in FIELDS.items()}}},
                "flows": [{"entity": "contact", "from": "loyalty", "to": "crm"}],
            }
        )
        nowhere = "http://127.0.0.1:9"
        self.context = Context(config, KafkaClients("127.0.0.1:9"), Codec(Registry(nowhere)), "hooks")
        access = self.context.access
        access.central = access.tenants.central = None
        self.now = NOW
        self.reception = Reception(self.context, hooks_of(self.context), lambda: self.now)

    def call(self, body: Any, number: str = "n1", secret: str = SECRET, tenant: str | None = None) -> Accepted | Answer:
        """Send a signed webhook."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = "https://hooks.example/hooks/loyalty"
        headers = SCHEMES["standard"].sign(
            [secret], number=number, timestamp=self.now, method="POST", url=url, body=raw
        )
        return self.reception.receive("loyalty", tenant, Call("POST", url, headers, raw))

    def jobs(self, body: Any, **more: Any) -> list[Job]:
        """Send a webhook that is taken; return its jobs."""
        found = self.call(body, **more)
        assert isinstance(found, Accepted), found
        self.reception.remember(found)
        assert {topic for topic, _, _ in found.messages} == {"jobs.increments.loyalty"}
        return [_decoder.decode(value) for _, _, value in found.messages]

    def refused(self, body: Any, **more: Any) -> tuple[int, str]:
        """Send one that is not."""
        found = self.call(body, **more)
        assert isinstance(found, Answer)
        return found.status, found.reason


Make = Callable[..., Desk]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Make]:
    made: list[Desk] = []

    def make(options: dict[str, Any] | None = None, tenants: dict[str, Any] | None = None, **table: Any) -> Desk:
        made.append(Desk(tmp_path, options or {}, table, tenants or {}))
        return made[-1]

    yield make
    for one in made:
        one.context.close_access()


def event(kind: str = "member.updated", **data: Any) -> dict[str, Any]:
    return {"type": kind, "timestamp": "2026-09-21T10:00:00Z", "data": {"id": 42, **data}}


def test_a_whole_record_is_told(desk: Make) -> None:
    (job,) = desk().jobs(event(email="a@example.com", score=None, address={"city": "Kiel"}, extra=1))
    assert (job.kind, job.tenant, job.entity) == ("told", "default", "contact")
    (record,) = job.records
    assert record["key"] == "42"
    assert record["values"] == {"email": "a@example.com", "score": None, "address.city": "Kiel", "id": 42}
    assert not record["deleted"]


def test_what_is_not_in_the_payload_is_absent(desk: Make) -> None:
    (job,) = desk().jobs(event(email=None))
    assert job.records[0]["values"] == {"email": None, "id": 42}


def test_a_thin_payload_is_read(desk: Make) -> None:
    made = desk({"read": {"url": "members/{key}"}, "in": {"events": "", "record": None, "key": "object.id"}})
    body = [{"type": "member.created", "object": {"id": n}} for n in (1, 2, 1)]
    (job,) = made.jobs(body)
    assert (job.kind, job.keys) == ("read", ["1", "2"])
    many = [{"type": "member.updated", "object": {"id": n}} for n in range(1200)]
    assert [len(j.keys) for j in made.jobs(many, number="n2")] == [500, 500, 200]


def test_deletes_and_what_is_ours(desk: Make) -> None:
    made = desk()
    (gone,) = made.jobs(event("member.deleted"))
    assert gone.records[0]["deleted"]
    (ours,) = made.jobs(event(email="a@example.com", origin="tidelock"), number="n2")
    assert ours.records[0]["ours"]
    own = desk({"in": {"entities": {"joined": "contact", "left": "contact"}, "deletes": ["left"]}})
    assert own.jobs(event("left"))[0].records[0]["deleted"]
    assert own.refused(event("member.updated"), number="n3") == (200, "ignored")


def test_versions_of_numbers_times_and_without_either(desk: Make) -> None:
    numbered = desk({"version": "integer"}, modified="version")
    (job,) = numbered.jobs(event(version=7))
    assert job.records[0]["version"] == [7, 0]
    assert numbered.refused(event(), number="n2") == (400, "no_version")
    (gone,) = numbered.jobs(event("member.deleted"), number="n3")
    assert gone.records[0]["version"] > [2**61, 0]
    timed = desk(modified="updated")
    (job,) = timed.jobs(event(updated="2026-09-21T10:00:01Z"))
    assert job.records[0]["at"] == job.records[0]["version"][0]
    assert timed.refused(event(updated="soon"), number="n4") == (400, "bad_version")
    plain = desk({"in": {"time": None}})
    one, two = (plain.jobs(event(), number=n)[0].records[0]["version"] for n in ("n5", "n6"))
    assert one[0] == two[0] == NOW * 1_000_000
    assert one[1] < two[1], "of one second, the one that came later"


def test_a_delivery_that_comes_again_is_answered_and_makes_no_jobs(desk: Make) -> None:
    made = desk()
    assert made.jobs(event())
    assert made.refused(event()) == (200, "repeated")
    assert made.jobs(event(), number="n2")
    made.now += 90_000
    assert made.jobs(event(), number="n3")
    assert made.jobs(event()), "after a day it is forgotten; its version says that it is old"
    counted = made.context.activity.totals
    assert (counted["hooks_accepted"], counted["hooks_repeated"]) == (4, 1)


def test_one_that_was_not_stored_is_not_remembered(desk: Make) -> None:
    made = desk()
    assert isinstance(made.call(event()), Accepted)
    assert made.reception.failed("loyalty").status == 503
    assert isinstance(made.call(event()), Accepted)


def test_what_is_refused_and_why(desk: Make) -> None:
    made = desk()
    assert made.refused(event(), secret=OTHER) == (401, "signature_wrong")
    assert made.refused(b"no json", number="n2") == (400, "unreadable")
    assert made.refused({"type": "member.updated", "data": {}}, number="n3") == (400, "no_key")
    assert made.refused({"type": "member.updated"}, number="n4") == (400, "no_key")
    assert made.refused(event("other.updated"), number="n5") == (200, "ignored")
    assert made.refused([], number="n6") == (200, "ignored")
    unknown = made.reception.receive("elsewhere", None, Call("POST", "u", {}, b""))
    assert isinstance(unknown, Answer)
    assert (unknown.status, unknown.reason) == (404, "unknown")
    assert made.refused(event(), tenant="nobody") == (404, "unknown")
    counted = made.context.activity.totals
    assert counted["hooks_refused_signature_wrong"] == 1
    assert counted["hooks_refused_unknown"] == 2


def test_an_address_without_a_tenant_serves_those_whose_secret_it_was_signed_with(desk: Make) -> None:
    tenants = {"one": {}, "two": {"credentials": {"hook_secret": OTHER}}, "three": {"credentials": {"hook_secret": ""}}}
    made = desk(tenants=tenants)
    (job,) = made.jobs(event(), secret=OTHER)
    assert job.tenant == "two"
    (job,) = made.jobs(event(), number="n2", tenant="one")
    assert job.tenant == "one"
    assert made.refused(event(), number="n3", tenant="one", secret=OTHER) == (401, "signature_wrong")
    assert made.refused(event(), number="n4", tenant="three")[0] == 503
    shared = desk(tenants={"one": {}, "two": {}})
    assert shared.refused(event()) == (400, "no_tenant")


def test_a_secret_that_is_none_is_trouble_for_its_own_tenant_alone(desk: Make) -> None:
    broken = {"credentials": {"hook_secret": "whsec_no base64"}}
    made = desk(tenants={"one": broken, "two": {"credentials": {"hook_secret": OTHER}}})
    (job,) = made.jobs(event(), secret=OTHER)
    assert job.tenant == "two"
    assert made.refused(event(), number="n2", secret=OTHER, tenant="one") == (503, "not_configured")


def test_a_tenant_that_is_off_keeps_its_sender_waiting_behind_the_signature(desk: Make) -> None:
    made = desk(tenants={"one": {"enabled": False}, "two": {}})
    found = made.call(event(), tenant="one")
    assert isinstance(found, Answer)
    assert (found.status, found.reason, found.retry_after_s) == (503, "tenant_off", 600)
    assert made.refused(event(), tenant="one", secret=OTHER) == (401, "signature_wrong"), "strangers learn nothing"


def test_secrets_in_rotation(desk: Make) -> None:
    made = desk({"in": {"secrets": ["hook_secret", "hook_secret_before"]}})
    assert made.refused(event(), secret=OTHER) == (401, "signature_wrong")
    spec = made.context.config.systems["loyalty"]
    spec.credentials["hook_secret_before"] = type(spec.credentials["hook_secret"])(OTHER)
    made.context.access.tenants.forget("loyalty")
    assert made.jobs(event(), secret=OTHER)
    assert made.jobs(event(), number="n2")


def test_large_tellings_are_cut_into_several_jobs(desk: Make) -> None:
    body = [event(email="x" * 300_000) | {"data": {"id": n, "email": "x" * 300_000}} for n in range(3)]
    jobs = desk().jobs(body)
    assert [len(j.records) for j in jobs] == [1, 1, 1]


def test_sensitive_columns_are_hidden_before_a_job_stands_in_its_topic(desk: Make) -> None:
    hidden = {"card": "drop", "pin": "mask", "born": "hash"}
    columns = [{"column": "email", "field": "email"}, *({"column": c, "sensitive": how} for c, how in hidden.items())]
    made = desk(map=columns)
    (job,) = made.jobs(event(email="a@example.com", card="4111", pin=7, born="1969"))
    (record,) = job.records
    digest = hmac.digest(b"tidelock/", b"1969", "sha256").hex()
    assert record["values"] == {"id": 42, "email": "a@example.com", "pin": "***", "born": digest}
    assert job.hidden, "or it would be hashed again"
