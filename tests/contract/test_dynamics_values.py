"""Values of Dynamics 365 there and back: every type of column, lookups, states, and what is kept differently from what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from sinks.references import Referencing
from tests.contract.dynamicsorg import Organisation, bound
from tests.sinking import SYSTEM, record, value
from tidelock.apis.dynamics import exact, tracked_to
from tidelock.apis.dynamics_tables import Entity
from tidelock.apis.judging import Answer
from tidelock.apis.multipart import Part, encode_batch
from tidelock.change import position
from tidelock.envelopes import APPLIED, MISSING, REJECTED, Receipt
from tidelock.links import LinkView

Make = Callable[..., Organisation]
CUSTOM = [
    {"name": "td_ratio", "kind": "double"},
    {"name": "td_weight", "kind": "decimal", "precision": 4},
    {"name": "td_seen", "kind": "datetime"},
    {"name": "td_tags", "kind": "multi", "options": {"1": "a", "2": "b", "10": "c"}},
]
VALUES = {
    "description": "Line one\r\nline two, \u00fc \U0001f600",
    "birthdate": "1984-02-29",
    "annualincome": 1234567.5,
    "gendercode": 2,
    "creditonhold": True,
    "donotemail": False,
    "td_ratio": 0.1,
    "td_weight": 12.3456,
    "td_seen": "2026-11-22T18:00:00Z",
    "td_tags": "2,10",
}


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(DynamicsSimulator()) as server:
        yield server


@pytest.fixture
def organisation(running: Running, tmp_path: Path) -> Iterator[Make]:
    made: list[Organisation] = []

    def make(tables: Any, fields: Any = None, **more: Any) -> Organisation:
        made.append(Organisation(running, tmp_path, tables, fields or {}, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def control(running: Running, path: str, body: Any) -> None:
    got = httpx.post(f"{running.http}/_control{path}", json=body)
    assert got.status_code == 200, got.text


# ------------------------------------------------------------------------------------------------------- types


def test_every_type_is_written_as_it_was_read_and_read_to_the_same_bytes(running: Running, organisation: Make) -> None:
    control(running, "/columns/contact", CUSTOM)
    o = organisation({"contact": bound("contact", "lastname", *VALUES)})
    (theirs,) = o.load("contact", {"lastname": "Theirs", **VALUES})
    columns, there = o.columns("contact"), o.read("contact", theirs)
    generic = {n: columns[n].generic(there.values[n]) for n in VALUES}
    assert b"\x00" not in generic.values()
    (receipt,) = o.write(o.make("a", "contact", "create", None, lastname="Ours", **generic))
    assert (receipt.outcome, receipt.values) == (APPLIED, {})
    key = str(receipt.native_key)
    ours, polled = o.read("contact", key), o.polled("contact")[key]
    for name in VALUES:
        expected = columns[name].encode(there.values[name])
        assert columns[name].encode(ours.values[name]) == expected, name
        assert columns[name].encode(polled.values[name]) == expected, name


def test_every_type_can_be_cleared(running: Running, organisation: Make) -> None:
    control(running, "/columns/contact", CUSTOM)
    o = organisation({"contact": bound("contact", "lastname", *VALUES)})
    (key,) = o.load("contact", {"lastname": "Theirs", **VALUES})
    columns, there = o.columns("contact"), o.read("contact", key)
    made = o.make("a", "contact", "update", key)
    made.columns.update({n: (b"\x00", columns[n].generic(there.values[n])) for n in VALUES})
    (receipt,) = o.write(made)
    assert (receipt.outcome, receipt.refused, receipt.values) == (APPLIED, (), {})
    assert {n: o.read("contact", key).values[n] for n in VALUES} == dict.fromkeys(VALUES)


def test_money_keeps_every_digit_on_the_way_there_and_back() -> None:
    """A float has seventeen digits, money nineteen."""
    attribute = {"LogicalName": "revenue", "AttributeType": "Money"}
    entity = Entity("account", {"EntitySetName": "accounts", "PrimaryIdAttribute": "accountid"}, [attribute], [], {})
    column, text = entity.columns["revenue"], "922337203685477.5807"
    _, body = encode_batch([Part("PATCH", "/x", {}, {"revenue": column.json(value(text))})])
    assert f'"revenue":{text}'.encode() in body
    back = exact(Answer(200, httpx.Headers(), f'{{"revenue": {text}}}'.encode()))["revenue"]
    assert back == Decimal(text)
    assert column.generic(back) == value(text)


@pytest.mark.parametrize(
    ("behaviour", "kind"), [("DateOnly", "date"), ("UserLocal", "timestamp"), ("TimeZoneIndependent", "timestamp")]
)
def test_a_column_that_shows_days_is_one_only_if_it_behaves_so(behaviour: str, kind: str) -> None:
    attribute = {
        "LogicalName": "day",
        "AttributeType": "DateTime",
        "Format": "DateOnly",
        "DateTimeBehavior": {"Value": behaviour},
    }
    entity = Entity("t", {"EntitySetName": "ts", "PrimaryIdAttribute": "tid"}, [attribute], [], {})
    assert entity.columns["day"].type.value == kind


# ------------------------------------------------------------------------------------------------------ reformatting


def test_s22_money_that_is_rounded_is_told_as_it_stands_there(organisation: Make) -> None:
    """S22: the receipt has the rounded value in the bytes in which capture reads it, so that it makes no edit."""
    o = organisation({"contact": bound("contact", "lastname", "annualincome")}, {"annualincome": {"type": "decimal"}})
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A", annualincome="10.005"))
    assert receipt.outcome == APPLIED
    read = o.read("contact", str(receipt.native_key))
    captured = o.columns("contact")["annualincome"].generic(read.values["annualincome"])
    assert receipt.values == {"annualincome": captured}
    assert captured == value("10.01")
    assert receipt.position == position(*read.version)


def test_s22_an_empty_text_is_told_as_nothing(organisation: Make) -> None:
    """S22: Dataverse keeps no empty texts."""
    o = organisation({"contact": bound("contact", "lastname", "firstname")})
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A", firstname=""))
    assert (receipt.outcome, receipt.values) == (APPLIED, {"firstname": b"\x00"})


def test_s22_a_time_is_told_in_whole_seconds(running: Running, organisation: Make) -> None:
    """S22: fractions of seconds are cut off."""
    control(running, "/columns/contact", CUSTOM)
    o = organisation({"contact": bound("contact", "lastname", "td_seen")}, {"td_seen": {"type": "timestamp"}})
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A", td_seen=1_795_370_400_750_000))
    read = o.read("contact", str(receipt.native_key))
    assert read.values["td_seen"] == "2026-11-22T18:00:00Z"
    assert receipt.values == {"td_seen": o.columns("contact")["td_seen"].generic(read.values["td_seen"])}


# ------------------------------------------------------------------------------------------------------ lookups

PARENTS = {
    "account": bound("account", "name"),
    "contact": bound("contact", "lastname", "parentcustomerid"),
}
TO_ACCOUNT = {"parentcustomerid": {"references": "account"}}


def test_a_lookup_is_written_by_reference_and_read_as_the_key(organisation: Make) -> None:
    o = organisation(
        {"contact": bound("contact", "lastname"), "account": bound("account", "name", "primarycontactid")},
        {"primarycontactid": {"references": "contact"}},
    )
    (person,) = o.load("contact", {"lastname": "Anna"})
    (receipt,) = o.write(o.make("a", "account", "create", name="Acme", primarycontactid=person.upper()))
    key = str(receipt.native_key)
    assert o.row("account", key)["_primarycontactid_value"] == person
    assert o.read("account", key).values["primarycontactid"] == person
    (receipt,) = o.write(o.make("a", "account", "update", key, primarycontactid=(None, person)))
    assert (receipt.outcome, receipt.refused) == (APPLIED, ())
    assert o.read("account", key).values["primarycontactid"] is None


def test_a_customer_leads_to_the_table_that_its_field_refers_to(organisation: Make) -> None:
    """The same column may hold accounts and contacts; the field says which of them the hub means."""
    o = organisation(PARENTS, TO_ACCOUNT)
    (acme,) = o.load("account", {"name": "Acme"})
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A", parentcustomerid=acme))
    key = str(receipt.native_key)
    assert (receipt.outcome, receipt.values) == (APPLIED, {})
    assert o.row("contact", key)["_parentcustomerid_value"] == acme
    assert o.read("contact", key).values["parentcustomerid"] == acme
    assert o.polled("contact")[key].values["parentcustomerid"] == acme
    (receipt,) = o.write(o.make("a", "contact", "update", key, parentcustomerid=(None, acme)))
    assert o.read("contact", key).values["parentcustomerid"] is None


def test_a_customer_of_the_other_table_is_no_reference_of_this_field(organisation: Make) -> None:
    o = organisation(PARENTS, TO_ACCOUNT)
    (boss,) = o.load("contact", {"lastname": "Boss"})
    (key,) = o.load("contact", {"lastname": "B", "parentcustomerid_contact@odata.bind": f"/contacts({boss})"})
    assert o.row("contact", key)["_parentcustomerid_value"] == boss
    assert o.read("contact", key).values["parentcustomerid"] is None
    assert o.polled("contact")[key].values["parentcustomerid"] is None


class Links:
    """What the hub knows: the account that the CRM calls 7 is this one here."""

    def __init__(self, account: str) -> None:
        self._account = account

    def refresh(self, wait_s: float) -> int:
        return 0

    def canonical_id(self, system: str, tenant: str, key: str) -> str | None:
        return "acme" if (system, tenant, key) == ("crm", "default", "7") else None

    def native_key(self, canonical_id: str, system: str, tenant: str) -> str | None:
        return self._account if (canonical_id, system, tenant) == ("acme", SYSTEM, "default") else None


def test_a_reference_that_another_system_spelt_becomes_the_row_here(organisation: Make) -> None:
    """Through the hub: the CRM's key of the account is resolved to the account's id, and a parent that is not here yet is waited for."""
    o = organisation(PARENTS, TO_ACCOUNT)
    (acme,) = o.load("account", {"name": "Acme"})
    sink = Referencing(o.sink, o.context.config, SYSTEM, lambda _: cast("LinkView", Links(acme)))
    here, nowhere = sink.write(
        [
            o.make("a", "contact", "create", lastname="A", parentcustomerid="crm:7"),
            o.make("b", "contact", "create", lastname="B", parentcustomerid="crm:8"),
        ]
    )
    assert isinstance(here, Receipt)
    assert isinstance(nowhere, Receipt)
    assert (here.outcome, nowhere.outcome, nowhere.kind) == (APPLIED, REJECTED, "missing_parent")
    captured = o.columns("contact")["parentcustomerid"]
    read = o.read("contact", str(here.native_key))
    assert read.values["parentcustomerid"] == acme
    assert here.values == {"parentcustomerid": captured.generic(acme)}, "how it is spelt here makes no edit"


@pytest.mark.parametrize("kind", ["account", "contact"])
def test_a_customer_without_reference_keeps_its_table(organisation: Make, kind: str) -> None:
    o = organisation(PARENTS)
    name = {"account": "name", "contact": "lastname"}[kind]
    (parent,) = o.load(kind, {name: "Parent"})
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A", parentcustomerid=f"{kind}:{parent}"))
    key = str(receipt.native_key)
    assert (receipt.outcome, receipt.values) == (APPLIED, {})
    assert o.read("contact", key).values["parentcustomerid"] == f"{kind}:{parent}"
    assert o.row("contact", key)["_parentcustomerid_value"] == parent


def test_a_reference_to_a_row_that_is_not_there_is_the_writes_fault_not_the_rows_end(organisation: Make) -> None:
    """Both are answered 404; only one means that the record was deleted."""
    o = organisation(PARENTS, TO_ACCOUNT)
    nobody = "00000000-0000-0000-0000-00000000dead"
    (key,) = o.load("contact", {"lastname": "B"})
    made, changed = o.write(
        o.make("a", "contact", "create", lastname="A", parentcustomerid=nobody),
        o.make("b", "contact", "update", key, parentcustomerid=(nobody, None)),
    )
    for receipt in (made, changed):
        assert (receipt.outcome, receipt.kind, receipt.refused) == (
            REJECTED,
            "missing_reference",
            ("parentcustomerid",),
        )
    o.post("/delete/contact", [key])
    (receipt,) = o.write(o.make("b", "contact", "update", key, lastname=("C", "B")))
    assert receipt.outcome == MISSING


@pytest.mark.parametrize("wrong", ["Acme Ltd", "lead:00000000-0000-0000-0000-00000000dead"])
def test_what_is_no_reference_is_refused_before_it_is_sent(organisation: Make, wrong: str) -> None:
    o = organisation(PARENTS, TO_ACCOUNT)
    good, bad = o.write(
        o.make("good", "contact", "create", lastname="A"),
        o.make("bad", "contact", "create", lastname="B", parentcustomerid=wrong),
    )
    assert good.outcome == APPLIED
    assert (bad.outcome, bad.kind, bad.refused) == (REJECTED, "bad_value", ("parentcustomerid",))
    assert bad.message is not None
    assert "account" in bad.message


# ------------------------------------------------------------------------------------------------------ states

STATES = {"contact": bound("contact", "lastname", "statecode", "statuscode")}


def test_a_row_is_made_and_then_given_its_state(organisation: Make) -> None:
    """A new row is active whatever it was sent with: without a second write its state would be taken for our value's spelling."""
    o = organisation(STATES)
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A", statecode=1, statuscode=2))
    key = str(receipt.native_key)
    read = o.read("contact", key)
    assert (read.values["statecode"], read.values["statuscode"]) == (1, 2)
    assert (receipt.outcome, receipt.values, receipt.position) == (APPLIED, {}, position(*read.version))


def test_a_row_that_is_active_from_the_start_takes_one_call(organisation: Make) -> None:
    o = organisation(STATES)
    o.write(o.make("first", "contact", "create", lastname="A"))
    before = batches(o)
    o.write(o.make("a", "contact", "create", lastname="A", statecode=0, statuscode=1))
    assert batches(o) == before + 1


def test_a_row_that_was_made_before_its_answer_was_lost_gets_its_state_all_the_same(organisation: Make) -> None:
    """S13: it was made active, the second half was never sent; the repeated create sends it."""
    from tidelock.errors import Retry

    o = organisation(STATES)
    o.post("/faults", {"kind": "lost", "path": r"\$batch", "times": 1})
    make = o.make("a", "contact", "create", lastname="A", statecode=1, statuscode=2)
    with pytest.raises(Retry):
        o.write(make)
    assert o.row("contact", record("a"))["statecode"] == 0
    (receipt,) = o.write(make)
    assert (receipt.outcome, receipt.native_key) == (APPLIED, record("a"))
    assert o.read("contact", record("a")).values["statecode"] == 1


def test_a_state_is_changed_and_changed_back(organisation: Make) -> None:
    o = organisation(STATES)
    (key,) = o.load("contact", {"lastname": "A"})
    (receipt,) = o.write(o.make("a", "contact", "update", key, statecode=(1, 0), statuscode=(2, 1)))
    assert (receipt.outcome, receipt.refused) == (APPLIED, ())
    assert o.row("contact", key)["statecode"] == 1
    o.write(o.make("a", "contact", "update", key, statecode=(0, 1), statuscode=(1, 2)))
    assert o.row("contact", key)["statuscode"] == 1


def batches(o: Organisation) -> int:
    """Return how many batches were sent."""
    counts: dict[str, int] = o.control.get("/calls", params={"last": 0}).json()["counts"]
    return sum(n for what, n in counts.items() if "$batch" in what)


# ------------------------------------------------------------------------------------------------------ links


def test_a_delta_link_says_up_to_where_it_has_told() -> None:
    link = "https://o.crm.dynamics.com/api/data/v9.2/accounts?$select=name&$deltatoken=919042%2108%2f22%2f2017%2008%3a10%3a44"
    assert tracked_to(link) == 919042
    assert tracked_to("https://o.crm.dynamics.com/api/data/v9.2/accounts?$deltatoken=opaque") is None
    assert tracked_to("https://o.crm.dynamics.com/api/data/v9.2/accounts?$skiptoken=1%21x") is None
