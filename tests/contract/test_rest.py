"""Captures and sinks that the configuration describes, `rest` and `webhook`, against the contracts."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from producers.apirows import wanted
from producers.rest import RestSource
from producers.source import Source, Task
from producers.webhook import WebhookSource
from simulators.server import Running
from sinks.base import Sink
from sinks.rest import RestSink
from sinks.webhook import WebhookSink
from tests.contract.api_contract import ApiSubject, SourceContract, TargetContract, drain
from tests.loyalty import SECRET, TOKEN, Loyalty
from tests.sinking import ENTITIES, SYSTEM
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import APPLIED
from tidelock.errors import Fatal, Retry, Revoked
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry
from tidelock.signatures import SCHEMES

TABLE: dict[str, Any] = {
    "table": "members",
    "key": ["id"],
    "modified": "updated_at",
    "map": [{"column": c, "field": c} for c in ("email", "name")],
}
REST: dict[str, Any] = {
    "settle_s": 0,
    "delete_wait_s": 0,
    "limit": {"calls": 1000, "per_s": 1},
    "list": {
        "url": "{table}",
        "items": "data",
        "since": "updated_since",
        "sorted": True,
        "paging": "offset",
        "size": 100,
        "size_parameter": "limit",
    },
    "read": {"url": "{table}/{key}", "path": "member"},
    "create": {"url": "{table}", "key": "member.id", "version": "member.updated_at"},
    "update": {"url": "{table}/{key}", "version": "member.updated_at"},
    "delete": {"url": "{table}/{key}"},
    "deleted": {"path": "deleted"},
}
HOOKS: dict[str, Any] = {
    **REST,
    "create": {"url": "in", "key": "id", "version": "updated_at"},
    "update": {"url": "in", "version": "updated_at"},
    "delete": {"url": "in"},
}
PAGING = {
    "none": {"paging": "none"},
    "offset": {"paging": "offset"},
    "page": {"paging": "page"},
    "cursor": {"paging": "cursor", "next": "meta.next", "parameter": "after"},
    "link": {"paging": "link"},
}


class Programme:
    """The loyalty programme as a subject of the contracts."""

    def __init__(self, data: Path, kind: str, options: dict[str, Any], url: str, there: Loyalty) -> None:
        self.there, self.kind = there, kind
        system = {
            "kind": kind,
            "capture": kind,
            "url": url,
            "credentials": {"token": TOKEN, "hook_secret": SECRET},
            "options": options,
            "entities": {"contact": TABLE},
        }
        config = Config.model_validate(
            {
                "data": str(data),
                "systems": {
                    SYSTEM: system,
                    "crm": {"capture": "replication", "entities": {"contact": {**TABLE, "table": "contact"}}},
                },
                "entities": ENTITIES,
                "flows": [{"entity": "contact", "from": "crm", "to": SYSTEM}],
            }
        )
        self.context = Context(
            config, KafkaClients("127.0.0.1:9"), Codec(Registry("http://127.0.0.1:9")), f"sink.{SYSTEM}"
        )
        self.context.access.central = None
        self.context.access.tenants.central = None
        self.tenant = self.context.access.tenants.get(SYSTEM, "default")

    def sink(self) -> Sink:
        """Make a sink."""
        return (RestSink if self.kind == "rest" else WebhookSink)(self.context, SYSTEM)

    def source(self) -> Source:
        """Make a source."""
        return (RestSource if self.kind == "rest" else WebhookSource)(self.context, self.tenant)

    def task(self, source: Source) -> Task:
        """Return the task."""
        table = self.context.config.systems[SYSTEM].entities["contact"]
        columns = source.columns(table)
        return Task("contact", table, {n: columns[n] for n in wanted(table)})

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands there."""
        return {k: {"email": m["email"], "name": m["name"]} for k, m in self.there.members.items() if not m["deleted"]}

    def interrupted(self) -> Callable[[], None]:
        """Take the system down."""
        self.there.faults.order({"kind": "refused", "times": None})

        def restore() -> None:
            self.there.faults.clear()

        return restore

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Make members, all at one moment."""
        at = self.there.now()
        return [self.there.create(dict(p), at) for p in people]

    def edit_there(self, key: str, **values: Any) -> None:
        """Change a member."""
        self.there.edit(key, values)

    def delete_there(self, key: str) -> None:
        """Delete a member."""
        self.there.delete(key)

    def settle(self) -> None:
        """Times have µs: nothing has to settle."""

    def fault(self, **fault: Any) -> None:
        """Order a fault."""
        self.there.faults.order(fault)

    def revoke(self) -> None:
        """Take token and secret away."""
        self.there.token = self.there.secret = SECRET[:-8] + "AAAAAAA="


Make = Callable[..., Programme]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Programme] = []
    there = Loyalty()
    with Running(there) as running:

        def programme(kind: str = "rest", options: dict[str, Any] | None = None, paging: str = "offset") -> Programme:
            there.paging = paging  # type: ignore[misc]
            chosen = dict(options or (REST if kind == "rest" else HOOKS))
            if "list" in chosen:
                chosen["list"] = {**chosen["list"], **PAGING[paging]}
            made.append(Programme(tmp_path, kind, chosen, running.http, there))
            return made[-1]

        yield programme
        for one in made:
            one.context.close_access()


class TestRestSource(SourceContract):
    """`capture: rest`, with every way of paging."""

    @pytest.fixture(params=[p for p in PAGING if p != "none"])
    def subject(self, make: Make, request: pytest.FixtureRequest) -> ApiSubject:
        """Return the programme."""
        return make(paging=request.param)

    def test_a_thousand_changes_take_no_more_calls_than_pages(self, make: Make) -> None:
        subject = make()
        source = subject.source()
        task, cursor = self.begin(subject, source)
        for n in range(1000):
            subject.create_there([{"email": f"{n}@example.com"}])
        before = sum(n for name, n in subject.there.counts.items() if name.startswith("GET /members"))
        records, cursor, _ = drain(source.run(task, "poll", cursor))
        calls = sum(n for name, n in subject.there.counts.items() if name.startswith("GET /members")) - before
        assert len({r.key for r in records}) == len(records) == 1000
        assert calls <= 12, f"{calls} calls for 10 pages"
        assert drain(source.run(task, "poll", cursor))[0] == [], "at rest nothing is told again"
        source.close()

    @pytest.mark.parametrize("count", [99, 100, 101, 200])
    def test_a_last_page_that_is_just_full_is_the_last(self, make: Make, subject: ApiSubject, count: int) -> None:
        source = subject.source()
        task, cursor = self.begin(subject, source)
        for n in range(count):
            subject.create_there([{"email": f"{n}@example.com"}])
        told, cursor, pages = drain(itertools.islice(source.run(task, "poll", cursor), 10))
        assert len(told) == len({r.key for r in told}) == count
        assert pages[-1].last
        assert drain(source.run(task, "poll", cursor))[0] == []
        source.close()

    def test_a_list_without_pages_is_read_on_by_time_until_a_page_holds_one_time_only(self, make: Make) -> None:
        plain = {**REST, "list": {**REST["list"], "paging": "none"}}
        subject = make(options=plain, paging="none")
        source = subject.source()
        task, cursor = self.begin(subject, source)
        for n in range(250):
            subject.create_there([{"email": f"{n}@example.com"}])
        told, cursor, _ = drain(itertools.islice(source.run(task, "poll", cursor), 10))
        assert len({r.key for r in told}) == 250
        subject.create_there([{"email": f"{n}@example.com"} for n in range(150)])
        with pytest.raises(Fatal, match="share one time"):
            drain(source.run(task, "poll", cursor))
        source.close()

    def test_a_change_while_pages_are_read_hides_no_record(self, make: Make) -> None:
        """A record that moves to the end of the list moves the others forward: by page numbers one would be missed."""
        subject = make()
        source = subject.source()
        task, cursor = self.begin(subject, source)
        keys = [subject.create_there([{"email": f"{n}@example.com"}])[0] for n in range(250)]
        told = set()
        for n, page in enumerate(source.run(task, "poll", cursor)):
            told |= {r.key for r in page.records}
            if n < 2:
                subject.edit_there(keys[n], name="moved")
        assert told == set(keys)
        source.close()


class TestRestTarget(TargetContract):
    """`kind: rest`."""

    UNIQUE_EMAIL: ClassVar[bool] = False
    MARKS_OURS: ClassVar[bool] = False

    @pytest.fixture
    def subject(self, make: Make) -> ApiSubject:
        """Return the programme."""
        return make()


class TestWebhookTarget(TargetContract):
    """`kind: webhook`, with a receiver whose records can be read."""

    UNIQUE_EMAIL: ClassVar[bool] = False

    @pytest.fixture
    def subject(self, make: Make) -> ApiSubject:
        """Return the programme."""
        return make("webhook")


# ------------------------------------------------------------------------------------------------ special to them


def contract() -> TestWebhookTarget:
    return TestWebhookTarget()


@pytest.mark.parametrize("told", [True, False])
def test_a_delete_stands_at_the_version_that_its_answer_tells(make: Make, told: bool) -> None:
    how = {"url": "in", "version": "updated_at"} if told else {"url": "in"}
    tools, sink = contract(), make("webhook", {**HOOKS, "delete": how}).sink()
    (made,) = tools.done(sink, [tools.write("a", "create", email="a@x.example", name="A")])
    (gone,) = tools.done(sink, [tools.write("a", "delete", made.native_key, 2)])
    assert gone.outcome == APPLIED
    assert made.position is not None
    assert (gone.position is not None and gone.position > made.position) is told


def test_a_write_has_one_number_however_often_it_is_sent_and_says_who_it_is_from(make: Make) -> None:
    there = make("webhook")
    tools, sink = contract(), there.sink()
    tools.created(sink, "a")
    update = tools.write("a", "update", "m1", 2, name=("A", "a"))
    tools.done(sink, [update])
    there.edit_there("m1", name="a")
    tools.done(sink, [update])
    later = tools.write("a", "update", "m1", 3, name=("A2", "a"))
    there.edit_there("m1", name="a")
    tools.done(sink, [later])
    numbers = [c.headers["webhook-id"] for c in there.there.hooks]
    assert len(numbers) == 4
    assert numbers[1] == numbers[2]
    assert len(set(numbers)) == 3
    assert all(b'"origin":"tidelock"' in c.body and b'"canonical_id"' in c.body for c in there.there.hooks)
    for call in there.there.hooks:
        SCHEMES["standard"].verify(call, [SECRET], float(call.headers["webhook-timestamp"]))
    sink.close()


@pytest.mark.parametrize(
    ("status", "error"), [(503, Retry), (429, Retry), (302, Fatal), (410, Revoked), (401, Revoked), (403, Revoked)]
)
def test_what_a_receiver_may_answer(make: Make, status: int, error: type[Exception]) -> None:
    there = make("webhook")
    sink = there.sink()
    there.there.answers = [status] * 10
    with pytest.raises(error) as found:
        contract().done(sink, [contract().write("a", "create", email="a@x", name="a")])
    assert type(found.value) is error or issubclass(type(found.value), error)
    assert SECRET not in str(found.value)
    sink.close()


def test_without_a_way_to_read_writes_are_blind_and_without_answers_the_canonical_id_is_the_key(make: Make) -> None:
    blind = {n: v for n, v in HOOKS.items() if n not in ("read", "list", "create", "update", "delete")}
    there = make("webhook", {**blind, "create": {"url": "in", "key": ""}, "update": {"url": "in"}})
    tools, sink = contract(), there.sink()
    (receipt,) = tools.done(sink, [tools.write("a", "create", email="a@x", name="a")])
    assert receipt.native_key == "m1", "the answer holds the key where the mapping says"
    there.edit_there("m1", name="Theirs")
    (receipt,) = tools.done(sink, [tools.write("a", "update", "m1", 2, name=("A", "a"))])
    assert (receipt.refused, receipt.position) == ((), None)
    assert there.rows()["m1"]["name"] == "A"
    assert there.there.counts["GET /members/{id} 200"] == 0
    sink.close()


def test_a_comparison_of_all_keys_meets_what_is_there(make: Make) -> None:
    there = make()
    source = there.source()
    keys = there.create_there([{"name": str(n)} for n in range(150)])
    there.delete_there(keys[3])
    pages = list(source.run(there.task(source), "deletes", None))
    assert {k for p in pages for k in p.met} == set(keys) - {keys[3]}
    assert all(p.whole for p in pages)
    source.close()


def test_what_was_changed_within_the_resolution_of_its_time_waits(make: Make) -> None:
    """Two changes within one unit of time have one version: only when it is over is the state the one it stands for."""
    there = make(options={**REST, "settle_s": 86_400})
    source = there.source()
    task = there.task(source)
    today = dt.datetime.now(dt.UTC).date()
    coarse, behind = (there.there.create({"name": at}, at) for at in (f"{today}T00:00:00Z", f"{today}T00:00:00.5Z"))
    before = there.there.create({"name": "old"}, "2001-02-03T00:00:00Z")
    told, cursor, _ = drain(source.run(task, "poll", {"since": 0, "told": []}))
    assert {r.key for r in told} == {before}, (
        "what comes behind one that waits waits with it, or it would be passed over"
    )
    over = there.there.create({"name": "over"}, "2001-02-04T00:00:00Z")
    there.there.members[coarse]["updated_at"] = "2001-02-05T00:00:00Z"  # as if the day were over
    there.there.members[behind]["updated_at"] = "2001-02-05T00:00:00.5Z"
    told, _, _ = drain(source.run(task, "poll", cursor))
    assert {r.key for r in told} == {over, coarse, behind}
    source.close()


def test_what_is_not_described_is_said_with_the_option_that_is_missing(make: Make) -> None:
    there = make(options={"limit": {"calls": 100}})
    source = there.source()
    task = there.task(source)
    for doing, option in (
        (lambda: list(source.run(task, "poll", None)), "options.list"),
        (lambda: source.read(task, ["a"]), "options.read"),
    ):
        with pytest.raises(Fatal, match="cannot be") as found:
            doing()
        assert option in str(found.value)
    with pytest.raises(Fatal, match="pageing"):
        make(options={"limit": {"pageing": 3}}).source()
    source.close()
