"""What was created for a record that a person has merged into another one: the winner's, or held as another copy of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_identify import Bench, entry, first_id, of
from tidelock.change import position
from tidelock.envelopes import REJECTED, Entry

WINNER, LOSER = first_id("crm", "17"), first_id("crm", "18")


def merged(external: str | None = None, *, room: bool = True) -> Bench:
    """Two records of crm, the second merged into the first while it is being created in erp."""
    bench = Bench(external=external)
    bench.new("crm", "17", "ann@example.org")
    if room:
        bench.put(Entry("release", WINNER, "erp", "default"))
    else:
        bench.put(bench.created(WINNER, "erp", "800"))
    bench.new("crm", "18", "bob@example.org")
    (merge,) = bench.put(Entry("merge", WINNER, keys=(LOSER,)))
    assert (entry(merge).kind, entry(merge).canonical_id) == ("merge", LOSER)
    return bench


def appears(bench: Bench, **more: Any) -> list[Any]:
    return bench.new("erp", "900", "bob@example.org", **more)


def lands(bench: Bench) -> list[Any]:
    return bench.put(bench.created(LOSER, "erp", "900"))


def linked_to(rows: list[Any]) -> list[str]:
    entries = [entry(r) for r in of(rows, "journal.contact")]
    return [e.canonical_id for e in entries if e.kind == "linked"]


@pytest.mark.parametrize("external", [None, "hub_id"])
@pytest.mark.parametrize("captured_first", [False, True])
def test_it_is_linked_to_the_winner_where_that_has_no_copy(captured_first: bool, external: str | None) -> None:
    bench = merged(external)
    more = {"ext": LOSER} if external else {}
    rows = [appears(bench, **more), lands(bench)] if captured_first else [lands(bench), appears(bench, **more)]
    assert linked_to(rows[0]) == []
    assert linked_to(rows[1]) == [WINNER]


@pytest.mark.parametrize("captured_first", [False, True])
def test_it_is_held_where_the_winner_has_a_copy(captured_first: bool) -> None:
    """And takes its place when that leaves."""
    bench = merged(room=False)
    rows = [appears(bench), lands(bench)] if captured_first else [lands(bench), appears(bench)]
    assert linked_to(rows[0] + rows[1]) == []
    message = dict(of(rows[1], "dlq.identify.erp.contact")[0][4])["dlq.message"].decode()
    assert WINNER in message
    assert "800" in message
    assert linked_to(bench.put(Entry("left", WINNER, "erp", "default", "800", position(9)))) == [WINNER]


def test_merge_is_told_that_the_create_is_over() -> None:
    bench = merged()
    told = [entry(r) for r in lands(bench)]
    assert [(e.kind, e.canonical_id, e.keys) for e in told if e.kind == "park"] == [("park", LOSER, ("merged",))]


def test_a_person_who_has_split_it_off_is_heard() -> None:
    bench = merged()
    bench.put(Entry("split", "", "erp", "default", "900"))
    lands(bench)
    assert linked_to(appears(bench)) == [first_id("erp", "900")]


def test_if_the_winner_is_dead_it_is_the_losers_who_cleans_up() -> None:
    bench = merged()
    bench.put(Entry("dying", WINNER))
    receipt = bench.created(LOSER, "erp", "900")
    rows = of(bench.put(receipt), "journal.contact")
    assert (rows[0][1], rows[0][2]) == (LOSER.encode(), receipt.payload)


def test_a_create_that_failed_leaves_nothing_behind() -> None:
    bench = merged()
    bench.put(bench.created(LOSER, "erp", "", REJECTED, "too_long"))
    assert linked_to(bench.new("erp", "901", "zoe@example.org")) == [first_id("erp", "901")]


def test_a_row_with_the_losers_id_is_the_winners_though_nothing_is_under_way() -> None:
    bench = merged("hub_id")
    bench.put(Entry("release", LOSER, "erp", "default"))
    assert linked_to(appears(bench, ext=LOSER)) == [WINNER]
    second = bench.new("erp", "901", "bob@example.org", ext=LOSER)
    assert WINNER in dict(of(second, "dlq.identify.erp.contact")[0][4])["dlq.message"].decode()
