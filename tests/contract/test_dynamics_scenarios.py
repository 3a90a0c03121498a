"""Scenarios of the design against the Dynamics 365 simulator: what goes wrong there, and what must not follow from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from sinks.dynamics import MULTIPLE
from tests.contract.dynamicsorg import Organisation, bound
from tests.sinking import record
from tidelock.apis.dynamics import Dataverse
from tidelock.apis.judging import Answer
from tidelock.change import position
from tidelock.envelopes import APPLIED, REJECTED, TAKEN
from tidelock.errors import Fatal, Retry, Revoked

TABLES = {"contact": bound("contact", "lastname", "firstname", canonical_id="td_tidelockid")}
FAMILY = {"account": bound("account", "name"), "contact": bound("contact", "lastname", "parentcustomerid")}


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(DynamicsSimulator()) as server:
        yield server


@pytest.fixture
def organisation(running: Running, tmp_path: Path) -> Iterator[Callable[..., Organisation]]:
    made: list[Organisation] = []

    def make(tables: Any = None, fields: Any = None, **more: Any) -> Organisation:
        made.append(Organisation(running, tmp_path, tables or TABLES, fields or {}, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def o(organisation: Callable[..., Organisation]) -> Organisation:
    return organisation()


def people(o: Organisation) -> dict[str, Any]:
    """Return first names by key."""
    return {r["contactid"]: r.get("firstname") for r in o.control.get("/records/contact").json()}


def calls(o: Organisation) -> int:
    """Return how many requests the Web API has had."""
    counts: dict[str, int] = o.control.get("/calls", params={"last": 0}).json()["counts"]
    return sum(n for what, n in counts.items() if "/api/data" in what)


# ------------------------------------------------------------------------------------------- the destination's troubles


def test_s9_an_environment_that_is_down_loses_nothing_and_makes_no_bad_records(
    organisation: Callable[..., Organisation],
) -> None:
    """S9: an outage is a Retry that says when; nothing is rejected, and afterwards the same writes land."""
    o = organisation()
    (key,) = o.load("contact", {"lastname": "A", "firstname": "Old"})
    o.columns("contact")
    o.post("/faults", {"kind": "unavailable", "times": None, "retry_after_s": 60})
    batch = [
        o.make("a", "contact", "update", key, firstname=("New", "Old")),
        o.make("b", "contact", "create", lastname="B", firstname="B"),
    ]
    with pytest.raises(Retry) as caught:
        o.write(*batch)
    assert caught.value.retry_after_s == 60
    assert people(o) == {key: "Old"}
    o.control.delete("/faults")
    assert [r.outcome for r in organisation().write(*batch)] == [APPLIED, APPLIED]
    assert people(o) == {key: "New", record("b"): "B"}


def test_s13_an_update_whose_answer_was_lost_is_found_to_have_landed(o: Organisation) -> None:
    """S13: the repeated write finds its own value, writes nothing, and says at which version it stands."""
    (key,) = o.load("contact", {"lastname": "A", "firstname": "Old"})
    make = o.make("a", "contact", "update", key, firstname=("New", "Old"))
    o.post("/faults", {"kind": "lost", "path": r"\$batch", "times": 1})
    with pytest.raises(Retry):
        o.write(make)
    landed = o.row("contact", key)["versionnumber"]
    (receipt,) = o.write(make)
    assert receipt.outcome == APPLIED
    assert receipt.values["firstname"] == make.columns["firstname"][0]
    assert receipt.position == position(landed, 0)
    assert o.row("contact", key)["versionnumber"] == landed


@pytest.mark.parametrize("kind", ["deadlock", "sql_timeout"])
def test_s19_one_deadlocked_row_among_many_is_tried_again_and_none_is_written_twice(o: Organisation, kind: str) -> None:
    """S19: nothing is lost, nothing becomes a dead letter, and the rows that were done are left alone."""
    keys = o.load("contact", *({"lastname": f"P{n}", "firstname": "old"} for n in range(20)))
    o.columns("contact")
    o.post("/faults", {"kind": kind, "method": "PATCH", "times": 2, "skip": 7})
    receipts = o.write(*(o.make(k, "contact", "update", k, firstname=("new", "old")) for k in keys))
    assert [r.outcome for r in receipts] == [APPLIED] * 20
    assert set(people(o).values()) == {"new"}
    updated = [w for w in o.control.get("/written").json() if w["message"] == "Update"]
    assert len(updated) == 20, "each row was written once"


def test_s19_a_row_that_never_stops_to_deadlock_holds_up_no_other(o: Organisation) -> None:
    """S19: after a few attempts it is this row's trouble, not the organisation's."""
    one, *others = o.load("contact", *({"lastname": f"P{n}", "firstname": "old"} for n in range(5)))
    o.post("/faults", {"kind": "deadlock", "path": one, "times": None})
    first, *rest = o.write(*(o.make(k, "contact", "update", k, firstname=("new", "old")) for k in (one, *others)))
    assert [r.outcome for r in rest] == [APPLIED] * 4
    assert (first.outcome, first.kind) == (REJECTED, "not_now")


def test_s19_if_nothing_can_be_written_it_is_an_outage(o: Organisation) -> None:
    keys = o.load("contact", *({"lastname": f"P{n}", "firstname": "old"} for n in range(3)))
    o.post("/faults", {"kind": "deadlock", "times": None})
    with pytest.raises(Retry):
        o.write(*(o.make(k, "contact", "update", k, firstname=("new", "old")) for k in keys))


def test_a_limit_met_within_a_batch_pauses_the_tenant_and_loses_nothing(
    o: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Service protection may refuse a part of a batch: the others stay done, the part is sent again after the pause."""
    keys = o.load("contact", *({"lastname": f"P{n}", "firstname": "old"} for n in range(3)))
    o.columns("contact")
    refusal = Answer(
        429,
        httpx.Headers({"Retry-After": "1"}),
        b'{"error": {"code": "0x80072322", "message": "Number of requests exceeded the limit of 6000."}}',
    )
    sent: list[int] = []
    batched, pauses = Dataverse._batched, list[float | None]()

    def refusing(self: Dataverse, parts: Any, name: str) -> list[Answer]:
        sent.append(len(parts))
        if len(sent) == 1:
            _, *others = parts
            done = batched(self, others, name)
            observed = self.client.limits.observed

            def noted(**told: Any) -> None:
                pauses.append(told.get("retry_after_s"))
                observed(**told)

            monkeypatch.setattr(self.client.limits, "observed", noted)
            return [refusal, *done]
        return batched(self, parts, name)

    monkeypatch.setattr(Dataverse, "_batched", refusing)
    receipts = o.write(*(o.make(k, "contact", "update", k, firstname=("new", "old")) for k in keys))
    assert [r.outcome for r in receipts] == [APPLIED] * 3
    assert sent == [3, 1]
    assert pauses == [1.0]


# ------------------------------------------------------------------------------------------- order and clocks


def test_s17_children_of_one_parent_are_written_side_by_side(organisation: Callable[..., Organisation]) -> None:
    """S17: three workers bind contacts to one account while the database breaks off every fifth of their writes."""
    workers = [organisation(FAMILY, {"parentcustomerid": {"references": "account"}}) for _ in range(3)]
    (acme,) = workers[0].load("account", {"name": "Acme"})
    workers[0].post("/faults", {"kind": "deadlock", "share": 0.2, "times": 12})
    start = threading.Barrier(3)

    def work(n: int) -> list[int]:
        o = workers[n]
        start.wait(30)
        made = [o.make(f"{n}-{i}", "contact", "create", lastname=f"{n}-{i}", parentcustomerid=acme) for i in range(20)]
        return [r.outcome for r in o.write(*made)]

    with ThreadPoolExecutor(3) as pool:
        outcomes = [outcome for listed in pool.map(work, range(3)) for outcome in listed]
    assert outcomes == [APPLIED] * 60
    children = workers[0].control.get("/records/contact").json()
    assert {r["lastname"] for r in children} == {f"{n}-{i}" for n in range(3) for i in range(20)}
    assert {r["_parentcustomerid_value"] for r in children} == {acme}


def test_s20_the_clock_there_decides_nothing(o: Organisation) -> None:
    """S20: two edits in one second, then their clock an hour ahead of ours: versions order the states, and receipts stand among them."""
    (key,) = o.load("contact", {"lastname": "A", "firstname": "0"})
    seen = [o.read("contact", key).version]
    for name in ("1", "2"):
        o.post("/edit/contact", [{"id": key, "firstname": name}])
        seen.append(o.read("contact", key).version)
    o.post("/clock", {"advance_s": 3600.0})
    (receipt,) = o.write(o.make("a", "contact", "update", key, firstname=("3", "2")))
    ours = o.read("contact", key)
    assert receipt.position == position(*ours.version)
    seen.append(ours.version)
    o.post("/edit/contact", [{"id": key, "firstname": "4"}])
    seen.append(o.read("contact", key).version)
    assert seen == sorted(set(seen))


# ------------------------------------------------------------------------------------------- deletes and sets back


def test_a_row_that_was_written_by_us_and_deleted_at_once_is_deleted_behind_our_write(o: Organisation) -> None:
    """Our write was the newest of the whole table: a delete that stood at what is left of it would be older than the receipt."""
    (key,) = o.load("contact", {"lastname": "A", "firstname": "Old"})
    task = o.task("contact")
    cursor = list(o.source.run(task, "poll", None))[-1].cursor
    (receipt,) = o.write(o.make("a", "contact", "update", key, firstname=("New", "Old")))
    o.post("/delete/contact", [key])
    before = calls(o)
    (gone,) = [r for page in o.source.run(task, "poll", cursor) for r in page.records]
    assert calls(o) - before == 1, "the delta link itself says up to where it tells"
    assert gone.deleted
    assert receipt.position is not None
    assert position(*gone.version) > receipt.position


def test_s12_an_environment_that_was_set_back_is_told_and_not_read_on(o: Organisation) -> None:
    """S12: after a restored backup a delta link from before points into the future and would tell nothing for a long time."""
    o.load("contact", {"lastname": "A"})
    task = o.task("contact")
    cursor = list(o.source.run(task, "poll", None))[-1].cursor
    head, mark, token = cursor["link"].partition("deltatoken=")
    number, bang, when = token.partition("%21")
    ahead = {**cursor, "link": f"{head}{mark}{int(number) + 1000}{bang}{when}"}
    with pytest.raises(Fatal, match="set back"):
        list(o.source.run(task, "poll", ahead))


def test_s27_a_column_that_was_dropped_there_and_from_the_mapping_does_not_stop_the_capture(
    running: Running, organisation: Callable[..., Organisation]
) -> None:
    """S27: delta links go on asking for the columns they were made with."""
    before, after = organisation(), organisation()
    before.load("contact", {"lastname": "A", "firstname": "F"})
    cursor = list(before.source.run(before.task("contact"), "poll", None))[-1].cursor
    stale = {**cursor, "link": cursor["link"].replace("firstname", "td_dropped"), "asked": "lastname,td_dropped"}
    pages = list(after.source.run(after.task("contact"), "poll", stale))
    assert [r.values["lastname"] for page in pages for r in page.records] == ["A"]
    assert all(page.whole for page in pages)
    broken = {**stale, "asked": cursor["asked"]}
    with pytest.raises(Fatal):
        list(after.source.run(after.task("contact"), "poll", broken))


# ------------------------------------------------------------------------------------------- rights


def test_s28_an_application_user_that_is_disabled_stops_its_tenant_alone(o: Organisation, running: Running) -> None:
    """S28: the directory still gives tokens, the environment takes them no more: a person has to mend it."""
    (key,) = o.load("contact", {"lastname": "A", "firstname": "Old"})
    user = running.ready["credentials"]["integration_user"]
    o.post("/users", {"id": user, "disabled": True})
    with pytest.raises(Revoked, match="disabled") as caught:
        o.write(o.make("a", "contact", "update", key, firstname=("New", "Old")))
    assert "application user" in str(caught.value.hint)
    assert running.ready["credentials"]["client_secret"] not in str(caught.value)
    with pytest.raises(Revoked):
        list(o.source.run(o.task("contact"), "poll", None))


def test_a_missing_privilege_is_no_fault_of_the_records(o: Organisation) -> None:
    """No dead letters for good records: the writes wait until somebody has given the right."""
    keys = o.load("contact", *({"lastname": f"P{n}", "firstname": "old"} for n in range(3)))
    o.columns("contact")
    o.post("/faults", {"kind": "forbidden", "method": "PATCH", "times": None})
    with pytest.raises(Fatal, match="prvWriteContact"):
        o.write(*(o.make(k, "contact", "update", k, firstname=("new", "old")) for k in keys))


def test_a_refused_delete_says_why(organisation: Callable[..., Organisation]) -> None:
    o = organisation(options={"delete_wait_s": 0})
    (key,) = o.load("contact", {"lastname": "A"})
    o.post("/faults", {"kind": "delete_restricted", "times": 1})
    (receipt,) = o.write(o.make("a", "contact", "delete", key))
    assert (receipt.outcome, receipt.kind) == (REJECTED, "referenced")


def test_a_value_of_an_alternate_key_that_another_row_holds_is_taken(o: Organisation) -> None:
    o.load("contact", {"lastname": "Holder", "td_tidelockid": record("a")})
    (receipt,) = o.write(o.make("a", "contact", "create", lastname="A"))
    assert receipt.outcome == TAKEN
    assert "td_tidelockid" in str(receipt.message)


# ------------------------------------------------------------------------------------------- cost


def test_a_thousand_changes_take_the_fewest_calls_each_way(o: Organisation) -> None:
    """Creates: two calls and three readings. Updates and deletes: three looks and two batches. Capture: one page. Webhooks: three readings."""
    o.write(o.make("first", "contact", "create", lastname="First"))
    task = o.task("contact")
    cursor = list(o.source.run(task, "poll", None))[-1].cursor

    def cost(work: Callable[[], Any]) -> int:
        before = calls(o)
        work()
        return calls(o) - before

    names = [f"w{n}" for n in range(1000)]
    assert cost(lambda: o.write(*(o.make(n, "contact", "create", lastname=n, firstname="1") for n in names))) == 5
    keys = [record(n) for n in names]
    updates = [o.make(n, "contact", "update", record(n), firstname=("2", "1")) for n in names]
    assert cost(lambda: o.write(*updates)) == 5
    assert set(people(o).values()) == {None, "2"}
    assert cost(lambda: list(o.source.run(task, "poll", cursor))) == 1
    assert cost(lambda: o.source.read(task, keys)) == 3
    assert cost(lambda: o.write(*(o.make(n, "contact", "delete", record(n)) for n in names))) == 5


def many(o: Organisation, **bad: Any) -> list[Any]:
    """Make creates for more rows than are made one by one; ``bad`` replaces columns of the seventh."""
    columns = [{"lastname": f"m{n}", "firstname": "1"} for n in range(MULTIPLE + 20)]
    columns[7] |= bad
    return [o.make(f"m{n}", "contact", "create", None, **c) for n, c in enumerate(columns)]


def told(o: Organisation, what: str) -> int:
    """Return how many calls had this in their path."""
    counts: dict[str, int] = o.control.get("/calls", params={"last": 0}).json()["counts"]
    return sum(n for path, n in counts.items() if what in path)


def test_many_rows_are_made_at_once_and_their_receipts_stand_where_they_landed(o: Organisation) -> None:
    receipts = o.write(*many(o))
    assert (told(o, "CreateMultiple"), told(o, "$batch")) == (1, 0)
    assert {r.outcome for r in receipts} == {APPLIED}
    rows = {r["contactid"]: r for r in o.control.get("/records/contact").json()}
    assert [r.position for r in receipts] == [position(rows[str(r.native_key)]["versionnumber"], 0) for r in receipts]
    assert {w["tag"] for w in o.control.get("/written").json() if w["message"] == "Create"} >= {"tidelock"}


def test_s8_one_bad_row_among_many_that_are_made_at_once_undoes_none_of_the_others(o: Organisation) -> None:
    """S8: CreateMultiple is all or nothing; each row is then sent for itself."""
    receipts = o.write(*many(o, firstname="x" * 200))
    assert (told(o, "CreateMultiple"), told(o, "$batch")) == (1, 1)
    assert [n for n, r in enumerate(receipts) if r.outcome != APPLIED] == [7]
    assert (receipts[7].kind, receipts[7].refused) == ("too_long", ("firstname",))
    assert len(people(o)) == MULTIPLE + 19


def test_s13_many_rows_whose_making_was_not_told_are_not_made_again(o: Organisation) -> None:
    """S13: the second attempt fails as a whole, since its rows are there; each of them then meets itself."""
    o.post("/faults", {"kind": "lost", "path": "CreateMultiple", "times": 1})
    batch = many(o)
    with pytest.raises(Retry):
        o.write(*batch)
    receipts = o.write(*batch)
    assert {r.outcome for r in receipts} == {APPLIED}
    assert sorted(people(o)) == sorted(str(r.native_key) for r in receipts)
    assert {r.values == {} for r in receipts} == {True}


def test_a_table_without_create_multiple_is_asked_for_it_once(o: Organisation) -> None:
    o.post("/faults", {"kind": "status", "status": 501, "path": "CreateMultiple", "times": None, "body": "{}"})
    o.write(*many(o))
    o.write(*(o.make(f"n{n}", "contact", "create", lastname=f"n{n}") for n in range(MULTIPLE)))
    assert (told(o, "CreateMultiple"), told(o, "$batch")) == (1, 2)


def test_what_is_in_a_batch_counts_for_the_day_and_the_batch_for_the_limit_of_calls(
    organisation: Callable[..., Organisation],
) -> None:
    """Service protection counts requests, the entitlement what is in them: a daily budget of eighty stops the second fifty."""
    o = organisation(options={"daily": 80, "rate": [20, 300]})
    o.columns("contact")
    batch = [o.make(f"w{n}", "contact", "create", lastname=f"w{n}") for n in range(50)]
    assert {r.outcome for r in o.write(*batch)} == {APPLIED}
    with pytest.raises(Retry, match="daily budget of 80"):
        o.write(*(o.make(f"x{n}", "contact", "create", lastname=f"x{n}") for n in range(50)))
