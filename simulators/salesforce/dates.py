"""Date literals of SOQL, TODAY and its kin, as spans of days in UTC. Fiscal years are calendar years here."""

from __future__ import annotations

import re
from datetime import date, timedelta

_FIXED = re.compile(r"(LAST|THIS|NEXT)_(WEEK|MONTH|QUARTER|YEAR)\Z")
_COUNTED = re.compile(r"(?:(LAST|NEXT)_N_|N_)(DAY|WEEK|MONTH|QUARTER|YEAR)S(_AGO)?:(\d+)\Z")
_DAYS = {"TODAY": 0, "YESTERDAY": -1, "TOMORROW": 1}


def span(literal: str, today: date) -> tuple[date, date] | None:
    """Return the first day and the day after the last one; None if there is no such literal."""
    literal = literal.replace("FISCAL_", "")
    if literal in _DAYS:
        day = today + timedelta(days=_DAYS[literal])
        return day, day + timedelta(days=1)
    if literal == "LAST_90_DAYS":
        return today - timedelta(days=90), today + timedelta(days=1)
    if literal == "NEXT_90_DAYS":
        return today + timedelta(days=1), today + timedelta(days=91)
    if (match := _FIXED.match(literal)) is not None:
        moved = {"LAST": -1, "THIS": 0, "NEXT": 1}[match[1]]
        return _unit(today, match[2], moved), _unit(today, match[2], moved + 1)
    match = _COUNTED.match(literal)
    if match is None or bool(match[1]) is bool(match[3]):
        return None
    unit, count = match[2], int(match[4])
    if match[3]:
        return _unit(today, unit, -count), _unit(today, unit, 1 - count)
    if match[1] == "LAST":
        return _unit(today, unit, -count), _unit(today, unit, 1 if unit == "DAY" else 0)
    return _unit(today, unit, 1), _unit(today, unit, count + 1)


def _unit(today: date, unit: str, moved: int) -> date:
    """Return the first day of the unit that is ``moved`` units away from today's."""
    if unit == "DAY":
        return today + timedelta(days=moved)
    if unit == "WEEK":  # weeks begin on Sunday
        return today - timedelta(days=(today.weekday() + 1) % 7) + timedelta(weeks=moved)
    if unit == "YEAR":
        return date(today.year + moved, 1, 1)
    months = 3 if unit == "QUARTER" else 1
    first = today.year * 12 + (today.month - 1) // months * months + moved * months
    return date(first // 12, first % 12 + 1, 1)
