"""Records in the order of their last change, for lists that are asked for what was modified since."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any

Place = tuple[int, Any]
"""Where a record stands: milliseconds of its last change, then its id, which breaks ties."""


class Log:
    """Places in order. One that its record has left stays until half of them are such, so a change costs no search through all."""

    def __init__(self, alive: Callable[[Place], bool]) -> None:
        self._alive = alive
        self._places: list[Place] = []
        self._stale = 0

    def add(self, place: Place) -> None:
        """Put a place in; almost always at the end."""
        places = self._places
        if not places or place > places[-1]:
            places.append(place)
            return
        at = bisect_left(places, place)
        if places[at] != place:
            places.insert(at, place)

    def left(self) -> None:
        """Note that a record has left its place."""
        self._stale += 1
        if self._stale > 1000 and self._stale * 2 > len(self._places):
            self._places = [p for p in self._places if self._alive(p)]
            self._stale = 0

    def after(self, place: Place) -> Iterator[Place]:
        """Yield the living places behind this one."""
        for at in range(bisect_right(self._places, place), len(self._places)):
            if self._alive(self._places[at]):
                yield self._places[at]
