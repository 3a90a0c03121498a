"""Laws of the mapping: reading undoes writing, both are stable, and no input makes anything but a canonical slice or a Reject."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cache
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from processors.mapping import compile_plans
from processors.plan import BindingPlan, SystemPlan
from processors.transforms import decimal_text
from tidelock.avro import FieldType, encode_slice
from tidelock.change import Column
from tidelock.config import Config
from tidelock.errors import Reject

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORD = st.text(st.sampled_from("abcdeXYZäß09-"), min_size=1, max_size=8)
DAY = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
MOMENT = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))  # noqa: DTZ001
CENTS = st.integers(-(10**12), 10**12).map(lambda n: decimal_text(str(Decimal(n).scaleb(-2)), 2))
LONG = st.integers(-(1 << 63), (1 << 63) - 1)
COUNTRY = st.sampled_from(["DEU", "USA", "BOL", "CIV", "KOR", "PRK", "COD", "COG", "TUR", "NOR", "TWN", "VAT"])

# name → fields, binding, and values that the binding can write without loss
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], st.SearchStrategy[tuple[Any, ...]]]] = {
    "string": ({"f": {}}, {}, st.tuples(TEXT)),
    "sized": ({"f": {}}, {"size": 8}, st.tuples(WORD)),
    "upper": ({"f": {}}, {"case": "upper", "trim": True}, st.tuples(WORD.map(str.upper))),
    "integer": ({"f": {"type": "integer"}}, {}, st.tuples(LONG)),
    "number": ({"f": {"type": "number"}}, {}, st.tuples(st.floats(allow_nan=False))),
    "boolean": ({"f": {"type": "boolean"}}, {}, st.tuples(st.booleans())),
    "date": ({"f": {"type": "date"}}, {}, st.tuples(DAY)),
    "timestamp": ({"f": {"type": "timestamp"}}, {}, st.tuples(MOMENT)),
    "day": ({"f": {"type": "date"}}, {"date_format": "%d/%m/%Y"}, st.tuples(DAY)),
    "clock": ({"f": {"type": "timestamp"}}, {"date_format": "%Y%m%d %H%M%S.%f"}, st.tuples(MOMENT)),
    "decimal": ({"f": {"type": "decimal", "scale": 2}}, {}, st.tuples(CENTS)),
    "comma": ({"f": {"type": "decimal", "scale": 2}}, {"decimal_separator": ","}, st.tuples(CENTS)),
    "cents": ({"f": {"type": "decimal", "scale": 2}}, {"minor_units": True}, st.tuples(CENTS)),
    "map": (
        {"f": {"values": ["on", "off", "new"]}},
        {"values": {"1": "on", "Y": "on", "0": "off", "": "new"}},
        st.tuples(st.sampled_from(["on", "off", "new"])),
    ),
    "iso2": ({"f": {"format": "country"}}, {"country": "alpha_2"}, st.tuples(COUNTRY)),
    "land": ({"f": {"format": "country"}}, {"country": "name"}, st.tuples(COUNTRY)),
    "email": (
        {"f": {"format": "email"}},
        {},
        st.tuples(st.from_regex(r"[a-z0-9.]{1,9}@[a-z]{1,5}\.com", fullmatch=True)),
    ),
    "phone": (
        {"f": {"format": "phone"}},
        {"region": "US"},
        st.tuples(st.integers(2_000_000, 9_999_999).map(lambda n: f"+1212{n}")),
    ),
    "split": ({"f": {}, "g": {}}, {"fields": ["f", "g"]}, st.tuples(WORD, WORD | st.none())),
    "join": ({"f": {}}, {"columns": ["c", "d"]}, st.tuples(st.lists(WORD, min_size=1, max_size=4).map(" ".join))),
    "path": ({"f": {}}, {"path": "a.b", "direction": "both"}, st.tuples(TEXT)),
}


@cache
def compiled(case: str) -> tuple[SystemPlan, BindingPlan, tuple[FieldType, ...]]:
    fields, options, _ = CASES[case]
    sides = {"column": "c"} if "columns" not in options else {}
    binding = {**sides, **({} if "fields" in options else {"field": "f"}), **options}
    plan = compile_plans(
        Config.model_validate(
            {
                "systems": {"a": {"entities": {"thing": {"table": "t", "map": [binding]}}}},
                "entities": {"thing": {"fields": fields}},
                "flows": [{"entity": "thing", "from": "a", "to": "a"}],
            }
        )
    )["thing"]
    return plan.systems["a"], plan.systems["a"].bindings[0], tuple(f.type for f in plan.fields)


def read(system: SystemPlan, kinds: tuple[FieldType, ...], raws: tuple[bytes, ...]) -> tuple[bytes, ...]:
    reader = system.reader(tuple(Column(c, k) for c, k in zip(system.columns, kinds, strict=True)))
    values = reader.read(0, raws)
    if reader.identity[0]:
        assert values == raws
    return values


def kinds_of(case: str, binding: BindingPlan) -> tuple[FieldType, ...]:
    return (FieldType.JSON,) if case == "path" else binding.write_types


@settings(deadline=None)  # the first use of a format loads its tables
@given(st.data(), st.sampled_from(sorted(CASES)))
def test_reading_undoes_writing(data: st.DataObject, case: str) -> None:
    system, binding, types = compiled(case)
    values = data.draw(CASES[case][2])
    slices = tuple(encode_slice(k, v) for k, v in zip(types, values, strict=True))
    raws = binding.write(slices)
    assert raws == binding.write(slices)
    assert read(system, kinds_of(case, binding), raws) == slices


@settings(deadline=None)  # the first use of a format loads its tables
@given(st.data(), st.sampled_from(sorted(CASES)))
def test_what_was_read_is_stable(data: st.DataObject, case: str) -> None:
    """Whatever a system holds: what it means does not change when it is written back and read again."""
    system, binding, _ = compiled(case)
    kind = st.sampled_from([k for k in FieldType if k is not FieldType.BYTES])
    kinds = tuple(data.draw(kind) for _ in system.columns)
    raws = tuple(encode_slice(k, data.draw(VALUES[k] | st.none())) for k in kinds)
    try:
        once = read(system, kinds, raws)
        written = binding.write(once)
    except Reject:
        return
    assume(case not in ("split", "join", "clock", "day"))  # these lose what they cannot spell
    assert read(system, kinds_of(case, binding), written) == once


VALUES: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.STRING: TEXT
    | WORD
    | CENTS
    | COUNTRY
    | DAY.map(str)
    | st.sampled_from(["on", "1", "Y", "", " ", "+12125550100"]),
    FieldType.INTEGER: LONG,
    FieldType.NUMBER: st.floats(),
    FieldType.DECIMAL: CENTS | st.decimals().map(str),
    FieldType.BOOLEAN: st.booleans(),
    FieldType.DATE: DAY,
    FieldType.TIMESTAMP: MOMENT,
    FieldType.LOCAL_TIMESTAMP: MOMENT,
    FieldType.JSON: st.sampled_from(
        ['{"a":{"b":"x"}}', '{"a":{"b":1.50}}', "{", "[1]", '"x"', '{"a":{"b":[1,{}]}}', "12"]
    ),
    FieldType.UUID: st.uuids().map(str),
}


@settings(deadline=None)  # the first use of a format loads its tables
@given(st.sampled_from(sorted(CASES)), st.lists(st.binary(max_size=12), min_size=2, max_size=2))
def test_malformed_slices_are_rejected(case: str, payloads: list[bytes]) -> None:
    system, _, _ = compiled(case)
    raws = tuple(b"\x02" + p for p in payloads)[: len(system.columns)]
    for kind in FieldType:
        reader = system.reader(tuple(Column(c, kind) for c in system.columns))
        if not reader.identity[0]:
            try:
                values = reader.read(0, raws)
            except Reject:
                continue
            assert all(v[0] in (0, 2) for v in values)


@settings(deadline=None)  # the first use of a format loads its tables
@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30),
    st.integers(0, 6) | st.none(),
)
def test_decimals_have_one_spelling_and_the_right_value(value: Decimal, scale: int | None) -> None:
    assume(abs(int(value.as_tuple().exponent)) < 500)
    text = decimal_text(str(value), scale)
    assert decimal_text(text, scale) == text
    with localcontext() as context:
        context.prec = 2000
        exact = value if scale is None else value.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_EVEN)
        assert Decimal(text) == exact
    assert "e" not in text.lower()
    assert text not in ("-0", "-0.00")
