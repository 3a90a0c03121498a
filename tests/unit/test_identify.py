"""The identify stage by bytes: entries in, journal entries, links, creates, dead letters and alerts out."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from processors.identify import IdentifyStage
from processors.identity_rows import Key, Native, Place, Record, Sight
from processors.identity_rules import NAMESPACE, canonical_id
from tidelock.avro import NULL, FieldType, decode_bytes, encode_slice
from tidelock.change import CREATE, DELETE, Column, event_id, key_digest, position
from tidelock.codec import Codec
from tidelock.context import Context
from tidelock.envelopes import APPLIED, REJECTED, TAKEN, Entry, Receipt, Receipts
from tidelock.kafka import murmur2_partition
from tidelock.topics import Topics

COLUMNS = (
    Column("id", FieldType.INTEGER, key=True),
    Column("email", FieldType.STRING),
    Column("phone", FieldType.STRING),
    Column("hub_id", FieldType.STRING),
)
TOPIC = "identity.contact"
PARTITIONS = 4


class Registry:
    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {}
        self.numbers: dict[str, int] = {}

    def register(self, subject: str, schema: Any) -> int:
        number = self.numbers.setdefault(f"{subject} {schema}", len(self.numbers) + 1)
        self.schemas[number] = schema
        return number

    def schema(self, number: int) -> Any:
        return self.schemas[number]


class State:
    """An overlay in memory; `commit` and `abort` as the engine does them."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}
        self.new: dict[bytes, bytes | None] = {}

    def load(self, topic: str, partition: int, keys: Iterable[bytes]) -> Mapping[bytes, bytes | None]:
        return {key: self.get(topic, partition, key) for key in keys}

    def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        return self.new[key] if key in self.new else self.stored.get(key)

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        self.new[key] = value

    def update(self, topic: str, partition: int, changes: Mapping[bytes, bytes | None]) -> None:
        self.new.update(changes)

    def scan(self, topic: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        merged = {**self.stored, **self.new}
        yield from sorted((k, v) for k, v in merged.items() if k.startswith(prefix) and v is not None)

    def commit(self) -> None:
        for key, value in self.new.items():
            if value is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = value
        self.new = {}


class Message:
    def __init__(self, value: bytes | None, headers: list[tuple[str, bytes]] | None = None) -> None:
        self._value, self._headers = value, headers

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, 1


class _Reader:
    """Columns e-mail and phone as they are."""

    positions = (1, 2)
    identity = (True, True)

    def read(self, index: int, raws: Sequence[bytes]) -> tuple[bytes, ...]:
        return tuple(raws)


def plan(ambiguous: str = "quarantine", external: str | None = None) -> Any:
    def system(name: str, captured: bool = True) -> SimpleNamespace:
        bindings = [SimpleNamespace(index=i, fields=(i,), columns=(i,), reads=True) for i in range(2)]
        return SimpleNamespace(
            system=name, tenant="default", captured=captured, bindings=bindings, columns=("email", "phone"),
            external_id=external, reader=lambda columns: _Reader(), when=None, given=(),
        )  # fmt: skip

    systems = {s.system: s for s in (system("crm"), system("erp"), system("store", captured=False))}

    def match_keys(golden: Sequence[bytes]) -> tuple[str, ...]:
        return tuple(f"{i}:{decode_bytes(v, 1)[0].decode()}" if v != NULL else "" for i, v in enumerate(golden))

    return SimpleNamespace(
        name="contact", systems=systems, places={f"{s}/default": p for s, p in systems.items()}, fields=("email", "phone"), field_index={"email": 0, "phone": 1},
        spec=SimpleNamespace(match=(("email",), ("phone",)), ambiguous=ambiguous), match_keys=match_keys, match_fields=frozenset((0, 1)),
        into=lambda to: [SimpleNamespace(create=True)], reaches=lambda a, b: True,
    )  # fmt: skip


class Bench:
    """One stage, its state, and shorthands for what goes in and comes out."""

    def __init__(self, ambiguous: str = "quarantine", external: str | None = None, *, seeded: bool = True) -> None:
        self.codec = Codec(cast("Any", Registry()))
        config = SimpleNamespace(prefix="", partitions=PARTITIONS)
        context = SimpleNamespace(
            config=config, codec=self.codec, topics=Topics(), activity=SimpleNamespace(count=lambda *a: None)
        )
        self.context = cast("Context", context)
        self.plans = {"contact": plan(ambiguous, external)}
        self.stage = IdentifyStage(self.context, self.plans)
        self.state = State()
        self.offset = 0
        self.header = self.codec.header("entry")
        self.fed: list[Message] = []
        if seeded:
            self.put(*(self.mark(system, p) for system in ("crm", "erp") for p in range(PARTITIONS)))

    def mark(self, system: str, partition: int) -> Entry:
        return Entry("seeded", system=system, tenant="default", partition=partition, offset=PARTITIONS)

    def change(
        self, system: str, key: str, at: int, email: str | None, phone: str | None = None, ext: str | None = None,
        *, gone: bool = False,
    ) -> bytes:  # fmt: skip
        writer = self.codec.change_writer(f"cdc.{system}.contact", system, "default", "contact", COLUMNS)
        pos = position(at)
        text = FieldType.STRING
        row = [
            encode_slice(FieldType.INTEGER, 1), encode_slice(text, email), encode_slice(text, phone), encode_slice(text, ext)
        ]  # fmt: skip
        event = event_id(key_digest(system, "default", "contact", key), pos)
        return writer.write(event, pos, DELETE if gone else CREATE, 10, 20 + at, key.encode(), None if gone else row)

    def unknown(self, system: str, key: str, payload: bytes) -> Entry:
        self.offset += 1
        part = murmur2_partition(f"default/{key}".encode(), PARTITIONS)
        return Entry("unknown", "", system, "default", key, payload[21:37], part, self.offset, payload=payload)

    def created(self, cid: str, system: str, key: str, outcome: int = APPLIED, kind: str | None = None) -> Entry:
        item = Receipt(cid, 1, outcome, key, position(1), kind=kind)
        pack = Receipts(system, "default", "contact", 5, [item]).encode()
        return Entry("created", cid, system, "default", key, position(1), payload=self.codec.header("receipts") + pack)

    def put(self, *entries: Entry, headers: list[tuple[str, bytes]] | None = None) -> list[Any]:
        messages = [Message(self.header + e.encode(), headers) for e in entries]
        self.fed += messages
        rows = list(self.stage.process(cast("Any", messages), self.state))
        self.state.commit()
        self.stage.applied()
        return rows

    def new(self, system: str, key: str, email: str | None, **more: Any) -> list[Any]:
        return self.put(self.unknown(system, key, self.change(system, key, 1, email, **more)))


def of(rows: Iterable[Any], topic: str) -> list[Any]:
    return [r for r in rows if r[0] == topic]


def entry(row: Any) -> Entry:
    return Entry.decode(row[2])


def first_id(system: str, key: str, made: int = 0) -> str:
    return canonical_id("contact", f"{system}/default", key, made)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_new_record_gets_an_id_a_link_and_leave_to_be_created_elsewhere(bench: Bench) -> None:
    payload = bench.change("crm", "17", 1, "ann@example.org")
    rows = bench.put(bench.unknown("crm", "17", payload), headers=[("traceparent", b"x")])
    cid = first_id("crm", "17")
    journal, link = rows
    assert journal[:2] == ("journal.contact", cid.encode())
    assert journal[4] == [("traceparent", b"x")]
    e = entry(journal)
    assert (e.kind, e.canonical_id, e.system, e.tenant, e.native_key) == ("linked", cid, "crm", "default", "17")
    assert (e.position, e.offset, e.keys, e.payload) == (position(1), 1, ("erp/default",), payload)
    assert link[:2] == ("links.contact", b"crm/default/17")
    assert link[3] == murmur2_partition(b"default/17", PARTITIONS)
    assert bench.codec.decode(link[2]) == {
        "canonical_id": cid, "system": "crm", "tenant": "default", "native_key": "17", "through": 1
    }  # fmt: skip


@pytest.mark.parametrize("made", [0, 3])
def test_ids_are_uuid5_of_the_native_name(made: int) -> None:
    name = "contact\x1fcrm\x1fdefault\x1f17" + (f"#{made}" if made else "")
    assert canonical_id("contact", "crm/default", "17", made) == str(uuid.uuid5(uuid.UUID(bytes=NAMESPACE), name))


def test_a_change_sent_twice_is_passed_on_and_changes_nothing(bench: Bench) -> None:
    payload = bench.change("crm", "17", 1, "ann@example.org")
    sent = bench.unknown("crm", "17", payload)
    bench.put(sent)
    journal, link = bench.put(sent)
    assert journal[1:3] == (first_id("crm", "17").encode(), payload)
    assert bench.codec.decode(link[2])["through"] == 1
    later = bench.change("crm", "17", 2, "ann@example.org")
    journal, link = bench.put(bench.unknown("crm", "17", later))
    assert journal[2] == later
    assert bench.codec.decode(link[2])["through"] == 2


def test_what_may_be_our_create_waits_for_its_fate_and_then_goes_to_its_record(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    ours = bench.change("erp", "900", 1, "ann@example.org")
    theirs = bench.change("erp", "901", 1, "bob@example.org")
    assert bench.put(bench.unknown("erp", "900", ours), bench.unknown("erp", "901", theirs)) == []
    receipt = bench.created(cid, "erp", "900")
    rows = bench.put(receipt)
    journal = of(rows, "journal.contact")
    assert [r[2] for r in journal[:2]] == [receipt.payload, ours]
    assert entry(journal[2]).canonical_id == first_id("erp", "901")
    links = {r[1]: bench.codec.decode(r[2]) for r in of(rows, "links.contact")}
    assert links[b"erp/default/900"]["canonical_id"] == cid
    assert links[b"erp/default/900"]["through"] == 2
    assert bench.put(receipt) == []


def test_a_create_that_is_not_wanted_frees_its_place_for_the_record_that_is_there(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.new("erp", "900", "ann@example.org")
    cid = first_id("crm", "17")
    rows = bench.put(Entry("release", cid, "erp", "default"))
    e = entry(of(rows, "journal.contact")[0])
    assert (e.kind, e.canonical_id, e.native_key, e.keys) == ("linked", cid, "900", ())


def test_the_link_of_a_create_goes_where_capture_will_write_its_changes(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    rows = bench.put(bench.created(first_id("crm", "17"), "erp", "900"))
    (link,) = of(rows, "links.contact")
    assert link[3] == murmur2_partition(b"default/900", PARTITIONS)
    assert bench.codec.decode(link[2])["through"] == -1


def test_a_refused_create_is_parked_and_tried_again_when_the_holder_moves(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    bench.put(Entry("release", cid, "erp", "default"))
    bench.new("erp", "900", "zoe@example.org")
    other = first_id("erp", "900")
    write = b"a write as merge made it"
    rows = bench.put(Entry("create", cid, "erp", "default", keys=("0:ann@example.org",), payload=write))
    assert rows == [("sync.erp.contact", cid.encode(), write, -1, None)]
    taken = bench.created(cid, "erp", "900", TAKEN)
    (park,) = bench.put(taken)
    e = entry(park)
    assert (e.kind, e.system, e.native_key, e.keys, e.payload) == ("park", "erp", "900", ("taken",), taken.payload)
    rows = bench.put(Entry("left", other, "erp", "default", "900", position(9)))
    assert [(entry(r).kind, entry(r).canonical_id) for r in of(rows, "journal.contact")] == [("retry", cid)]
    assert of(rows, "links.contact")[0][2] is None


def test_a_rejected_create_is_parked_with_its_reason_and_nothing_wakes_it(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    (park,) = bench.put(bench.created(cid, "erp", "", REJECTED, "too_long"))
    assert entry(park).keys == ("too_long",)
    assert bench.put(Entry("keys", cid, keys=("0:other@example.org",))) == []


def test_a_create_is_not_allowed_where_the_record_has_a_copy_or_after_its_death(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    ask = Entry("create", cid, "crm", "default", payload=b"w")
    assert [entry(r).kind for r in bench.put(ask)] == ["no_create"]
    bench.put(Entry("release", cid, "erp", "default"), Entry("dying", cid))
    assert [entry(r).kind for r in bench.put(Entry("create", cid, "erp", "default", payload=b"w"))] == ["no_create"]


def test_an_ambiguous_duplicate_is_kept_aside_told_once_and_linked_when_its_rival_leaves(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    payload = bench.change("crm", "18", 1, "ann@example.org")
    dead, alert = bench.put(bench.unknown("crm", "18", payload))
    assert dead[:3] == ("dlq.identify.crm.contact", b"default/18", payload)
    headers = dict(dead[4])
    assert headers["dlq.kind"] == b"ambiguous_match"
    assert b"crm/default/18" in headers["dlq.message"]
    assert cid.encode() in headers["dlq.message"]
    told = bench.codec.decode(alert[2])
    assert (alert[0], told["kind"], told["system"], told["subject"]) == ("ops.alerts", "ambiguous_match", "crm", "18")
    newer = bench.change("crm", "18", 2, "ann@example.org", "555")
    assert bench.put(bench.unknown("crm", "18", newer)) == []
    rows = bench.put(Entry("left", cid, "crm", "default", "17", position(9)))
    linked = entry(of(rows, "journal.contact")[0])
    assert (linked.kind, linked.canonical_id, linked.native_key, linked.payload) == ("linked", cid, "18", newer)


def test_several_records_with_the_key_are_ambiguous_until_one_is_left(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.new("crm", "18", "bob@example.org")
    one, two = first_id("crm", "17"), first_id("crm", "18")
    bench.put(Entry("keys", two, keys=("0:ann@example.org",)))
    for cid in (one, two):
        bench.put(Entry("release", cid, "erp", "default"))
    dead, _ = bench.new("erp", "900", "ann@example.org")
    assert one in dict(dead[4])["dlq.message"].decode()
    assert two in dict(dead[4])["dlq.message"].decode()
    rows = bench.put(Entry("keys", one, keys=("0:anna@example.org",)))
    assert entry(of(rows, "journal.contact")[0]).canonical_id == two


def test_separate_makes_a_record_of_its_own_that_does_not_take_the_key() -> None:
    bench = Bench("separate")
    bench.new("crm", "17", "ann@example.org")
    rows = bench.new("crm", "18", "ann@example.org")
    assert entry(rows[0]).canonical_id == first_id("crm", "18")
    bench.put(
        Entry("release", first_id("crm", "17"), "erp", "default"),
        Entry("release", first_id("crm", "18"), "erp", "default"),
    )
    rows = bench.new("erp", "900", "ann@example.org")
    assert entry(rows[0]).canonical_id == first_id("crm", "17")


def test_merge_by_opt_in_makes_one_of_several_records_that_have_no_place_in_common() -> None:
    bench = Bench("merge")
    bench.new("crm", "17", "ann@example.org")
    bench.put(Entry("release", first_id("crm", "17"), "erp", "default"))
    bench.new("crm", "18", "bob@example.org")
    bench.put(Entry("release", first_id("crm", "18"), "erp", "default"))
    bench.put(Entry("keys", first_id("crm", "18"), keys=("0:ann@example.org",)))
    rows = bench.new("erp", "900", "ann@example.org")
    assert of(rows, "dlq.identify.erp.contact"), "two copies in crm cannot become one"
    rows = bench.put(Entry("left", first_id("crm", "17"), "crm", "default", "17", position(9)))
    winner, loser = sorted([first_id("crm", "17"), first_id("crm", "18")])
    told = [(entry(r).kind, entry(r).canonical_id) for r in of(rows, "journal.contact")]
    assert told == [("merge", loser), ("linked", winner)]


def test_the_key_that_stands_first_decides_and_a_contradiction_is_told(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org", phone="1")
    bench.new("crm", "18", "bob@example.org", phone="2")
    for key in ("17", "18"):
        bench.put(Entry("release", first_id("crm", key), "erp", "default"))
    rows = bench.new("erp", "900", "ann@example.org", phone="2")
    assert entry(of(rows, "journal.contact")[0]).canonical_id == first_id("crm", "17")
    (alert,) = of(rows, "ops.alerts")
    told = bench.codec.decode(alert[2])
    assert told["kind"] == "match_conflict"
    assert first_id("crm", "18") in told["message"]


def test_a_record_that_carries_our_id_is_linked_whatever_its_keys_say() -> None:
    bench = Bench(external="hub_id")
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    assert bench.new("erp", "900", "other@example.org", ext=cid) == [], "it waits for the create that it seems to be"
    rows = bench.put(Entry("release", cid, "erp", "default"))
    assert entry(of(rows, "journal.contact")[0]).canonical_id == cid
    rows = bench.new("erp", "901", "new@example.org")
    assert entry(rows[0]).canonical_id == first_id("erp", "901"), "what shows that it is not ours does not wait"


def test_what_has_left_is_not_revived_by_late_changes_but_its_key_may_be_used_again(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    bench.put(
        Entry("release", cid, "erp", "default"),
        Entry("left", cid, "crm", "default", "17", position(5)),
        Entry("dying", cid),
    )
    late = bench.put(bench.unknown("crm", "17", bench.change("crm", "17", 4, "ann@example.org")))
    assert [(r[0], r[2]) for r in late] == [("links.contact", None)]
    again = bench.put(bench.unknown("crm", "17", bench.change("crm", "17", 6, "ann@example.org")))
    assert entry(again[0]).canonical_id == first_id("crm", "17", 1) != cid


def test_a_delete_of_an_unknown_record_leaves_a_tombstone(bench: Bench) -> None:
    assert bench.put(bench.unknown("crm", "17", bench.change("crm", "17", 5, None, gone=True))) == []
    late = bench.put(bench.unknown("crm", "17", bench.change("crm", "17", 4, "ann@example.org")))
    assert [r[0] for r in late] == ["links.contact"]


def test_a_bounced_change_finds_its_record_anew(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    cid = first_id("crm", "17")
    payload = bench.change("crm", "17", 2, "new@example.org")
    bounce = Entry("bounce", cid, "crm", "default", "17", position(2), payload=payload)
    assert [r[2] for r in of(bench.put(bounce), "journal.contact")] == [payload], "a living record gets it back"
    bench.put(Entry("dying", cid))
    rows = bench.put(Entry("bounce", cid, "crm", "default", "17", position(2), payload=payload))
    links = of(rows, "links.contact")
    assert links[0][2] is None
    assert entry(of(rows, "journal.contact")[0]).canonical_id == first_id("crm", "17", 1)
    assert bench.codec.decode(links[1][2])["through"] == 1, "a bounced change has no place in cdc of its own"


def test_a_barrier_is_answered_in_the_links_of_its_partition(bench: Bench) -> None:
    rows = bench.put(Entry("barrier", system="crm", partition=3, keys=("token",)))
    ((topic, key, value, partition, _),) = rows
    assert (topic, key, partition) == ("links.contact", b"barrier/crm/3", 3)
    assert bench.codec.decode(value)["canonical_id"] == "token"


def test_persons_link_unlink_split_and_merge(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.new("crm", "18", "ann@example.org")
    one = first_id("crm", "17")
    (unlink,) = bench.put(Entry("unlink", one, "crm", "default", "17"))
    assert (entry(unlink).kind, entry(unlink).native_key) == ("unlink", "17")
    rows = bench.put(
        Entry(
            "bounce", one, "crm", "default", "17", position(1), payload=bench.change("crm", "17", 1, "ann@example.org")
        )
    )
    assert dict(of(rows, "dlq.identify.crm.contact")[0][4])["dlq.kind"] == b"unlinked"
    assert entry(of(rows, "journal.contact")[0]).native_key == "18", "its rival takes its place"
    rows = bench.put(Entry("split", one, "crm", "default", "17"))
    two = first_id("crm", "17", 1)
    assert (entry(rows[0]).kind, entry(rows[0]).canonical_id) == ("linked", two)
    rows = bench.put(Entry("merge", two, keys=(one,)))
    assert [(entry(r).kind, entry(r).canonical_id, entry(r).keys) for r in rows] == [("merge", one, (two,))]
    rows = bench.put(
        Entry(
            "bounce", one, "crm", "default", "18", position(1), payload=bench.change("crm", "18", 1, "ann@example.org")
        )
    )
    assert of(rows, "dlq.identify.crm.contact"), "the winner has a copy there already"
    rows = bench.put(Entry("left", two, "crm", "default", "17", position(9)))
    assert (entry(of(rows, "journal.contact")[0]).canonical_id, entry(of(rows, "journal.contact")[0]).native_key) == (
        two,
        "18",
    )


def test_systems_without_capture_are_neither_granted_nor_listened_to(bench: Bench) -> None:
    rows = bench.new("crm", "17", "ann@example.org")
    assert entry(rows[0]).keys == ("erp/default",)


def test_one_bad_entry_stops_nothing_else(bench: Bench) -> None:
    good = bench.unknown("crm", "17", bench.change("crm", "17", 1, "ann@example.org"))
    bad = bench.unknown("crm", "18", bench.change("crm", "18", 1, "bob@example.org")[:45])
    alien = bench.unknown("fax", "1", bench.change("crm", "1", 1, "x@example.org"))
    odd = Entry("whatever", "x")
    messages = [Message(bench.header + e.encode()) for e in (bad, alien, odd, good)] + [
        Message(b"no Avro"),
        Message(None),
    ]
    rows = list(bench.stage.process(cast("Any", messages), bench.state))
    assert len([r for r in rows if r[0].startswith("dlq.identify.")]) == 5
    assert [entry(r).native_key for r in of(rows, "journal.contact")] == ["17"]


def _busy(bench: Bench) -> list[Any]:
    one = first_id("crm", "17")
    entries = [
        bench.unknown("crm", "17", bench.change("crm", "17", 1, "ann@example.org")),
        bench.unknown("crm", "18", bench.change("crm", "18", 1, "ann@example.org")),
        bench.unknown("erp", "900", bench.change("erp", "900", 1, "ann@example.org")),
        bench.unknown("erp", "901", bench.change("erp", "901", 1, "bob@example.org", "1")),
        bench.created(one, "erp", "900"),
        Entry("keys", one, keys=("0:anna@example.org",)),
        bench.unknown("crm", "17", bench.change("crm", "17", 2, "anna@example.org")),
        Entry("left", one, "crm", "default", "17", position(9)),
        Entry("dying", one),
    ]
    return [Message(bench.header + e.encode()) for e in entries]


def test_batches_aborts_and_restarts_change_no_byte(bench: Bench) -> None:
    messages = _busy(bench)
    whole = list(bench.stage.process(cast("Any", messages), bench.state))
    assert len(whole) > 10
    bench.state.new = {}
    bench.stage.forget()
    assert list(bench.stage.process(cast("Any", messages), bench.state)) == whole
    bench.state.commit()
    state = Bench().state
    single: list[Any] = []
    for message in messages:
        single += IdentifyStage(bench.context, bench.plans).process(cast("Any", [message]), state)
        state.commit()
    assert single == whole
    assert state.stored == bench.state.stored


def test_waiting_leaves_no_rows_behind(bench: Bench) -> None:
    bench.stage.process(cast("Any", _busy(bench)), bench.state)
    bench.state.commit()
    assert not [k for k in bench.state.stored if k[:2] in (b"w:", b"E:", b"e:", b"X:", b"B:", b"Q:", b"h:")]


def test_rows_come_back_as_they_were() -> None:
    natives = [
        Native(),
        Native("c" * 36, 5000, 2, position(1), position(2), 3, 4, 5, "", True, "r", "own", True, True),
        Native(awaits="x", queued=1, seen=position(7)),
    ]
    for n in natives:
        assert Native.decode(n.encode()) == n
    for r in (Record(), Record(False, ("a", "b"), {"crm/t": "17", "erp/t": 5, "x/t": 6}, 3, "w", {"x/t": 7})):
        assert Record.decode(r.encode()) == r
    for key in (Key(1, "x"), Key(2, "", True, True), Key(0, "", False, True)):
        assert Key.decode(key.encode() or b"") == key
    assert Key().encode() is None
    assert Place.decode(Place(7, 6, 5, 4, 3).encode()) == Place(7, 6, 5, 4, 3)
    for ext in (None, "", "id"):
        s = Sight("crm/t", "17", position(1), ("a",), ext, True, 3, 70_000, b"change")
        assert Sight.decode("crm/t", "17", s.encode()) == s
