"""The router: which way a change goes, under links that come, go and cover only a part of what was sent the long way."""

from __future__ import annotations

import io

import fastavro
import pytest
from confluent_kafka import Message

import schemas
from processors.router import Router, Source, barrier_key, read_link
from processors.store import Scope
from tidelock.envelopes import SEEDED, Entry
from tidelock.topics import Topics

LINK = fastavro.parse_schema(schemas.load("link"))
HEADER = b"\x00\x00\x00\x00\x07"
SOURCE = Source("crm", "contact", b"crm/", "links.contact", "journal.contact", "identity.contact", Topics())
NAME = b"crm/default/17"
SCOPE = ("links.contact", 2)


def change(offset: int, key: bytes | None = b"default/17", value: bytes | None = None) -> Message:
    body = HEADER + bytes(16) + offset.to_bytes(16, "big") + b"rest" if value is None else value
    return Message(
        topic="cdc.crm.contact", partition=2, offset=offset, key=key, value=body, headers=[("traceparent", b"00-1")]
    )


def link(through: int, canonical_id: str = "id-1") -> bytes:
    out = io.BytesIO(HEADER)
    out.seek(0, io.SEEK_END)
    names = {"system": "crm", "tenant": "default", "native_key": "17"}
    fastavro.schemaless_writer(out, LINK, {"canonical_id": canonical_id, "through": through, **names})
    return out.getvalue()


class Stored(dict[tuple[Scope, bytes], bytes]):
    asked = 0

    def __call__(self, scope: Scope, key: bytes) -> bytes | None:
        self.asked += 1
        return self.get((scope, key))


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def router(stored: Stored) -> Router:
    return Router({"cdc.crm.contact": SOURCE}, HEADER, stored)


def test_an_unknown_change_goes_the_long_way_with_everything_identify_needs(router: Router) -> None:
    message = change(5, b"default/a/b")
    ((topic, key, value, partition, headers),) = router.route([message])
    assert (topic, key, partition) == ("identity.contact", b"crm/default/a/b", 0)
    assert value is not None
    assert value[:5] == HEADER
    entry = Entry.decode(value)
    assert (entry.kind, entry.system, entry.tenant, entry.native_key) == ("unknown", "crm", "default", "a/b")
    assert (entry.partition, entry.offset, entry.position) == (2, 5, (5).to_bytes(16, "big"))
    assert entry.payload == message.value()
    assert headers == [("traceparent", b"00-1")]


def test_a_known_change_goes_to_the_journal_untouched(router: Router, stored: Stored) -> None:
    stored[SCOPE, NAME] = link(3)
    first, second = change(5), change(6)
    rows = router.route([first, second])
    headers = [("traceparent", b"00-1")]
    assert rows == [
        ("journal.contact", b"id-1", first.value(), -1, headers),
        ("journal.contact", b"id-1", second.value(), -1, headers),
    ]
    assert stored.asked == 1


def test_a_link_is_used_only_when_it_covers_what_was_sent_the_long_way(router: Router) -> None:
    router.route([change(5), change(6)])
    router.learn(*SCOPE, NAME, link(5))
    assert router.route([change(7)])[0][0] == "identity.contact"
    router.learn(*SCOPE, NAME, link(6))
    assert router.route([change(8)])[0][0] == "identity.contact"
    router.learn(*SCOPE, NAME, link(8))
    assert router.route([change(9)])[0][0] == "journal.contact"


def test_a_link_that_is_gone_sends_changes_the_long_way_again(router: Router, stored: Stored) -> None:
    stored[SCOPE, NAME] = link(3)
    assert router.route([change(8)])[0][0] == "journal.contact"
    del stored[SCOPE, NAME]
    router.learn(*SCOPE, NAME, None)
    assert router.route([change(9)])[0][0] == "identity.contact"
    router.learn(*SCOPE, NAME, link(9, "id-2"))
    assert router.route([change(10)])[0][:2] == ("journal.contact", b"id-2")


def test_a_partition_that_moved_is_forgotten(router: Router, stored: Stored) -> None:
    stored[SCOPE, NAME] = link(3, "old")
    assert router.route([change(8)])[0][1] == b"old"
    router.forget(SCOPE)
    stored[SCOPE, NAME] = link(4, "new")
    assert router.route([change(9)])[0][1] == b"new"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"default/1", b""),
        (b"default/1", b"{}" * 40),
        (b"default/1", HEADER + bytes(31)),
        (None, None),
        (b"", None),
        (b"no-tenant", None),
    ],
    ids=["empty", "json", "short", "nothing", "no value", "no tenant"],
)
def test_what_is_no_change_goes_to_the_dead_letters_and_the_rest_goes_on(
    router: Router, key: bytes | None, value: bytes | None
) -> None:
    bad = change(5, key, value)
    rows = router.route([bad, change(6)])
    assert [row[0] for row in rows] == ["dlq.route.crm.contact", "identity.contact"]
    assert rows[0][1:3] == (bad.key(), bad.value())
    assert router.counts["dead_letters", "crm", "contact"] == 1


def mark() -> Message:
    value = HEADER + Entry("seeded", system="crm", tenant="default", partition=2, offset=4).encode()
    return Message(topic="cdc.crm.contact", partition=2, offset=6, key=None, value=value, headers=[SEEDED])


def test_the_end_of_a_seed_is_handed_on_apart_untouched(router: Router) -> None:
    rows = router.route([change(5), mark(), change(7)])
    assert [row[0] for row in rows] == ["identity.contact"] * 2
    assert router.marks == [("identity.contact", None, mark().value(), 0, None)]
    assert not router.counts["dead_letters", "crm", "contact"]


def test_what_has_no_key_and_is_no_mark_is_a_dead_letter(router: Router) -> None:
    other = Message(topic="cdc.crm.contact", partition=2, offset=6, key=None, value=mark().value(), headers=[])
    ((topic, *_),) = router.route([other])
    assert topic == "dlq.route.crm.contact"
    assert not router.marks


def test_counts_are_per_source(router: Router, stored: Stored) -> None:
    stored[SCOPE, NAME] = link(0)
    router.route([change(1), change(2), change(3, b"default/18")])
    assert dict(router.counts) == {("routed", "crm", "contact"): 2, ("unknown", "crm", "contact"): 1}


def test_a_barrier_names_the_partition_it_asks_for(router: Router) -> None:
    topic, _, value, partition, _ = router.barrier(SOURCE, 2, "token")
    assert value is not None
    entry = Entry.decode(value)
    assert (topic, partition, entry.kind, entry.system, entry.partition, entry.keys) == (
        "identity.contact", 0, "barrier", "crm", 2, ("token",),
    )  # fmt: skip
    assert barrier_key("crm", 2) == b"barrier/crm/2"


def test_a_link_is_read_without_decoding_it() -> None:
    assert read_link(link(123456789)) == (123456789, b"id-1")
