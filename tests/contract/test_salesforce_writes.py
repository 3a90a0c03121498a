"""Writes to Salesforce where they are difficult: rules against doubles, locks, lost answers, partial failures, positions, few calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from simulators.clock import Clock
from simulators.salesforce import SalesforceSimulator
from simulators.server import Running
from sinks.base import Outcome
from tests.contract.api_contract import drain
from tests.contract.salesforce_org import OBJECT, TABLE, SalesforceSubject
from tests.patience import until
from tests.sinking import record, write
from tidelock.apis.connecting import Connecting, vendor_of
from tidelock.apis.salesforce_access import audience, grant_of
from tidelock.apis.salesforce_bulk import cell, table
from tidelock.apis.salesforce_errors import duplicates, long_id, verdict
from tidelock.auth import ClientCredentials, JwtBearer, RefreshToken
from tidelock.change import position
from tidelock.envelopes import APPLIED, MISSING, REJECTED, TAKEN, UNSEEN_EDIT, Receipt, Write
from tidelock.errors import Fatal, Lost, Reject, Retry, Revoked

COLUMNS = {"email": "Email__c", "name": "Title__c"}


class Writer:
    """A sink of one org."""

    def __init__(self, org: SalesforceSubject) -> None:
        self.org = org
        self.sink = org.sink()
        self.sink.setup()

    def done(self, *batch: Write) -> list[Receipt]:
        """Carry out writes."""
        return [self._receipt(o) for o in self.sink.write(batch)]

    @staticmethod
    def _receipt(outcome: Outcome) -> Receipt:
        assert isinstance(outcome, Receipt)
        return outcome

    def created(self, count: int) -> list[str]:
        """Make people."""
        got = self.done(*(create(f"n{n}") for n in range(count)))
        assert {r.outcome for r in got} == {APPLIED}, got[:3]
        return [str(r.native_key) for r in got]

    def titles(self) -> dict[str, Any]:
        """Return the titles of people by key."""
        return {key: row["name"] for key, row in self.org.rows().items()}


def create(who: str, **more: Any) -> Write:
    return write(who, "create", None, 1, **{"Email__c": f"{who}@example.com", "Title__c": who, **more})


def update(who: str, key: str, version: int = 2, **columns: Any) -> Write:
    return write(who, "update", key, version, **{COLUMNS.get(n, n): v for n, v in columns.items()})


Make = Callable[..., Writer]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    open_: list[tuple[Running, Writer]] = []

    def writer(simulator: dict[str, Any] | None = None, **options: Any) -> Writer:
        running = Running(SalesforceSimulator(**{"bulk_delay_s": "0.01", **(simulator or {})}))
        running.__enter__()
        made = Writer(SalesforceSubject(running, tmp_path, **options))
        open_.append((running, made))
        return made

    yield writer
    for running, made in open_:
        made.sink.close()
        made.org.close()
        running.__exit__(None, None, None)


# ------------------------------------------------------------------------------------------------ few calls


def test_calls_per_1000_writes(make: Make) -> None:
    writer = make(simulator={})
    writer.org.counted()
    keys = writer.created(1000)
    creating = writer.org.counted()
    # One describe, 1,000 ids looked for in lists that an address can hold, 5 × 200 upserts, one read.
    assert sum(creating.values()) <= 1 + 4 + 5 + 1, creating
    writer.org.forget_calls()
    writer.done(*(update(f"n{n}", key, name=(f"N{n}", f"n{n}")) for n, key in enumerate(keys)))
    assert sum(writer.org.counted().values()) == 1 + 5 + 1, writer.org.counted()
    writer.org.forget_calls()
    writer.done(*(write(f"n{n}", "delete", key, 3) for n, key in enumerate(keys)))
    assert sum(writer.org.counted().values()) <= 5 + 3, writer.org.counted()
    assert not writer.org.rows()


def test_a_bulk_job_takes_as_many_calls_for_many_as_for_few(make: Make) -> None:
    writer = make(bulk_above=100)
    keys = writer.created(2500)
    assert len(writer.org.rows()) == 2500
    writer.org.forget_calls()
    got = writer.done(*(update(f"n{n}", key, name=(None, f"n{n}")) for n, key in enumerate(keys)))
    assert {r.outcome for r in got} == {APPLIED}
    assert set(writer.titles().values()) == {None}
    calls = writer.org.counted()
    writing = {c: n for c, n in calls.items() if "/jobs/ingest" in c and not c.startswith("GET")}
    assert sum(writing.values()) == 3, calls
    assert not [c for c in calls if c.startswith("PATCH") and "composite" in c]
    assert writer.org.control.get("/writes", params={"clients": "true", "last": 1}).json()[0]["client"] == "tidelock"


def test_an_org_that_is_only_written_to_is_not_read(make: Make) -> None:
    """The nightly push of a view: `capture: none`, one bulk job, no look and no read-back."""
    writer = make(bulk_above=100, capture="none")
    keys = writer.created(500)
    writer.org.forget_calls()
    writer.done(*(update(f"n{n}", key, name=f"N{n}") for n, key in enumerate(keys)))
    calls = writer.org.counted()
    assert not [c for c in calls if "composite" in c or "query" in c], calls
    assert set(writer.titles().values()) == {f"N{n}" for n in range(500)}


def test_our_writes_say_that_they_are_ours(make: Make) -> None:
    writer = make()
    (key,) = writer.created(1)
    (made,) = writer.org.control.get("/writes", params={"clients": "true"}).json()
    assert (made["id"], made["client"]) == (key, "tidelock")


# ------------------------------------------------------------------------------------------------ creates


@pytest.mark.parametrize("bulk_above", [0, 2000])
def test_s13_a_lost_create_makes_no_second_record_and_leaves_alone_what_was_edited_since(
    make: Make, bulk_above: int
) -> None:
    writer = make(bulk_above=bulk_above)
    path = "/jobs/ingest/[^/]+$" if bulk_above == 0 else "/Tidelock_Id__c$"
    writer.org.fault(kind="lost", method="PATCH", path=path, times=1)
    batch = [create("a"), create("b")]
    with pytest.raises(Lost):
        writer.done(*batch)
    until(lambda: len(writer.org.rows()) == 2)
    key = next(k for k, row in writer.org.rows().items() if row["name"] == "a")
    writer.org.edit_there(key, name="Edited")
    got = writer.done(*batch)
    assert [r.outcome for r in got] == [APPLIED, APPLIED]
    assert sorted(writer.titles().values()) == ["Edited", "b"]
    assert got[0].values == {}  # somebody's edit is told by capture: it is no spelling of what we wrote


def test_a_unique_value_is_answered_with_the_18_characters_of_its_holder(make: Make) -> None:
    writer = make()
    (holder,) = writer.org.create_there([{"email": "a@example.com", "name": "Holder"}])
    (got,) = writer.done(create("a"))
    assert (got.outcome, got.native_key) == (TAKEN, holder)
    assert len(holder) == 18


@pytest.mark.parametrize("spelling", ["duplicateResut", "duplicateResult"])
@pytest.mark.parametrize("action", ["alert", "block"])
def test_a_duplicate_rule_names_the_record_that_is_there(make: Make, spelling: str, action: str) -> None:
    writer = make({"duplicate_key": spelling})
    writer.org.control_post("/duplicate-rules", {"kind": OBJECT, "fields": ["Title__c"], "action": action})
    (holder,) = writer.org.create_there([{"email": "x@example.com", "name": "a"}])
    got = writer.done(create("a"), create("b"))
    assert [r.outcome for r in got] == [TAKEN, APPLIED]
    assert got[0].native_key == holder
    if action == "block":  # what a rule forbids, it forbids to a person, too
        return
    writer.org.create_there([{"email": "y@example.com", "name": "a"}])
    (two,) = writer.done(create("a"))
    assert (two.outcome, two.native_key) == (TAKEN, None), "of two, none is the one"


def test_a_rule_that_only_warns_can_be_passed(make: Make) -> None:
    writer = make(allow_duplicates=True)
    writer.org.control_post("/duplicate-rules", {"kind": OBJECT, "fields": ["Title__c"], "action": "alert"})
    writer.org.create_there([{"email": "x@example.com", "name": "a"}])
    assert [r.outcome for r in writer.done(create("a"))] == [APPLIED]


# ------------------------------------------------------------------------------------------------ locks, partial failures


@pytest.mark.parametrize("bulk_above", [0, 2000])
def test_a_locked_row_is_tried_again_within_the_batch(make: Make, bulk_above: int) -> None:
    writer = make(bulk_above=bulk_above)
    keys = writer.created(5)
    writer.org.fault(kind="lock", times=3)
    got = writer.done(*(update(f"n{n}", key, name=(f"N{n}", f"n{n}")) for n, key in enumerate(keys)))
    assert {r.outcome for r in got} == {APPLIED}
    assert set(writer.titles().values()) == {f"N{n}" for n in range(5)}


def test_a_row_that_stays_locked_holds_up_none_of_the_others(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.salesforce._LOCK_PAUSES_S", (0.01, 0.01))
    writer = make()
    keys = writer.created(3)
    writer.org.fault(kind="lock", times=3, share=1.0)
    writer.org.fault(kind="lock", times=None, skip=2)
    got = writer.done(*(update(f"n{n}", key, name=(f"N{n}", f"n{n}")) for n, key in enumerate(keys)))
    outcomes = sorted(r.outcome for r in got)
    assert outcomes == sorted([APPLIED, APPLIED, REJECTED])
    (left,) = [r for r in got if r.outcome == REJECTED]
    assert left.kind == "locked"


def test_rows_that_are_all_locked_are_an_outage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.salesforce._LOCK_PAUSES_S", (0.01, 0.01))
    writer = make()
    keys = writer.created(3)
    writer.org.fault(kind="lock", times=None)
    with pytest.raises(Retry, match="locks of all 3"):
        writer.done(*(update(f"n{n}", key, name=(f"N{n}", f"n{n}")) for n, key in enumerate(keys)))


@pytest.mark.parametrize("bulk_above", [0, 2000])
def test_one_that_fails_is_rejected_with_its_column_and_the_others_land(make: Make, bulk_above: int) -> None:
    writer = make(bulk_above=bulk_above)
    keys = writer.created(4)
    batch = [
        update("n0", keys[0], name=("x" * 81, "n0")),
        update("n1", keys[1], name=("N1", "n1")),
        update("n2", keys[2], email=("no address", "n2@example.com")),
    ]
    writer.org.delete_there(keys[3])
    got = writer.done(*batch, update("n3", keys[3], name=("N3", "n3")))
    assert [r.outcome for r in got] == [REJECTED, APPLIED, REJECTED, MISSING]
    assert (got[0].kind, got[0].refused) == ("string_too_long", ("Title__c",))
    assert got[2].refused == ("Email__c",)
    assert "x" * 81 not in str(got[0].kind)


def test_a_validation_rule_of_the_org_is_quoted(make: Make) -> None:
    writer = make()
    keys = writer.created(3)
    writer.org.fault(kind="partial", message="Titles are given by the board")
    got = writer.done(*(update(f"n{n}", key, name=(f"N{n}", f"n{n}")) for n, key in enumerate(keys)))
    assert [r.outcome for r in got] == [REJECTED, APPLIED, APPLIED]
    assert got[0].kind == "field_custom_validation_exception"
    assert "given by the board" in str(got[0].message)


def test_a_bulk_job_that_breaks_off_is_an_outage_and_the_rest_is_done_later(make: Make) -> None:
    writer = make(bulk_above=10)
    keys = writer.created(500)
    writer.org.fault(kind="bulk_fail", after=200)
    batch = [update(f"n{n}", key, name=(f"N{n}", f"n{n}")) for n, key in enumerate(keys)]
    with pytest.raises(Retry, match="ended as Failed"):
        writer.done(*batch)
    assert 0 < sum(t.startswith("N") for t in writer.titles().values()) < 500
    assert {r.outcome for r in writer.done(*batch)} == {APPLIED}
    assert set(writer.titles().values()) == {f"N{n}" for n in range(500)}


def test_a_bulk_job_that_takes_long_is_waited_for_and_not_begun_again(make: Make) -> None:
    writer = make({"bulk_delay_s": "30"}, bulk_above=10, bulk_patience_s=0)
    batch = [create(f"n{n}") for n in range(20)]
    for _ in range(3):
        with pytest.raises(Lost, match="is still"):
            writer.done(*batch)
    writer.org.advance(40.0)
    writer.org.advance(40.0)
    until(lambda: len(writer.org.rows()) == 20)
    until(lambda: writer.org.control.post("/clock", json={"advance_s": 40}) and _applied(writer, batch))
    made = [n for c, n in writer.org.calls().items() if c.startswith("POST") and c.split()[1].endswith("/jobs/ingest")]
    assert made == [1]
    assert len(writer.org.rows()) == 20


def _applied(writer: Writer, batch: list[Write]) -> bool:
    try:
        return {r.outcome for r in writer.done(*batch)} == {APPLIED}
    except Lost:
        return False


def test_a_bulk_job_that_was_never_started_is_given_up(make: Make) -> None:
    writer = make(bulk_above=10)
    batch = [create(f"n{n}") for n in range(20)]
    writer.org.fault(kind="lost", method="PUT", path="/batches$", times=None)
    with pytest.raises(Retry):
        writer.done(*batch)
    writer.org.control.delete("/faults")
    assert {r.outcome for r in writer.done(*batch)} == {APPLIED}
    assert len(writer.org.rows()) == 20


def test_a_text_that_a_csv_cannot_hold_goes_by_a_call(make: Make) -> None:
    writer = make(bulk_above=1)
    keys = writer.created(3)
    batch = [update(f"n{n}", key, name=(t, f"n{n}")) for n, (key, t) in enumerate(zip(keys, ("#N/A", 'a,"b"\nc', "", ), strict=True))]  # fmt: skip
    assert {r.outcome for r in writer.done(*batch)} == {APPLIED}
    assert [writer.titles()[k] for k in keys] == ["#N/A", 'a,"b"\nc', None]


# ------------------------------------------------------------------------------------------------ positions


def test_s22_what_the_org_reformats_is_told_with_the_receipt(make: Make) -> None:
    writer = make()
    (key,) = writer.created(1)
    (got,) = writer.done(update("n0", key, name=("  spaced  ", "n0")))
    assert got.values == {"Title__c": b"\x02\x0cspaced"}


def test_an_edit_in_the_second_of_our_write_stands_at_or_behind_it(make: Make) -> None:
    """Whole seconds: what ties with the receipt is taken for what came after, and holds both."""
    writer = make()
    (key,) = writer.created(1)
    (got,) = writer.done(update("n0", key, name=("Ours", "n0")))
    writer.org.edit_there(key, email="theirs@example.com")
    source = writer.org.source()
    task = writer.org.task(source)
    writer.org.settle()
    (read,) = source.read(task, [key])
    source.close()
    assert got.position is not None
    assert position(*read.version) >= got.position
    assert read.values["Title__c"] == "Ours"
    assert not read.ours


def test_an_edit_between_the_write_and_the_read_back_does_not_move_the_receipt(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    (key,) = writer.created(1)
    writer.org.advance(5.0)
    target = writer.sink._targets["default"][1]  # type: ignore[attr-defined]
    send = target._collection

    def late(*given: Any) -> Any:
        out = send(*given)
        at.append(writer.org.control.get("/clock").json()["now"])
        writer.org.advance(10.0)
        writer.org.edit_there(key, email="theirs@example.com")
        return out

    at: list[float] = []
    monkeypatch.setattr(target, "_collection", late)
    (got,) = writer.done(update("n0", key, name=("Ours", "n0")))
    assert got.position is not None
    assert got.position <= position(int(at[0]) * 1_000_000, 0), "the capture may have met the write before the edit"
    assert got.values == {}, "what stands there now is not how our value was spelt"


def test_a_deletes_receipt_stands_where_the_capture_meets_it(make: Make) -> None:
    writer = make()
    (key,) = writer.created(1)
    source = writer.org.source()
    task = writer.org.task(source)
    writer.org.settle()
    _, cursor, _ = drain(source.run(task, "poll", None))
    (got,) = writer.done(write("n0", "delete", key, 2))
    writer.org.settle()
    told, _, _ = drain(source.run(task, "poll", cursor))
    source.close()
    (gone,) = [r for r in told if r.deleted]
    assert position(*gone.version) == got.position


@pytest.mark.parametrize("off_s", [-7200.0, 7200.0])
@pytest.mark.parametrize("changes", ["updated", "query"])
def test_s20_a_delete_waits_for_fresh_edits_by_the_clock_of_the_org(
    make: Make, monkeypatch: pytest.MonkeyPatch, off_s: float, changes: str
) -> None:
    now = Clock.now
    monkeypatch.setattr(Clock, "now", lambda self: now(self) + off_s)
    writer = make(table={**TABLE, "every_s": 1.0}, changes=changes, delete_wait_s=None)
    a, b = writer.created(2)
    writer.org.edit_there(a, name="Theirs")
    writer.org.advance(60.0)  # a window of whole minutes may not have told of it yet; a query has
    got = writer.done(write("n0", "delete", a, 2), write("n1", "delete", b, 2))
    assert got[1].outcome == APPLIED
    assert (got[0].kind == UNSEEN_EDIT) is (changes == "updated")
    writer.org.advance(120.0)
    assert writer.done(write("n0", "delete", a, 3))[0].outcome == APPLIED


def test_a_value_is_written_as_its_column_is_typed(make: Make) -> None:
    columns = {"Amount": "12345678901.25", "CloseDate": "2026-12-24", "IsPrivate": True, "Probability": "40"}
    writer = make(table={"table": "Opportunity", "canonical_id": "Tidelock_Id__c",
                         "map": [{"column": c, "field": "name"} for c in columns]})  # fmt: skip
    (key,) = writer.org.load("Opportunity", [{"Name": "O", "StageName": "Prospecting", "CloseDate": "2026-12-01"}])
    bases: dict[str, Any] = {"Amount": None, "CloseDate": "2026-12-01", "IsPrivate": False, "Probability": None}
    (got,) = writer.done(write("o", "update", key, 2, **{n: (v, bases[n]) for n, v in columns.items()}))  # type: ignore[arg-type]
    assert (got.outcome, got.refused) in ((APPLIED, ()), (APPLIED, ("CloseDate",))), got
    (held,) = writer.org.held("Opportunity")
    assert held["Amount"] == 12345678901.25
    assert held["IsPrivate"] is True
    assert held["Probability"] == 40.0


# ------------------------------------------------------------------------------------------------ troubles


def test_s9_calls_of_the_day_that_are_used_up_pause_everything_for_long(make: Make) -> None:
    writer = make()
    keys = writer.created(2)
    writer.org.fault(kind="limit", times=None)
    with pytest.raises(Retry) as found:
        writer.done(update("n0", keys[0], name=("N0", "n0")))
    assert found.value.retry_after_s is not None
    assert found.value.retry_after_s >= 300


def test_the_daily_budget_is_what_the_org_says_and_a_part_of_it_is_kept(make: Make) -> None:
    writer = make({"daily_limit": "60"})
    with pytest.raises(Retry, match="daily budget"):
        for n in range(60):
            writer.done(create(f"d{n}"))
    used = sum(writer.org.counted().values())
    assert 40 <= used <= 54, "a tenth is kept for people"


def test_s28_a_user_whose_grants_were_ended_is_revoked_and_no_secret_is_told(make: Make) -> None:
    writer = make()
    keys = writer.created(1)
    writer.org.revoke()
    with pytest.raises(Revoked) as found:
        writer.done(update("n0", keys[0], name=("N0", "n0")))
    for secret in writer.org.tenant.credentials.values():
        assert secret not in str(found.value) or secret == writer.org.tenant.credentials["client_id"]


@pytest.mark.parametrize("kind", ["disabled", "forbidden"])
def test_a_right_that_is_missing_is_said_and_is_no_bad_record(make: Make, kind: str) -> None:
    writer = make()
    keys = writer.created(1)
    writer.org.fault(kind=kind, method="PATCH")
    with pytest.raises(Fatal, match="403") as found:
        writer.done(update("n0", keys[0], name=("N0", "n0")))
    assert "permission" in str(found.value)


# ------------------------------------------------------------------------------------------------ parts


def test_ids_have_18_characters() -> None:
    assert long_id("001U000001c83gK") == "001U000001c83gKIAQ"
    assert long_id("001U000001c83gKIAQ") == "001U000001c83gKIAQ"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("DUPLICATE_VALUE", "duplicate value found: Ext__c duplicates value on record with id: 001U000001c83gK", (True, "001U000001c83gKIAQ")),
        ("DUPLICATE_VALUE", "duplicate value found: <unknown> duplicates value on record with id: <unknown>", (True, None)),
        ("STRING_TOO_LONG", "Title: data value too large", (False, None)),
    ],
)  # fmt: skip
def test_verdicts(code: str, message: str, expected: tuple[bool, str | None]) -> None:
    found = verdict([{"statusCode": code, "message": message, "fields": []}], {})
    assert (found.taken, found.holder) == expected


def test_a_reference_to_a_record_that_is_gone_does_not_mean_that_the_record_is() -> None:
    own = verdict([{"statusCode": "INVALID_CROSS_REFERENCE_KEY", "message": "invalid cross reference id"}], {})
    other = verdict(
        [{"statusCode": "INVALID_CROSS_REFERENCE_KEY", "message": "invalid", "fields": ["AccountId"]}], {"AccountId"}
    )
    assert own.gone
    assert not other.gone
    assert other.error.field == "AccountId"
    assert duplicates({}) == []


def test_cells_of_a_csv() -> None:
    assert [cell(v) for v in (None, "", True, Decimal("1.50"), 3, "x")] == ["#N/A", "#N/A", "true", "1.50", "3", "x"]
    assert table(b'"a","b"\n"1",""\n') == [{"a": "1", "b": None}]


# ------------------------------------------------------------------------------------------------ signing in


def test_the_grant_is_the_one_that_the_credentials_are_for(make: Make) -> None:
    kinds: Sequence[tuple[str, type]] = (
        ("refresh_token", RefreshToken), ("client_credentials", ClientCredentials), ("jwt", JwtBearer),
    )  # fmt: skip
    for grant, kind in kinds:
        assert isinstance(grant_of(make(grant=grant).org.tenant), kind)
    with pytest.raises(Fatal, match="secret_in"):
        grant_of(make(secret_in="head").org.tenant)


def test_an_assertion_is_for_the_common_host(make: Make) -> None:
    from dataclasses import replace

    tenant = make().org.tenant
    assert audience(tenant) == "https://login.salesforce.com"
    assert audience(replace(tenant, url="https://acme--uat.sandbox.my.salesforce.com")) == "https://test.salesforce.com"


def test_a_person_connects_an_org(make: Make) -> None:
    import httpx

    from tidelock.apis.connecting import query_of

    writer = make()
    spec = writer.org.context.config.systems[writer.org.tenant.system]
    signing = Connecting(writer.org.tenant, vendor_of(spec), "http://localhost:8765/callback")
    with httpx.Client(follow_redirects=False) as browser:
        answer = browser.get(signing.url)
    assert answer.status_code == 302, answer.text
    kept = signing.finish(query_of(answer.headers["location"]))
    assert set(kept) == {"refresh_token"}


def test_without_a_canonical_id_creates_are_made_all_the_same(make: Make) -> None:
    writer = make(table={k: v for k, v in TABLE.items() if k != "canonical_id"})
    got = writer.done(create("a"), create("b"))
    assert {r.outcome for r in got} == {APPLIED}
    assert {r.canonical_id for r in got} == {record("a"), record("b")}


def test_a_canonical_id_that_finds_no_records_is_said_before_anything_is_written(make: Make) -> None:
    writer = make(table={**TABLE, "canonical_id": "Title__c"})
    with pytest.raises(Fatal, match="is no external id") as found:
        writer.done(create("a"))
    assert "External ID" in str(found.value)
    assert not writer.org.rows()


def test_a_bulk_job_that_is_refused_as_such_makes_no_dead_letters(make: Make) -> None:
    writer = make(bulk_above=1)
    target = writer.org.sink().target(writer.org.context, writer.org.tenant)  # type: ignore[attr-defined]
    try:
        with pytest.raises(Fatal, match="refuses the job"):
            target._bulk.run(OBJECT, "update", "Id", [{"Id": "a00000000000000AAA", "Gone__c": "x"}])
        with pytest.raises(Fatal, match="refuses the job"):
            target._bulk.run(OBJECT, "upsert", "Title__c", [{"Title__c": "x"}])
    finally:
        target.close()


def test_a_rejected_call_names_what_was_wrong(make: Make) -> None:
    writer = make()
    with pytest.raises((Reject, Fatal)) as found:
        writer.done(write("a", "create", None, 1, Nothing__c="x"))
    assert "Nothing__c" in str(found.value)
