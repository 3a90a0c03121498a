"""Webhooks of Dataverse as its simulator sends them: what they name, whose they are, and what is not believed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from producers.dynamics import DynamicsProducer
from producers.dynamics_hooks import DynamicsHook
from producers.source import Call
from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from tests.contract.dynamicsorg import Organisation, bound
from tests.simulators.hooks import Receiver, receiver
from tidelock.change import position
from tidelock.errors import Reject, Revoked
from tidelock.signatures import Refused

CODE = "c0de-that-nobody-guesses"
TABLES = {"contact": bound("contact", "lastname", "firstname"), "account": bound("account", "name")}


class There:
    """An environment, somebody who takes its webhooks, and what understands them."""

    def __init__(self, organisation: Organisation, taker: Receiver) -> None:
        self.o, self.taker = organisation, taker
        self.hook = DynamicsHook(organisation.context, organisation.tenant)

    def endpoint(self, **more: Any) -> None:
        """Register a step for everything."""
        self.o.post("/endpoints", {"url": self.taker.url, "auth": "header", "headers": {"X-Tide": CODE}, **more})

    def calls(self, count: int) -> list[Call]:
        """Return the first calls that came."""
        return [Call("POST", self.taker.url, headers, body, {}) for headers, body in self.taker.wait(count)[:count]]


@pytest.fixture
def there(tmp_path: Path) -> Iterator[There]:
    with Running(DynamicsSimulator()) as running, receiver() as taker:
        given = running.ready["credentials"]
        credentials = {**{n: given[n] for n in ("tenant", "client_id", "client_secret")}, "hook_secret": CODE}
        options = {"hook_header": "X-Tide"}
        organisation = Organisation(running, tmp_path, TABLES, {}, credentials=credentials, options=options)
        yield There(organisation, taker)
        organisation.close()


def altered(call: Call, **members: Any) -> Call:
    """Return a call with other members in its body; None takes one away."""
    body = {**json.loads(call.body), **members}
    kept = {n: v for n, v in body.items() if v is not None}
    return Call(call.method, call.url, call.headers, json.dumps(kept).encode(), call.query)


def test_the_capture_takes_webhooks() -> None:
    assert DynamicsProducer.hook is DynamicsHook


def test_what_people_make_and_change_is_named_and_can_be_read(there: There) -> None:
    there.endpoint(tables=["contact"])
    (key,) = there.o.load("contact", {"lastname": "A", "firstname": "1"})
    there.o.post("/edit/contact", [{"id": key, "firstname": "2"}])
    for call in there.calls(2):
        (notice,) = there.hook.receive(call)
        assert (notice.entity, notice.keys, notice.records) == ("contact", (key,), ())
    assert there.o.read("contact", key).values["firstname"] == "2"


def test_a_delete_with_a_pre_image_needs_no_reading(there: There) -> None:
    """It stands behind every version that the row had, and before every one that a row of this key could get again."""
    there.endpoint(tables=["contact"], messages=["Delete"], images=True)
    (key,) = there.o.load("contact", {"lastname": "A"})
    last = there.o.read("contact", key)
    there.o.post("/delete/contact", [key])
    (call,) = there.calls(1)
    (notice,) = there.hook.receive(call)
    (gone,) = notice.records
    assert (gone.key, gone.deleted, notice.keys) == (key, True, ())
    assert position(*gone.version) > position(*last.version)
    (other,) = there.o.load("contact", {"lastname": "B"})
    assert gone.version < there.o.read("contact", other).version
    assert abs(gone.at / 1e6 - time.time()) < 3600


def test_a_delete_without_image_is_read(there: There) -> None:
    there.endpoint(tables=["contact"], messages=["Delete"])
    (key,) = there.o.load("contact", {"lastname": "A"})
    there.o.post("/delete/contact", [key])
    (call,) = there.calls(1)
    (notice,) = there.hook.receive(call)
    assert (notice.keys, notice.records) == ((key,), ())
    assert there.o.read("contact", key).deleted


def test_what_was_cut_down_because_it_was_too_large_still_names_its_row(there: There) -> None:
    there.o.post("/columns/account", [{"name": "td_long", "kind": "memo", "max_length": 1_000_000}])
    there.endpoint(tables=["account"])
    (key,) = there.o.load("account", {"name": "A", "td_long": "x" * 300_000})
    (call,) = there.calls(1)
    assert call.headers["x-ms-dynamics-msg-size-exceeded"] == "true"
    assert b"InputParameters" not in call.body
    (notice,) = there.hook.receive(call)
    assert (notice.entity, notice.keys) == ("account", (key,))


def test_our_own_writes_are_left_out(there: There) -> None:
    there.endpoint(tables=["contact"])
    there.o.write(there.o.make("a", "contact", "create", lastname="A"))
    (call,) = there.calls(1)
    assert there.hook.receive(call) == []


def test_what_is_not_captured_is_left_out(there: There) -> None:
    there.endpoint(tables=["lead"])
    there.o.load("lead", {"lastname": "L", "subject": "S"})
    (call,) = there.calls(1)
    assert there.hook.receive(call) == []


def test_a_merge_names_both_rows(there: There) -> None:
    there.endpoint(tables=["contact"])
    one, other = there.o.load("contact", {"lastname": "A"}, {"lastname": "B"})
    first, _ = there.calls(2)
    merge = altered(
        first,
        MessageName="Merge",
        PrimaryEntityId=one,
        InputParameters=[{"key": "Target", "value": {"Id": one}}, {"key": "SubordinateId", "value": other.upper()}],
    )
    (notice,) = there.hook.receive(merge)
    assert notice.keys == (one, other)


def test_an_attempt_that_is_repeated_has_the_name_of_the_first(there: There) -> None:
    there.endpoint(tables=["contact"])
    there.taker.answers.append((500, {}))
    there.o.load("contact", {"lastname": "A"})
    there.taker.wait(1)
    there.o.post("/clock", {"advance_s": 60})
    first, again = there.calls(2)
    assert there.hook.delivery(first) == there.hook.delivery(again) is not None


def test_two_events_of_one_request_have_names_of_their_own(there: There) -> None:
    """Everything that one request does has one operation: only with its row is it the name of an event."""
    there.endpoint(tables=["contact"])
    there.o.load("contact", {"lastname": "A"}, {"lastname": "B"})
    one, other = there.calls(2)
    same = altered(other, OperationId=json.loads(one.body)["OperationId"])
    assert there.hook.delivery(one) != there.hook.delivery(same)


def test_a_synchronous_step_has_no_name_of_its_own(there: There) -> None:
    there.endpoint(tables=["contact"])
    there.o.load("contact", {"lastname": "A"})
    (call,) = there.calls(1)
    assert there.hook.delivery(altered(call, OperationId="00000000-0000-0000-0000-000000000000")) is None


@pytest.mark.parametrize("mode", ["header", "code"])
def test_only_who_knows_the_secret_is_believed(there: There, mode: str) -> None:
    there.endpoint(tables=["contact"])
    there.o.load("contact", {"lastname": "A"})
    (call,) = there.calls(1)
    hook, good = there.hook, call
    if mode == "code":
        tenant = there.o.tenant
        options = {n: v for n, v in tenant.options.items() if n != "hook_header"}
        hook = DynamicsHook(there.o.context, type(tenant)(**{**_fields(tenant), "options": options}))
        good = Call("POST", f"{call.url}?code={CODE}", {}, call.body, {"code": CODE})
    hook.scheme.verify(good, hook.secrets, time.time())
    wrong = Call("POST", call.url, {"x-tide": "guess"}, call.body, {"code": "guess"})
    for bad in (wrong, Call("POST", call.url, {}, call.body, {})):
        with pytest.raises(Refused) as caught:
            hook.scheme.verify(bad, hook.secrets, time.time())
        assert caught.value.status == 401
        assert CODE not in str(caught.value)


def _fields(tenant: Any) -> dict[str, Any]:
    return {n: getattr(tenant, n) for n in tenant.__dataclass_fields__}


def test_the_secret_before_is_good_while_it_is_being_replaced_and_none_at_all_is_said(there: There) -> None:
    tenant = there.o.tenant
    given = {**_fields(tenant), "credentials": {**tenant.credentials, "hook_secret_before": "before"}}
    assert DynamicsHook(there.o.context, type(tenant)(**given)).secrets == [CODE, "before"]
    bare = {n: v for n, v in tenant.credentials.items() if not n.startswith("hook")}
    with pytest.raises(Revoked, match="hook_secret"):
        _ = DynamicsHook(there.o.context, type(tenant)(**{**given, "credentials": bare})).secrets


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"MessageName": "Update", "PrimaryEntityName": "contact", "PrimaryEntityId": "1) or (1"}',
        b'{"MessageName": "Update", "PrimaryEntityName": "contact"}',
    ],
)
def test_what_makes_no_sense_is_refused(there: There, body: bytes) -> None:
    with pytest.raises(Reject) as caught:
        there.hook.receive(Call("POST", there.taker.url, {}, body, {}))
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize("image", [{}, {"Attributes": 3}, {"Attributes": [{"key": "versionnumber", "value": "soon"}]}])
def test_an_image_that_says_no_version_leads_to_a_reading(there: There, image: Any) -> None:
    there.endpoint(tables=["contact"], messages=["Delete"])
    (key,) = there.o.load("contact", {"lastname": "A"})
    there.o.post("/delete/contact", [key])
    (call,) = there.calls(1)
    (notice,) = there.hook.receive(altered(call, PreEntityImages=[{"key": "image", "value": image}]))
    assert (notice.keys, notice.records) == ((key,), ())
