"""Values of records as HTTP APIs spell them."""

from __future__ import annotations

from tidelock.apis.records import micros_of


def test_times_are_exact_to_the_microsecond() -> None:
    assert micros_of("2026-11-26T13:00:01.123457Z") == 1_795_698_001_123_457
    assert micros_of("1969-12-31T23:59:59.999999Z") == -1
    assert micros_of("1970-01-01T02:00:00+02:00") == 0
    assert micros_of("9999-12-31T23:59:59.999999") == 253_402_300_799_999_999, "a float would round it up"
