"""Conditions of flows: what they mean, and what they refuse, with the place."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from tidelock.avro import FieldType, encode_slice
from tidelock.conditions import compile_condition

FIELDS = {
    "status": FieldType.STRING,
    "balance": FieldType.DECIMAL,
    "count": FieldType.INTEGER,
    "rate": FieldType.NUMBER,
    "vip": FieldType.BOOLEAN,
    "born": FieldType.DATE,
    "seen": FieldType.TIMESTAMP,
    "due": FieldType.LOCAL_TIMESTAMP,
    "blob": FieldType.BYTES,
}
FULL = {
    "status": "Active",
    "balance": Decimal("10.50"),
    "count": 3,
    "rate": 0.1,
    "vip": True,
    "born": dt.date(1990, 5, 1),
    "seen": dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC),
    "due": dt.datetime(2024, 1, 1, 12),  # noqa: DTZ001 - a local time has no zone
    "blob": b"x",
}


def row(**values: Any) -> list[bytes]:
    return [encode_slice(kind, values.get(name)) for name, kind in FIELDS.items()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status == 'Active'", True),
        ("lower(status) == 'active' and balance > 0", True),
        ("status.lower() == 'active'", True),
        ("startswith(status, 'Act') and not startswith(status, 'act')", True),
        ("status.startswith('x')", False),
        ("status in ['Active', 'New']", True),
        ("status not in ('Active', 'New')", False),
        ("balance == 10.5 and balance == 10.50", True),
        ("-1 < count <= 3", True),
        ("count > -3.5", True),
        ("rate == 0.1", True),
        ("count in {1, 2, 3}", True),
        ("vip", True),
        ("not vip or vip == True", True),
        ("born >= '1990-05-01' and born < '1990-05-02'", True),
        ("seen > '2024-01-01' and seen < '2024-01-01T13:00:00+00:00'", True),
        ("due == seen", True),
        ("'Active' == status", True),
        ("balance > count", True),
        ("status is None", False),
        ("True", True),
    ],
)
def test_conditions_on_a_full_record(text: str, expected: bool) -> None:
    assert compile_condition(text, FIELDS)(row(**FULL)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status == 'x'", False),
        ("status != 'x'", False),
        ("status not in ['x']", False),
        ("not status == 'x'", True),
        ("status is None", True),
        ("status is not None", False),
        ("vip", False),
        ("lower(status) == 'x'", False),
        ("startswith(status, '')", False),
        ("0 < count < 5", False),
        ("due < seen", False),
        ("balance >= 0", False),
    ],
)
def test_a_comparison_with_a_blank_is_false(text: str, expected: bool) -> None:
    assert compile_condition(text, FIELDS)(row()) is expected


def test_a_decimal_that_is_no_number_compares_as_blank() -> None:
    assert compile_condition("balance > 0", FIELDS)(row(balance="NaN")) is False


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("statsu == 'x'", 1, "did you mean `status`"),
        ("vip and zzz == 1", 9, "the fields are status"),
        ("status == 1", 1, "`status` is a text, `1` is a number"),
        ("vip and status", 9, "`status` is a text; compare it"),
        ("status == None", 11, "is None"),
        ("status is 'x'", 11, "`is None`"),
        ("status in balance", 11, "a list of values"),
        ("status in ['a', 1]", 17, "`1` is a number"),
        ("born > 'soon'", 8, "2024-12-31"),
        ("__import__('os').system('x')", 1, "is not a condition"),
        ("status.__class__ == 'x'", 1, "is not understood"),
        ("count + 1 == 2", 1, "is not understood"),
        ("len(status) == 2", 1, "lower(field)"),
        ("lower(count) == 'x'", 7, "need a text"),
        ("startswith(status, count)", 20, "a text in quotes"),
        ("vip > True", 1, "== and !="),
        ("blob is None", 1, "cannot be compared"),
        ("status ==", 10, "cannot be read"),
        ("[x for x in status]", 1, "is not a condition"),
        ("lower(x=status) == 'a'", 1, "no names"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, at: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^at character {at}: ") as caught:
        compile_condition(text, FIELDS)
    assert message in str(caught.value)
