"""Every policy as a function of base, golden and theirs (processors.policies)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.policies import Contest, Decision, add_delta, decide
from processors.record import Provenance
from tidelock.avro import FieldType, decode_slice, encode_slice
from tidelock.config import Policy

STRING, INTEGER, DECIMAL, JSON = FieldType.STRING, FieldType.INTEGER, FieldType.DECIMAL, FieldType.JSON


def contest(
    base: Any,
    golden: Any,
    theirs: Any,
    kind: FieldType = STRING,
    *,
    ranks: tuple[int, int] = (0, 1),
    times: tuple[int, int] = (1, 2),
) -> Contest:
    """Make a contest; ranks and times are (golden's, theirs')."""
    unknown = base is ...
    return Contest(
        kind,
        None if unknown else encode_slice(kind, base),
        encode_slice(kind, golden),
        encode_slice(kind, theirs),
        *ranks,
        *(
            Provenance(f"{name}/default", time, bytes(16), None, "")
            for name, time in zip(("crm", "erp"), times, strict=True)
        ),
    )


def told(decision: Decision, kind: FieldType = STRING) -> tuple[Any, str]:
    return decode_slice(kind, decision.value), decision.outcome


@pytest.mark.parametrize(("ranks", "winner"), [((0, 1), "golden"), ((1, 0), "theirs"), ((1, 1), "theirs")])
def test_priority_takes_the_system_that_stands_first(ranks: tuple[int, int], winner: str) -> None:
    """The same system's later edit wins over its earlier one."""
    assert told(decide(Policy.PRIORITY, contest("b", "golden", "theirs", ranks=ranks))) == (winner, winner)


@pytest.mark.parametrize(
    ("times", "ranks", "winner"),
    [
        ((1, 2), (0, 1), "theirs"),
        ((2, 1), (1, 0), "golden"),
        ((5, 5), (0, 1), "golden"),
        ((5, 5), (1, 0), "theirs"),
    ],
)
def test_newest_takes_the_later_one_and_asks_priority_at_a_tie(
    times: tuple[int, int], ranks: tuple[int, int], winner: str
) -> None:
    """Only equal times are decided by rank."""
    assert told(decide(Policy.NEWEST, contest("b", "golden", "theirs", times=times, ranks=ranks))) == (winner, winner)


def test_keep_golden_keeps_it_whoever_comes() -> None:
    """Rank and time do not matter."""
    assert told(decide(Policy.KEEP_GOLDEN, contest("b", "golden", "theirs", ranks=(1, 0)))) == ("golden", "golden")


@pytest.mark.parametrize(
    ("golden", "theirs", "left"),
    [("g", None, ("g", "golden")), (None, "t", ("t", "theirs")), ("g", "t", ("g", "golden"))],
)
def test_non_null_prefers_whoever_knows_something(
    golden: str | None, theirs: str | None, left: tuple[str, str]
) -> None:
    """Between two values priority decides."""
    assert told(decide(Policy.NON_NULL, contest("b", golden, theirs))) == left


@pytest.mark.parametrize(
    ("policy", "golden", "theirs", "left"),
    [
        (Policy.MAX, "9.50", "10.00", "10.00"),
        (Policy.MAX, "10.00", "9.50", "10.00"),
        (Policy.MIN, "9.50", "10.00", "9.50"),
        (Policy.MIN, "10.00", "9.50", "9.50"),
        (Policy.MAX, "-1.00", "-2.00", "-1.00"),
        (Policy.MAX, None, "-2.00", "-2.00"),
        (Policy.MIN, "3.00", None, "3.00"),
    ],
)
def test_max_and_min_compare_decimals_as_numbers(
    policy: Policy, golden: str | None, theirs: str | None, left: str
) -> None:
    """As texts, 9.50 would be more than 10.00; a blank is no number and never wins."""
    assert told(decide(policy, contest("0.00", golden, theirs, DECIMAL)), DECIMAL)[0] == left


def test_max_of_integers_that_are_negative() -> None:
    """Slices are zigzag varints and must not be compared as bytes."""
    assert told(decide(Policy.MAX, contest(0, -3, 2, INTEGER)), INTEGER) == (2, "theirs")
    assert told(decide(Policy.MIN, contest(0, -300, 2, INTEGER)), INTEGER) == (-300, "golden")


def test_delta_adds_what_each_has_done() -> None:
    """Two sell at once: 10 - 3 - 4 are left, not 6 or 7."""
    assert told(decide(Policy.DELTA, contest(10, 7, 6, INTEGER)), INTEGER) == (3, "merged")


def test_delta_of_decimals_is_exact() -> None:
    """0.1 + 0.2 is 0.3 here."""
    assert told(decide(Policy.DELTA, contest("0.0", "0.1", "0.2", DECIMAL)), DECIMAL) == ("0.3", "merged")


@given(base=st.integers(-(10**6), 10**6), one=st.integers(-1000, 1000), other=st.integers(-1000, 1000))
def test_delta_does_not_care_who_comes_first(base: int, one: int, other: int) -> None:
    """Whichever edit is golden already, the sum is the same."""
    b, first, second = (encode_slice(INTEGER, n) for n in (base, base + one, base + other))
    assert (
        add_delta(INTEGER, b, first, second)
        == add_delta(INTEGER, b, second, first)
        == encode_slice(INTEGER, base + one + other)
    )


@pytest.mark.parametrize("blank", [("golden",), ("theirs",), ("base",)])
def test_delta_without_a_difference_falls_back_to_priority(blank: tuple[str]) -> None:
    """A blank is no number to subtract from."""
    values: dict[str, Any] = {"base": 10, "golden": 7, "theirs": 6} | dict.fromkeys(blank)
    decision = decide(Policy.DELTA, contest(**values, kind=INTEGER, ranks=(1, 0)))
    assert told(decision, INTEGER) == (values["theirs"], "theirs")


def test_delta_of_unknown_base_falls_back_to_priority() -> None:
    """Two records that have just become one have counted different things."""
    assert told(decide(Policy.DELTA, contest(..., 7, 6, INTEGER)), INTEGER) == (7, "golden")


@pytest.mark.parametrize(
    ("base", "golden", "theirs", "left"),
    [
        ("a,b", "a,b,c", "a,b,d", "a,b,c,d"),
        ("a,b", "b", "a,b,d", "b,d"),
        ("a,b", "a,b,c", "b", "b,c"),
        ("a,b,c", "a,b", "b,c", "b"),
        ("a; b", "a;b ; c", "a", "a,c"),
        ("a", "a,b", None, "b"),
        (..., "a", "b", "a,b"),
    ],
)
def test_union_joins_additions_and_removals(base: Any, golden: str, theirs: str | None, left: str) -> None:
    """What either side took away is away, what either side added is there."""
    assert told(decide(Policy.UNION, contest(base, golden, theirs))) == (left, "merged")


def test_union_of_json_arrays_stays_json() -> None:
    """Items keep their types."""
    decision = decide(Policy.UNION, contest("[1, 2]", "[1, 2, 3]", '[2, "x"]', JSON))
    assert told(decision, JSON) == ('["x", 2, 3]', "merged")


def test_manual_parks_and_changes_nothing() -> None:
    """Golden stands until a person decides."""
    assert told(decide(Policy.MANUAL, contest("b", "golden", "theirs"))) == ("golden", "parked")


@given(
    policy=st.sampled_from(list(Policy)),
    values=st.tuples(*[st.one_of(st.none(), st.text(max_size=3))] * 3),
    ranks=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_every_policy_decides_everything(policy: Policy, values: tuple[Any, Any, Any], ranks: tuple[int, int]) -> None:
    """No text, blank or rank makes a policy fail; and what is not merged is one of the two."""
    c = contest(*values, ranks=ranks)
    decision = decide(policy, c)
    assert decision.outcome in ("theirs", "golden", "merged", "parked")
    if decision.outcome != "merged":
        assert decision.value == (c.theirs if decision.outcome == "theirs" else c.golden)
