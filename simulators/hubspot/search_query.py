"""Filters of searches: which values they let through, and how values compare."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from simulators.hubspot import moments
from simulators.hubspot.definitions import Definition
from simulators.hubspot.errors import invalid

OPERATORS = frozenset(
    "EQ NEQ LT LTE GT GTE BETWEEN IN NOT_IN HAS_PROPERTY NOT_HAS_PROPERTY CONTAINS_TOKEN NOT_CONTAINS_TOKEN".split()  # noqa: SIM905 - a list of words
)
Key = float | str
Test = Callable[[dict[str, str]], bool]
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one property, with its operands as they compare."""

    definition: Definition
    operator: str
    operands: tuple[Key, ...]
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the property's name."""
        return self.definition.name

    @property
    def numeric(self) -> bool:
        """Return whether values compare as numbers."""
        return self.definition.type in ("number", "datetime", "date")

    def bounds(self) -> tuple[float | None, float | None]:
        """Return the lowest and the highest number that pass, both included, for operators that ask for a range of whole numbers."""
        if not self.numeric or not self.operands:
            return None, None
        first = float(self.operands[0])
        match self.operator:
            case "EQ":
                return first, first
            case "GT":
                return math.floor(first) + 1, None
            case "GTE":
                return first, None
            case "LT":
                return None, math.ceil(first) - 1
            case "LTE":
                return None, first
            case "BETWEEN":
                return first, float(self.operands[1])
        return None, None

    def test(self) -> Test:
        """Return the function that tells whether a record's values pass."""
        name, operator, operands = self.name, self.operator, self.operands
        definition = self.definition
        if operator == "HAS_PROPERTY":
            return lambda values: name in values
        if operator == "NOT_HAS_PROPERTY":
            return lambda values: name not in values
        if operator in ("CONTAINS_TOKEN", "NOT_CONTAINS_TOKEN"):
            wanted = [t.lower() for t in self.texts]
            found = operator == "CONTAINS_TOKEN"
            return lambda values: _contains(values.get(name, ""), wanted) is found
        if operator in ("EQ", "IN", "NEQ", "NOT_IN"):
            among, inside = frozenset(operands), operator in ("EQ", "IN")
            return lambda values: (name in values and key(definition, values[name]) in among) is inside
        first, last = operands[0], operands[-1]
        compare: dict[str, Callable[[Any], bool]] = {
            "LT": lambda v: v < first,
            "LTE": lambda v: v <= first,
            "GT": lambda v: v > first,
            "GTE": lambda v: v >= first,
            "BETWEEN": lambda v: first <= v <= last,
        }
        passes = compare[operator]
        return lambda values: name in values and passes(key(definition, values[name]))


def key(definition: Definition, text: str) -> Key:
    """Return a value as it compares: numbers and times as numbers, everything else without regard to case."""
    try:
        if definition.type == "number":
            return float(text)
        if definition.type == "datetime":
            return float(moments.read(text))
        if definition.type == "date":
            return float(moments.read(text))
    except (ValueError, OverflowError, OSError):
        return float("nan")
    return text.lower()


def filter_of(given: Any, definition: Definition | None) -> Filter:
    """Return a filter as a search's body spells it. Raises Refused (400)."""
    name, operator = given.get("propertyName"), given.get("operator")
    if definition is None:
        raise invalid(f'There was a problem with the request: property "{name}" does not exist')
    if operator not in OPERATORS:
        raise invalid(
            f"Invalid input JSON on line 1, column 1: {operator} is not one of {', '.join(sorted(OPERATORS))}"
        )
    if operator in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
        return Filter(definition, operator, (), ())
    if operator in ("IN", "NOT_IN"):
        texts = given.get("values")
        if not isinstance(texts, list) or not texts:
            raise invalid(f"Filter on {name}: operator {operator} requires values")
    elif operator == "BETWEEN":
        texts = [given.get("value"), given.get("highValue")]
    else:
        texts = [given.get("value")]
    if any(t is None for t in texts):
        raise invalid(
            f"Filter on {name}: operator {operator} requires {'value and highValue' if len(texts) > 1 else 'value'}"
        )
    strings = tuple(str(t) for t in texts)
    operands = tuple(key(definition, t) for t in strings)
    if any(o != o for o in operands) and not operator.endswith("TOKEN"):  # not a number
        raise invalid(f"Filter on {name}: {', '.join(strings)} is no {definition.type}")
    return Filter(definition, operator, operands, strings)


def _contains(text: str, wanted: list[str]) -> bool:
    """Return whether a text has the tokens of one of some patterns; a token is a word or what stands between blanks."""
    lowered = text.lower()
    tokens = {*lowered.split(), *lowered.replace(";", " ").split(), *_WORDS.findall(lowered)}
    return any(all(any(fnmatchcase(t, part) for t in tokens) for part in pattern.split()) for pattern in wanted)


def matches_text(values: dict[str, str], names: tuple[str, ...], words: list[str]) -> bool:
    """Return whether every word begins a token of one of the properties."""
    text = " ".join(values[n] for n in names if n in values).lower()
    tokens = {*text.split(), *_WORDS.findall(text)}
    return all(any(t.startswith(word) for t in tokens) for word in words)
