"""Writes to HubSpot: lost answers, values that must be unique, partial failures, limits, what it reformats, and its calls counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simulators.hubspot import HubSpotSimulator
from simulators.server import Running
from sinks.base import Sink
from tests.contract.hubspot_portal import HubSpotSubject
from tests.sinking import record, value, write
from tidelock.change import position
from tidelock.envelopes import APPLIED, REJECTED, TAKEN, Receipt
from tidelock.errors import Retry, Revoked

Make = Callable[..., HubSpotSubject]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[HubSpotSubject] = []
    options: dict[str, Any] = {"burst": "0", "oauth_burst": "0", "daily": "0", "search_per_s": "0"}
    with Running(HubSpotSimulator(**options)) as running:

        def subject(**more: Any) -> HubSpotSubject:
            made.append(HubSpotSubject(running, tmp_path, **more))
            return made[-1]

        yield subject
        for one in made:
            one.close()


@pytest.fixture
def portal(make: Make) -> HubSpotSubject:
    return make()


@pytest.fixture
def sink(portal: HubSpotSubject) -> Iterator[Sink]:
    made = portal.sink()
    yield made
    made.close()


def creates(count: int, **more: Any) -> list[Any]:
    return [write(f"w{n}", "create", email=f"w{n}@example.com", firstname=f"n{n}", **more) for n in range(count)]


def done(sink: Sink, *writes: Any) -> list[Receipt]:
    return list(sink.write(list(writes)))


# ------------------------------------------------------------------------------------------------ creates


def test_s13_a_create_whose_answer_was_lost_leaves_alone_what_was_edited_since(
    portal: HubSpotSubject, sink: Sink
) -> None:
    portal.fault(kind="lost", path="/batch/create")
    with pytest.raises(Retry):
        done(sink, write("a", "create", email="a@example.com", firstname="Ours"))
    (key,) = portal.rows()
    portal.edit_there(key, name="Theirs")
    (receipt,) = done(sink, write("a", "create", email="a@example.com", firstname="Ours"))
    assert (receipt.outcome, receipt.native_key) == (APPLIED, key)
    assert portal.rows() == {key: {"email": "a@example.com", "name": "Theirs"}}


def test_without_a_configured_canonical_id_creates_carry_one_all_the_same(make: Make) -> None:
    portal = make(table={"table": "companies", "map": [{"column": "name", "field": "name"}]})
    sink = portal.sink()
    portal.fault(kind="lost", path="/batch/create")
    with pytest.raises(Retry):
        done(sink, write("a", "create", name="Acme"))
    (receipt,) = done(sink, write("a", "create", name="Acme"))
    assert receipt.outcome == APPLIED
    (company,) = portal.held("companies")
    assert company["id"] == receipt.native_key
    assert company["properties"]["tidelock_id"] == record("a")
    sink.close()


def test_s25_two_creates_with_one_address_in_one_batch_make_one_contact(portal: HubSpotSubject, sink: Sink) -> None:
    """Two contacts of Dynamics share an address: the second is answered with who holds it, and overwrites nothing."""
    mother, child = done(
        sink,
        write("mother", "create", email="family@example.com", firstname="Mother"),
        write("child", "create", email="Family@Example.com", firstname="Child"),
    )
    assert (mother.outcome, child.outcome) == (APPLIED, TAKEN)
    assert child.native_key == mother.native_key
    assert portal.rows() == {mother.native_key: {"email": "family@example.com", "name": "Mother"}}
    (again,) = done(sink, write("child", "create", email="family@example.com", firstname="Child"))
    assert (again.outcome, again.native_key) == (TAKEN, mother.native_key)


def test_s25_an_update_to_an_address_that_another_contact_has_changes_nothing(
    portal: HubSpotSubject, sink: Sink
) -> None:
    a, b = (r.native_key for r in done(sink, *creates(2)))
    first, second = done(
        sink,
        write("w0", "update", a, 2, email=("w1@example.com", "w0@example.com")),
        write("w1", "update", b, 2, firstname=("N1", "n1")),
    )
    assert (first.outcome, first.native_key) == (TAKEN, b)
    assert second.outcome == APPLIED
    assert portal.rows()[str(a)] == {"email": "w0@example.com", "name": "n0"}


def test_an_address_that_is_somebodys_second_one_is_taken(portal: HubSpotSubject, sink: Sink) -> None:
    a, b = portal.create_there([{"email": "a@example.com"}, {"email": "b@example.com"}])
    portal.merge_there(a, b)
    (receipt,) = done(sink, write("b", "create", email="b@example.com", firstname="B"))
    assert (receipt.outcome, receipt.native_key) == (TAKEN, a), "the key by which its capture knows it"


def test_a_batch_that_is_refused_as_a_whole_is_halved(portal: HubSpotSubject, sink: Sink) -> None:
    """As for an account that does not know trace ids."""
    portal.fault(
        kind="status", status=409, path="/batch/create", times=1, body={"status": "error", "category": "CONFLICT"}
    )
    assert {r.outcome for r in done(sink, *creates(6))} == {APPLIED}
    assert len(portal.rows()) == 6


def test_an_error_that_names_no_record_is_traced_to_its_own(portal: HubSpotSubject, sink: Sink) -> None:
    entry = {"status": "error", "category": "VALIDATION_ERROR", "message": "no"}
    body = {"status": "COMPLETE", "results": [], "numErrors": 1, "errors": [entry]}
    done(sink, write("first", "create", email="first@example.com"))
    portal.fault(kind="status", status=207, path="/batch/create", times=2, body=body)
    one, two, three = done(sink, *creates(3))
    assert (one.outcome, one.message) == (REJECTED, "no")
    assert {two.outcome, three.outcome} == {APPLIED}
    assert len(portal.rows()) == 3


# ------------------------------------------------------------------------------------------------ failures


def test_s8_a_record_that_is_refused_is_a_dead_letter_that_names_its_column(portal: HubSpotSubject, sink: Sink) -> None:
    good, bad = done(
        sink,
        write("good", "create", email="good@example.com"),
        write("bad", "create", email="bad@example.com", lifecyclestage="no stage"),
    )
    assert good.outcome == APPLIED
    assert (bad.outcome, bad.refused, bad.kind) == (REJECTED, ("lifecyclestage",), "invalid_option")
    assert "no stage" in str(bad.message)


def test_what_fails_inside_hubspot_is_sent_again(portal: HubSpotSubject, sink: Sink) -> None:
    portal.fault(kind="batch_partial", count=3, times=2)
    assert {r.outcome for r in done(sink, *creates(8))} == {APPLIED}
    assert len(portal.rows()) == 8


def test_if_everything_fails_inside_hubspot_it_is_an_outage(portal: HubSpotSubject, sink: Sink) -> None:
    portal.fault(kind="batch_partial", count=100, times=None)
    with pytest.raises(Retry):
        done(sink, *creates(3))
    assert portal.rows() == {}


@pytest.mark.parametrize(
    ("fault", "pause_s"),
    [
        ({"kind": "rate_limit", "policy": "DAILY"}, (1.0, 3600.0)),
        ({"kind": "rate_limit", "policy": "DAILY", "retry_after_s": 77}, (77.0, 77.0)),
        ({"kind": "migrating", "retry_after_s": 7200}, (7200.0, 7200.0)),
        ({"kind": "rate_limit", "retry_after_s": 30}, (30.0, 30.0)),
    ],
)
def test_s9_a_long_wait_is_told_and_writes_nothing(
    portal: HubSpotSubject, sink: Sink, fault: dict[str, Any], pause_s: tuple[float, float]
) -> None:
    portal.fault(**fault, path="/batch/create", times=None)
    with pytest.raises(Retry) as caught:
        done(sink, *creates(1))
    assert caught.value.retry_after_s is not None
    assert pause_s[0] <= caught.value.retry_after_s <= pause_s[1]
    assert portal.rows() == {}
    with pytest.raises(Retry, match="takes no call now"):  # for everybody who calls this portal
        done(sink, *creates(1))


def test_s9_short_troubles_pass_within_the_call(portal: HubSpotSubject, sink: Sink) -> None:
    portal.fault(kind="rate_limit", policy="SECONDLY", path="/batch/create")
    portal.fault(kind="unavailable", status=523, path="/batch/read")
    portal.fault(kind="locked", path="/batch/update")
    (made,) = done(sink, *creates(1))
    (receipt,) = done(sink, write("w0", "update", made.native_key, 2, firstname=("N0", "n0")))
    assert (receipt.outcome, receipt.refused) == (APPLIED, ())


def test_s9_a_gateway_that_fails_behind_a_create_leaves_it_open_whether_it_happened(
    portal: HubSpotSubject, sink: Sink
) -> None:
    portal.fault(kind="unavailable", status=504, path="/batch/create")
    with pytest.raises(Retry):
        done(sink, *creates(1))
    assert [r.outcome for r in done(sink, *creates(1))] == [APPLIED]
    assert len(portal.rows()) == 1


def test_s28_a_refresh_token_that_is_refused_stops_the_tenant(make: Make) -> None:
    portal = make(oauth=True)
    sink = portal.sink()
    done(sink, *creates(1))
    portal.done("expire", {})
    assert [r.outcome for r in done(sink, write("x", "create", email="x@example.com"))] == [APPLIED]
    portal.revoke()
    with pytest.raises(Revoked) as caught:
        done(sink, write("y", "create", email="y@example.com"))
    text = f"{caught.value}"
    assert "BAD_REFRESH_TOKEN" in text
    assert not any(v in text for n, v in portal.tenant.credentials.items() if n != "client_id")
    sink.close()


# ------------------------------------------------------------------------------------------------ what stands there


def test_s22_an_address_in_capitals_is_one_spelling_and_is_told(portal: HubSpotSubject, sink: Sink) -> None:
    (made,) = done(sink, write("a", "create", email="Ann@Example.com", firstname="Ann"))
    assert made.values == {"email": value("ann@example.com")}
    (receipt,) = done(sink, write("a", "update", made.native_key, 2, email=("ANN@example.com", "ann@example.com")))
    assert (receipt.outcome, receipt.refused, receipt.values) == (APPLIED, (), {"email": value("ann@example.com")})
    assert receipt.position == made.position, "a write that changes nothing is no new version"


def test_s22_a_stage_that_may_not_go_back_is_told_as_it_stands(portal: HubSpotSubject, sink: Sink) -> None:
    (made,) = done(sink, write("a", "create", email="a@example.com", lifecyclestage="customer"))
    (receipt,) = done(sink, write("a", "update", made.native_key, 2, lifecyclestage=("lead", "customer")))
    assert receipt.outcome == APPLIED
    assert receipt.values == {"lifecyclestage": value("customer")}


def test_values_of_every_type_are_written_as_hubspot_spells_them(make: Make) -> None:
    columns = ("dealname", "dealstage", "amount", "closedate")
    portal = make(table={"table": "deals", "map": [{"column": c, "field": "name"} for c in columns]})
    sink = portal.sink()
    (receipt,) = done(
        sink,
        write("d", "create", dealname="Big", dealstage="closedwon", amount=1500, closedate="2026-01-01T01:00:00+01:00"),
    )
    assert receipt.outcome == APPLIED
    (deal,) = portal.held("deals")
    stands = {n: deal["properties"][n] for n in columns}
    assert stands == {
        "dealname": "Big",
        "dealstage": "closedwon",
        "amount": "1500",
        "closedate": "2026-01-01T00:00:00.000Z",
    }
    (cleared,) = done(sink, write("d", "update", receipt.native_key, 2, amount=(None, "1500")))
    assert cleared.refused == ()
    assert "amount" not in portal.held("deals")[0]["properties"]
    sink.close()


def test_s17_contacts_in_parallel_batches_all_land(make: Make) -> None:
    sinks = [make().sink() for _ in range(4)]
    batches = [
        [write(f"s{s}w{n}", "create", email=f"s{s}w{n}@example.com", company="Acme") for n in range(120)]
        for s in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        receipts = [
            r for part in pool.map(lambda pair: pair[0].write(pair[1]), zip(sinks, batches, strict=True)) for r in part
        ]
    assert {r.outcome for r in receipts} == {APPLIED}
    assert len(make().rows()) == 480
    for sink in sinks:
        sink.close()


def test_a_thousand_creates_take_ten_calls_and_a_thousand_updates_twenty(portal: HubSpotSubject, sink: Sink) -> None:
    done(sink, write("first", "create", email="first@example.com"))  # properties are looked at once
    before = portal.calls()
    receipts = done(sink, *creates(1000))
    assert {r.outcome for r in receipts} == {APPLIED}
    assert portal.counted(before) == {"/crm/v3/objects/contacts/batch/create": 10}
    before = portal.calls()
    updates = [write(f"w{n}", "update", r.native_key, 2, firstname=(f"N{n}", f"n{n}")) for n, r in enumerate(receipts)]
    changed = done(sink, *updates)
    assert {(r.outcome, r.refused) for r in changed} == {(APPLIED, ())}
    assert portal.counted(before) == {
        "/crm/v3/objects/contacts/batch/read": 10,
        "/crm/v3/objects/contacts/batch/update": 10,
    }
    assert all((c.position or b"") > (r.position or position(1 << 61)) for r, c in zip(receipts, changed, strict=True))
    before = portal.calls()
    done(sink, *(write(f"w{n}", "delete", r.native_key, 3) for n, r in enumerate(receipts)))
    assert sum(portal.counted(before).values()) == 20
    assert len(portal.rows()) == 1


def test_what_hubspot_says_is_left_of_the_day_is_kept_to(tmp_path: Path) -> None:
    """Others use the same budget: of 115 calls that are left, a tenth of our 1,000 is kept for people."""
    options: dict[str, Any] = {"daily": "115"}
    with Running(HubSpotSimulator(**options)) as running:
        portal = HubSpotSubject(running, tmp_path, daily=1000)
        sink = portal.sink()
        (made,) = done(sink, *creates(1))
        before = "n0"
        with pytest.raises(Retry, match="daily budget"):
            for n in range(2, 20):
                (receipt,) = done(sink, write("w0", "update", made.native_key, n, firstname=(f"{n}", before)))
                assert receipt.refused == ()
                before = f"{n}"
        assert before != "n0"
        assert not any(what.endswith(" 429") for what in portal.calls()), "we stopped before HubSpot had to say so"
        sink.close()
        portal.close()
