"""Plans compiled from a configuration: every option of a binding, read and written."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from processors.mapping import compile_plans, is_blank
from processors.plan import BindingPlan, EntityPlan, RowReader, SystemPlan
from tidelock.avro import NULL, FieldType, decode_slice, encode_slice
from tidelock.change import Column
from tidelock.config import Config
from tidelock.errors import Fatal, Reject

S, I, N, D, B = FieldType.STRING, FieldType.INTEGER, FieldType.NUMBER, FieldType.DECIMAL, FieldType.BOOLEAN  # noqa: E741
DATE, TS, LOCAL, JSON, UUID = (
    FieldType.DATE,
    FieldType.TIMESTAMP,
    FieldType.LOCAL_TIMESTAMP,
    FieldType.JSON,
    FieldType.UUID,
)


def config(
    fields: dict[str, Any], *bindings: dict[str, Any], entity: dict[str, Any] | None = None, **table: Any
) -> Config:
    other = [{"column": f, "field": f} for f in fields]
    return Config.model_validate(
        {
            "systems": {
                "a": {"entities": {"thing": {"table": "t", "map": list(bindings), **table}}},
                "b": {"entities": {"thing": {"table": "t", "map": other}}},
            },
            "entities": {"thing": {"fields": fields, **(entity or {})}},
            "flows": [{"entity": "thing", "from": ["a", "b"], "to": ["a", "b"]}],
        }
    )


class Bench:
    """One binding of system ``a``, with values in and out as Python values."""

    def __init__(self, fields: dict[str, Any], binding: dict[str, Any], *kinds: FieldType) -> None:
        self.plan: EntityPlan = compile_plans(config(fields, binding))["thing"]
        self.system: SystemPlan = self.plan.systems["a"]
        self.binding: BindingPlan = self.system.bindings[0]
        self.kinds = kinds
        columns = tuple(Column(n, k) for n, k in zip(self.system.columns, kinds, strict=True))
        self.reader: RowReader = self.system.reader(columns)

    def read(self, *raw: Any) -> Any:
        raws = tuple(encode_slice(k, v) for k, v in zip(self.kinds, raw, strict=True))
        values = self.reader.read(0, raws)
        if self.reader.identity[0]:
            assert values == raws
        out = [decode_slice(self.plan.fields[f].type, v) for f, v in zip(self.binding.fields, values, strict=True)]
        return out[0] if len(out) == 1 else tuple(out)

    def write(self, *values: Any) -> Any:
        slices = [encode_slice(self.plan.fields[f].type, v) for f, v in zip(self.binding.fields, values, strict=True)]
        raws = self.binding.write(slices)
        out = [decode_slice(k, r) for k, r in zip(self.binding.write_types, raws, strict=True)]
        return out[0] if len(out) == 1 else tuple(out)


def one(field: dict[str, Any], kind: FieldType = S, **options: Any) -> Bench:
    return Bench({"f": field}, {"column": "c", "field": "f", **options}, kind)


MOMENT = dt.datetime(2024, 12, 31, 23, 59, 58, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("to", "kind", "raw", "expected"),
    [
        (S, S, " kept ", " kept "),
        (S, S, "", ""),
        (S, I, -12, "-12"),
        (S, N, 3.0, "3"),
        (S, N, 1e-7, "0.0000001"),
        (S, B, True, "true"),
        (S, DATE, dt.date(2024, 1, 2), "2024-01-02"),
        (S, TS, MOMENT, "2024-12-31T23:59:58.000005Z"),
        (S, LOCAL, MOMENT, "2024-12-31T23:59:58.000005"),
        (S, D, "1.50", "1.50"),
        (I, S, " 42 ", 42),
        (I, S, "42.0", 42),
        (I, D, "7", 7),
        (I, N, 7.0, 7),
        (I, B, True, 1),
        (N, S, "1.5", 1.5),
        (N, I, 2, 2.0),
        (D, S, "+001.50", "1.5"),
        (D, S, "-0.00", "0"),
        (D, S, "1.5e3", "1500"),
        (D, D, "10.50", "10.5"),
        (D, D, ".5", "0.5"),
        (D, N, 0.1, "0.1"),
        (D, I, 5, "5"),
        (B, S, "Yes", True),
        (B, S, "0", False),
        (B, I, 1, True),
        (DATE, S, "2024-12-31", dt.date(2024, 12, 31)),
        (DATE, S, "2024-12-31 00:00:00", dt.date(2024, 12, 31)),
        (DATE, TS, MOMENT, dt.date(2024, 12, 31)),
        (DATE, TS, dt.datetime(1969, 12, 31, 1, tzinfo=dt.UTC), dt.date(1969, 12, 31)),
        (TS, DATE, dt.date(2024, 12, 31), dt.datetime(2024, 12, 31, tzinfo=dt.UTC)),
        (TS, S, "2024-12-31T23:59:58.000005Z", MOMENT),
        (TS, S, "2025-01-01 01:59:58.000005+02:00", MOMENT),
        (TS, LOCAL, MOMENT, MOMENT),
        (JSON, S, '{"b": 1.50, "a": [true, null]}', '{"a":[true,null],"b":1.5}'),
        (JSON, JSON, '{"a": "é"}', '{"a":"é"}'),
        (I, JSON, "12", 12),
        (UUID, S, "A987FBC9-4BED-3078-CF07-9141BA07C9F3", "a987fbc9-4bed-3078-cf07-9141ba07c9f3"),
        (FieldType.BYTES, FieldType.BYTES, b"\x00\x01", b"\x00\x01"),
        (I, S, "  ", None),
        (DATE, S, "", None),
        (D, D, None, None),
    ],
)
def test_types_are_converted_where_that_is_unambiguous(to: FieldType, kind: FieldType, raw: Any, expected: Any) -> None:
    assert one({"type": to}, kind).read(raw) == expected


@pytest.mark.parametrize(
    ("field", "kind", "raw", "error"),
    [
        ({"type": "integer"}, S, "4.5", "bad_number"),
        ({"type": "integer"}, S, "four", "bad_number"),
        ({"type": "integer"}, S, str(1 << 63), "bad_number"),
        ({"type": "decimal"}, D, "NaN", "bad_number"),
        ({"type": "decimal"}, S, "1,234", "bad_number"),
        ({"type": "decimal"}, S, "1e999999", "bad_number"),
        ({"type": "boolean"}, S, "perhaps", "bad_boolean"),
        ({"type": "boolean"}, I, 2, "bad_boolean"),
        ({"type": "date"}, S, "31/12/2024", "bad_date"),
        ({"type": "date"}, S, "2024-12-31 10:00", "bad_date"),
        ({"type": "timestamp"}, I, 1, "no_conversion"),
        ({"type": "integer"}, DATE, dt.date(2024, 1, 1), "no_conversion"),
        ({"type": "bytes"}, S, "x", "no_conversion"),
        ({"type": "uuid"}, S, "x", "bad_uuid"),
        ({"type": "json"}, S, "{", "bad_json"),
        ({"type": "json"}, S, "NaN", "bad_json"),
        ({"values": ["a", "b"]}, S, "c", "not_allowed"),
        ({"max_length": 3}, S, "four", "too_long"),
        ({"required": True}, S, " ", "required"),
        ({"required": True}, S, None, "required"),
        ({"format": "email"}, S, "nobody", "bad_email"),
        ({"format": "phone"}, S, "030 123456", "bad_phone"),
        ({"format": "country"}, S, "Untied Staates", "unknown_country"),
        ({"format": "currency"}, S, "XYZ1", "unknown_currency"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_its_kind_and_field(
    field: dict[str, Any], kind: FieldType, raw: Any, error: str
) -> None:
    with pytest.raises(Reject) as caught:
        one(field, kind).read(raw)
    assert (caught.value.kind, caught.value.field) == (error, "f")


def test_a_slice_of_another_type_is_rejected_not_a_crash() -> None:
    bench = one({"type": "date"}, DATE)
    texts = one({"type": "string"}, DATE)
    assert bench.reader.identity == (True,)
    with pytest.raises(Reject) as caught:
        texts.reader.read(0, (encode_slice(I, 1 << 40),))
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("2.345", "2.34"), ("2.355", "2.36"), ("2", "2.00"), ("-0.001", "0.00"), ("9.999", "10.00"), ("0012.50", "12.50")],
)
def test_decimals_get_the_fields_scale_half_even(raw: str, expected: str) -> None:
    assert one({"type": "decimal", "scale": 2}, D).read(raw) == expected


def test_a_decimal_that_is_canonical_is_not_copied() -> None:
    bench = one({"type": "decimal", "scale": 2}, D)
    raw = encode_slice(D, "12.50")
    assert bench.reader.read(0, (raw,))[0] is raw


@pytest.mark.parametrize("digits", [30, 63, 64, 100, 5000])
def test_long_decimals_lose_nothing(digits: int) -> None:
    bench = one({"type": "decimal", "scale": 2}, D)
    assert bench.read("1" * digits + ".555") == "1" * digits + ".56"
    assert bench.read("1" * digits + ".55") == "1" * digits + ".55"


def test_formats_have_one_spelling() -> None:
    assert one({"format": "email"}).read(" Ada.Byron@Example.ORG ") == "ada.byron@example.org"
    assert one({"format": "email"}).read("ada@example.org") == "ada@example.org"
    assert one({"format": "phone"}, region="DE").read("(030) 123 456-78") == "+493012345678"
    assert one({"format": "phone"}, region="US").read("212-555-0123 ext. 7") == "+12125550123;ext=7"
    assert one({"format": "phone"}).read("+12125550123;ext=7") == "+12125550123;ext=7"
    assert one({"format": "phone"}, I, region="US").read(2125550123) == "+12125550123"
    assert one({"format": "currency"}).read("eur") == "EUR"
    assert one({"format": "email"}).read("") is None


@pytest.mark.parametrize(
    "text",
    ["USA", "us", "U.S.A.", "United States", "the United States of America", "Vereinigte Staaten", "États-Unis"],
)
def test_countries_are_recognised_in_their_usual_spellings(text: str) -> None:
    assert one({"format": "country"}).read(text) == "USA"


@pytest.mark.parametrize(
    ("text", "code"),
    [("Deutschland", "DEU"), ("Turkey", "TUR"), ("Côte d'Ivoire", "CIV"), ("Bolivia", "BOL"), ("NO", "NOR")],
)
def test_more_countries(text: str, code: str) -> None:
    assert one({"format": "country"}).read(text) == code


def test_a_system_spells_countries_its_own_way() -> None:
    assert one({"format": "country"}, country="alpha_2").write("DEU") == "DE"
    assert one({"format": "country"}, country="name").write("BOL") == "Bolivia"
    assert one({"format": "country"}).write("DEU") == "DEU"
    extra = one({"format": "country"}, country="name", values={"United State": "USA"})
    assert extra.read("United State") == "USA"
    assert extra.read("Germany") == "DEU"
    assert extra.write("USA") == "United States"
    own = one({"format": "country"}, values={"D": "Germany", "A": "AUT"})
    assert own.read("D") == "DEU"
    assert own.write("AUT") == "A"


def test_dates_in_the_systems_own_format() -> None:
    bench = one({"type": "date"}, date_format="%d/%m/%Y")
    assert bench.read("31/12/2024") == dt.date(2024, 12, 31)
    assert bench.write(dt.date(2024, 12, 31)) == "31/12/2024"
    assert bench.write(dt.date(33, 4, 3)) == "03/04/0033"
    assert bench.read(None) is None
    with pytest.raises(Reject, match="format %d/%m/%Y"):
        bench.read("12/31/2024")
    assert one({"type": "date"}, I, date_format="%Y%m%d").read(20241231) == dt.date(2024, 12, 31)
    zoned = one({"type": "timestamp"}, date_format="%Y-%m-%d %H:%M:%S.%f %z")
    assert zoned.read("2025-01-01 01:59:58.000005 +0200") == MOMENT


def test_decimal_separators() -> None:
    bench = one({"type": "decimal", "scale": 2}, decimal_separator=",")
    assert bench.read("1.234,5") == "1234.50"
    assert bench.read("€ -12,50") == "-12.50"
    assert bench.read("1 234 567,00") == "1234567.00"
    assert bench.write("-1234.50") == "-1234,50"
    for wrong in ("1.23,5", "12.5", "1,2,3"):
        with pytest.raises(Reject) as caught:
            bench.read(wrong)
        assert caught.value.kind == "bad_number"
    assert one({"type": "decimal"}, decimal_separator=".").read("1,234.50") == "1234.5"
    assert (
        Bench({"f": {"type": "decimal"}}, {"column": "c", "field": "f", "decimal_separator": ","}, D).read("1.5")
        == "1.5"
    )


def test_minor_units_are_rounded_half_even() -> None:
    bench = one({"type": "decimal", "scale": 2}, I, minor_units=True)
    assert bench.read(1234) == "12.34"
    assert bench.read(-5) == "-0.05"
    assert bench.write("12.34") == 1234
    loose = one({"type": "decimal"}, I, minor_units=True)
    assert [loose.write(v) for v in ("0.005", "0.015", "-0.025", "7")] == [0, 2, -2, 700]
    assert one({"type": "decimal"}, I, minor_units=True, currency="JPY").write("12") == 12
    assert one({"type": "decimal"}, I, minor_units=True, currency="KWD").read(1234) == "1.234"
    with pytest.raises(Reject) as caught:
        loose.write("9" * 30)
    assert caught.value.kind == "bad_number"


def test_value_maps_and_their_inverse() -> None:
    spec = {"values": ["active", "inactive"]}
    bench = one(spec, values={"A": "active", "1": "active", "I": "inactive"})
    assert [bench.read(v) for v in ("A", "1", " I ", None, "")] == ["active", "active", "inactive", None, None]
    assert bench.write("active") == "A"
    assert bench.write(None) is None
    with pytest.raises(Reject) as caught:
        bench.read("X")
    assert caught.value.kind == "unmapped_value"
    with pytest.raises(Reject):
        one(spec, values={"A": "active"}).write("inactive")
    assert one(spec, I, values={"1": "active", "0": "inactive"}).read(0) == "inactive"
    assert one(spec, B, values={"1": "active", "0": "inactive"}).read(False) == "inactive"
    assert one(spec, D, values={"1": "active"}).read("1.00") == "active"
    assert one({"type": "boolean"}, values={"Y": True, "N": False}).read("N") is False


def test_a_value_map_may_give_blank_a_meaning() -> None:
    bench = one({}, values={"": "pending", "ok": "done", "none": None})
    assert [bench.read(v) for v in (None, "", "ok", "none")] == ["pending", "pending", "done", None]
    assert bench.write("pending") is None
    assert bench.write(None) == "none"


def test_sizes() -> None:
    with pytest.raises(Reject) as caught:
        one({}, size=3).write("four")
    assert (caught.value.kind, caught.value.field) == ("too_long", "f")
    assert one({}, size=3, overflow="truncate").write("äöüß") == "äöü"
    assert one({}, size=4).write("äöüß") == "äöüß"
    flagged = one({}, size=3, overflow="flag")
    assert flagged.write("four") == "four"
    assert flagged.binding.warn is not None
    assert "4 characters" in (flagged.binding.warn([encode_slice(S, "four")]) or "")
    assert flagged.binding.warn([encode_slice(S, "two")]) is None


def test_case_and_trim_hold_both_ways() -> None:
    bench = one({}, case="upper", trim=True)
    assert bench.read(" ab ") == "AB"
    assert bench.write("ab ") == "AB"


def test_constants_are_written_and_never_read() -> None:
    bench = Bench({"f": {}}, {"column": "c", "constant": 5}, I)
    assert (bench.binding.constant, bench.binding.reads, bench.binding.writes) == (True, False, True)
    assert bench.binding.write(()) == (encode_slice(I, 5),)
    assert bench.binding.write_types == (I,)


def test_one_column_splits_into_fields_and_back() -> None:
    binding = {"column": "name", "fields": ["first", "last"], "size": 12}
    bench = Bench({"first": {}, "last": {"max_length": 20}}, binding, S)
    assert bench.read("Ada  King Byron ") == ("Ada", "King Byron")
    assert bench.read("Ada") == ("Ada", None)
    assert bench.read(None) == (None, None)
    assert bench.write("Ada", "Byron") == "Ada Byron"
    assert bench.write(None, "Byron") == "Byron"
    assert bench.write(None, None) is None
    with pytest.raises(Reject) as caught:
        bench.write("Augusta Ada", "Byron")
    assert caught.value.kind == "too_long"
    reversed_ = Bench({"a": {}, "b": {}}, {"column": "n", "fields": ["b", "a"], "separator": ", "}, S)
    assert reversed_.read("Byron, Ada") == ("Byron", "Ada")
    assert reversed_.binding.fields == (1, 0)


def test_several_columns_join_into_one_field() -> None:
    bench = Bench({"f": {}}, {"columns": ["first", "last"], "field": "f"}, S, S)
    assert bench.read("Ada", "King Byron") == "Ada King Byron"
    assert bench.read(None, "Byron") == "Byron"
    assert bench.read(None, " ") is None
    assert bench.write("Ada King Byron") == ("Ada", "King Byron")
    assert bench.write("Ada") == ("Ada", None)
    moment = Bench(
        {"f": {"type": "timestamp"}},
        {"columns": ["day", "time"], "field": "f", "date_format": "%d.%m.%Y %H:%M"},
        S,
        S,
    )
    assert moment.read("31.12.2024", "10:30") == dt.datetime(2024, 12, 31, 10, 30, tzinfo=dt.UTC)
    assert moment.write(dt.datetime(2024, 12, 31, 10, 30, tzinfo=dt.UTC)) == ("31.12.2024", "10:30")


def test_nested_values_are_read_and_written_only_if_the_column_is_ours() -> None:
    bench = Bench({"f": {"type": "decimal"}}, {"column": "j", "field": "f", "path": "a.0.b"}, JSON)
    assert bench.read('{"a": [{"b": 1.50}]}') == "1.5"
    assert bench.read('{"a": [{"b": "2.5"}]}') == "2.5"
    assert bench.read('{"a": []}') is None
    assert not bench.binding.writes
    with pytest.raises(Reject) as caught:
        bench.read('{"a": [{"b": {}}]}')
    assert caught.value.kind == "bad_number"
    ours = Bench({"f": {}}, {"column": "j", "field": "f", "path": "a.b", "direction": "both"}, JSON)
    assert ours.binding.writes
    assert ours.write('x"y') == '{"a":{"b":"x\\"y"}}'
    assert ours.read(ours.write('x"y')) == 'x"y'
    two = [{"column": "j", "field": f, "path": f, "direction": "both"} for f in ("f", "g")]
    plan = compile_plans(config({"f": {}, "g": {}}, *two))["thing"].systems["a"]
    assert plan.columns == ("j",)
    assert [b.writes for b in plan.bindings] == [False, False]


def test_references_carry_the_system_they_were_read_in() -> None:
    fields = {"f": {"references": "thing"}}
    bench = Bench(fields, {"column": "c", "field": "f"}, I)
    assert bench.read(17) == "a:17"
    assert bench.read(None) is None
    assert bench.write("b:x") == "b:x"
    assert not bench.binding.plain
    pair = Bench(fields, {"columns": ["c", "d"], "field": "f"}, I, S)
    assert pair.read(1, "x|y") == "a:1|x\\|y"
    assert pair.read(1, None) is None


def test_sensitive_columns_are_not_written_and_dropped_ones_not_read() -> None:
    plan = compile_plans(
        config(
            {"f": {}, "g": {}},
            {"column": "secret", "sensitive": "drop"},
            {"column": "c", "field": "f", "sensitive": "hash"},
            {"column": "d", "field": "g", "sensitive": "drop"},
        )
    )["thing"].systems["a"]
    assert plan.columns == ("c",)
    assert (plan.bindings[0].reads, plan.bindings[0].writes) == (True, False)


def test_identity_and_plain_depend_on_the_columns_type() -> None:
    fields = {
        "s": {},
        "i": {"type": "integer"},
        "d": {"type": "decimal"},
        "r": {"required": True},
        "e": {"format": "email"},
    }
    plan = compile_plans(config(fields, *({"column": f, "field": f} for f in fields)))["thing"].systems["a"]
    typed = plan.reader(tuple(Column(c, k) for c, k in zip("sidre", (S, I, D, S, S), strict=True)))
    assert typed.identity == (True, True, False, False, False)
    assert typed.plain == (True, True, False, True, False)
    texts = plan.reader(tuple(Column(c, S) for c in "sidre"))
    assert texts.identity == (True, False, False, False, False)
    assert [b.plain for b in plan.bindings] == [True, True, False, True, False]
    assert plan.reader(tuple(Column(c, S) for c in "sidre")) is texts


def test_a_system_that_is_not_captured_is_written_as_it_is() -> None:
    settings = config({"d": {"type": "decimal"}, "e": {"format": "email"}}, {"column": "d", "field": "d"}).model_dump(
        mode="python", by_alias=True
    )
    settings["systems"]["b"]["capture"] = "none"
    plan = compile_plans(Config.model_validate(settings))["thing"]
    assert [b.plain for b in plan.systems["b"].bindings] == [True, True]
    assert not plan.systems["b"].captured
    assert plan.systems["b"].accepted == frozenset()


def test_rows_with_other_columns() -> None:
    plan = compile_plans(config({"f": {}, "g": {}}, {"column": "c", "field": "f"}, {"column": "d", "field": "g"}))[
        "thing"
    ]
    reader = plan.systems["a"].reader((Column("id", I), Column("d", S)))
    assert reader.positions == (-1, 1)
    assert reader.types == (None, S)
    assert not reader.complete
    with pytest.raises(Reject, match="has no column c") as caught:
        reader.read(0, (NULL,))
    assert caught.value.kind == "missing_column"
    assert reader.golden([encode_slice(I, 1), encode_slice(S, "x")], 2) == [NULL, encode_slice(S, "x")]


def test_what_means_disabled_is_in_the_columns_own_type() -> None:
    table = {"disable": {"state": 0, "closed": True}}
    binding = {"column": "state", "field": "f", "values": {"1": "on", "0": "off"}}
    plan = compile_plans(config({"f": {}}, binding, **table))["thing"].systems["a"]
    assert plan.columns == ("state", "closed")
    assert plan.write_types == (S, B)
    assert plan.disable == ((0, encode_slice(S, "0")), (1, encode_slice(B, True)))
    assert (plan.bindings[1].reads, plan.bindings[1].writes) == (False, False)


def test_match_keys() -> None:
    spec = {"match": [["email"], ["last", "n"], ["last"]]}
    fields = {"email": {}, "last": {}, "n": {"type": "integer"}}
    plan = compile_plans(config(fields, {"column": "c", "field": "email"}, entity=spec))["thing"]
    golden = [encode_slice(S, " A@B.c "), encode_slice(S, "STRASSE"), encode_slice(I, 7)]
    assert plan.match_keys(golden) == ("0:a@b.c", "1:strasse\x1f7", "2:strasse")
    assert plan.match_keys([encode_slice(S, " "), golden[1], NULL]) == ("2:strasse",)
    assert plan.match_keys([NULL, NULL, golden[2]]) == ()


def flows_config() -> Config:
    table = {"table": "t", "map": [{"column": "c", "field": "f"}, {"column": "d", "field": "g"}]}
    names = ("a", "b", "c", "d")
    return Config.model_validate(
        {
            "systems": {n: {"entities": {"thing": table}} for n in names},
            "entities": {"thing": {"fields": {"f": {}, "g": {"policy": "newest"}}, "priority": ["c"]}},
            "flows": [
                {"entity": "thing", "from": "a", "to": "b", "fields": ["g"], "when": "f == 'x'"},
                {"entity": "thing", "from": ["b", "c"], "to": ["c", "d"], "delay_s": 2, "create": False},
            ],
        }
    )


def test_flows_reach_transitively() -> None:
    plan = compile_plans(flows_config())["thing"]
    assert [(f.source, f.to) for f in plan.flows] == [("a", "b"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert plan.reaches("a", "d")
    assert not plan.reaches("d", "a")
    assert not plan.reaches("a", "a")
    assert [f.source for f in plan.into("d")] == ["b", "c"]
    assert plan.rank == {"c/default": 0, "a/default": 1, "b/default": 2, "d/default": 3}
    assert plan.systems["a"].accepted == {1}
    assert plan.systems["b"].accepted == {0, 1}
    assert plan.systems["d"].accepted == frozenset()
    first = plan.flows[0]
    assert first.fields == {1}
    assert first.when is not None
    assert first.when([encode_slice(S, "x"), NULL])
    assert not first.when([encode_slice(S, "y"), NULL])
    assert plan.flows[1].delay_s == 2
    assert [f.policy for f in plan.fields] == ["priority", "newest"]


def test_what_cannot_be_compiled_names_its_place() -> None:
    with pytest.raises(Fatal, match=r"systems\.a\.entities\.thing\.map\[0\].*not one of on"):
        compile_plans(config({"f": {"values": ["on"]}}, {"column": "c", "field": "f", "values": {"1": "off"}}))
    with pytest.raises(Fatal, match="ISO 4217"):
        compile_plans(
            config({"f": {"type": "decimal"}}, {"column": "c", "field": "f", "minor_units": True, "currency": "EUX"})
        )


@pytest.mark.parametrize(
    ("value", "kind", "blank"),
    [
        ("", S, True),
        (" \t", S, True),
        ("\u00a0", S, True),
        (" x", S, False),
        ("x", S, False),
        ("é", S, False),
        (0, I, False),
    ],
)
def test_blank(value: Any, kind: FieldType, blank: bool) -> None:
    assert is_blank(encode_slice(kind, value), kind) is blank
    assert is_blank(NULL, kind)
    assert is_blank(encode_slice(S, " " * 100), S)
