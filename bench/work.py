"""The work that every contestant does: the table, the load on the source, and the wait for the destination.

The load is made by the server itself (`generate_series`), 500 rows a transaction, so that the generator takes as little of the
machine as can be and exactly the same for everyone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from tidelock.errors import Fatal

COLUMNS = ("first_name", "last_name", "email", "phone", "city", "country", "status")
ROWS_PER_TRANSACTION = 500
PROBES = 10_000  # ids below are of probe rows; the work begins above
POLL_S = 0.05
STALLED_S = 120.0
LATENCY_CONNECTIONS = 4

_TABLE: LiteralString = """
    create table contact (
        id bigint primary key, first_name text, last_name text, email text, phone text, city text, country text,
        status text, balance numeric(12,2), updated_at timestamptz{extra}
    )
"""
_ROWS: LiteralString = """
    insert into contact
    select i, 'First' || i %% 1000, 'Last' || i %% 5000, 'user' || i || '@example.com', '+1555' || lpad(i::text, 7, '0'),
           %(city)s, 'USA', 'active', (i %% 100000) / 100.0, clock_timestamp()
    from generate_series(%(first)s::bigint, %(last)s::bigint) i
"""
_CHANGE: LiteralString = (
    "update contact set balance = balance + 1, city = %(city)s where id between %(first)s and %(last)s"
)
_ARRIVED: LiteralString = "select count(*) from contact where id between %(first)s and %(last)s and city = %(city)s"
_LAST: LiteralString = "select exists (select from contact where id = %(last)s and city = %(city)s)"
_PERCENTILES: LiteralString = """
    select percentile_cont(array[0.5, 0.95, 0.99]) within group
               (order by extract(epoch from arrived - updated_at)::float8 * 1000), count(*)
    from contact where id between %(first)s and %(last)s
"""
_SUM: LiteralString = """
    select count(*), sum(hashtext(concat_ws('|', id, first_name, last_name, email, phone, city, country, status,
                                            balance, extract(epoch from updated_at))))
    from contact where id between %(first)s and %(last)s
"""

Check = Callable[[], None]
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Span:
    """Rows by id, both ends included, and the value of `city` that marks this phase's version of them."""

    first: int
    last: int
    city: str

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return self.last - self.first + 1

    def named(self, city: str) -> Span:
        """Return the same rows with another mark."""
        return Span(self.first, self.last, city)

    def values(self) -> dict[str, object]:
        """Return it as parameters of a statement."""
        return {"first": self.first, "last": self.last, "city": self.city}


def create_tables(source: str, target: str) -> None:
    """Create the table on both sides; the destination's has a column that tells when a row arrived."""
    for dsn, extra in ((source, ""), (target, ", arrived timestamptz default clock_timestamp()")):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(_TABLE.replace("{extra}", extra))


class Pair:
    """A source and a destination, connected; ids are given out once, so that phases never meet."""

    def __init__(self, source: str, target: str, *, probes_from: int = 1) -> None:
        self._source_dsn = source
        self.source: Connection = psycopg.connect(source, autocommit=True)
        self.target: Connection = psycopg.connect(target, autocommit=True)
        self._next = PROBES + 1
        self._probe = probes_from - 1

    def close(self) -> None:
        """Close the connections."""
        self.source.close()
        self.target.close()

    def span(self, rows: int, city: str) -> Span:
        """Give out new ids."""
        span = Span(self._next, self._next + rows - 1, city)
        self._next += rows
        return span

    @property
    def next_id(self) -> int:
        """Return the first id that has not been given out."""
        return self._next

    def insert(self, span: Span) -> None:
        """Insert the rows."""
        self._load(_ROWS, span)

    def update(self, span: Span) -> None:
        """Change balance and city of the rows."""
        self._load(_CHANGE, span)

    def wait(self, span: Span, check: Check) -> float:
        """Wait until all rows stand in the destination; return when that was seen (monotonic).

        Cheap while it waits: only the last row is looked for, and all are counted once that is there. `check` is called now
        and then and raises if the contestant is dead. Raises Fatal when nothing moves for two minutes.
        """
        statement = _LAST
        best, moved, checked = -1, time.monotonic(), time.monotonic()
        while True:
            row = self.target.execute(statement, span.values()).fetchone()
            now = time.monotonic()
            found = int(row[0]) if row else 0
            if statement is _LAST and (found or now - moved > STALLED_S / 4):
                statement = _ARRIVED
                continue
            if statement is _ARRIVED:
                if found >= span.rows:
                    return now
                if found > best:
                    best, moved = found, now
            if now - checked > 2.0:
                check()
                checked = now
            if now - moved > STALLED_S:
                raise Fatal(
                    f"only {max(best, 0)} of {span.rows} rows arrived, and nothing moved for {STALLED_S:.0f} s",
                    hint="The contestant's log tells why.",
                )
            time.sleep(POLL_S)

    def verify(self, span: Span) -> None:
        """Hold the rows of both sides against each other; raise Fatal if they differ, for then the figure is worthless."""
        sums = [connection.execute(_SUM, span.values()).fetchone() for connection in (self.source, self.target)]
        if sums[0] != sums[1]:
            raise Fatal(
                f"the destination does not hold what the source holds: rows and sum {sums[1]}, not {sums[0]}",
                hint="Compare the tables `contact` of both databases.",
            )

    def wait_ready(self, check: Check, timeout_s: float = 180.0) -> float:
        """Insert probe rows until one of them comes out at the other end; return how long that took in seconds."""
        begun = time.monotonic()
        asked = 0.0
        first = self._probe + 1
        while time.monotonic() - begun < timeout_s:
            now = time.monotonic()
            if now - asked > 0.5:
                check()
                self._probe += 1
                self.source.execute(_ROWS, {"first": self._probe, "last": self._probe, "city": "probe"})
                asked = now
            row = self.target.execute(
                "select exists (select from contact where id between %s and %s)", [first, self._probe]
            ).fetchone()
            if row and row[0]:
                return time.monotonic() - begun
            time.sleep(POLL_S)
        raise Fatal(f"no row came through within {timeout_s:.0f} s", hint="The contestant's log tells why.")

    def trickle(self, rate: int, seconds: float) -> tuple[Span, float]:
        """Insert single rows at a fixed rate on four connections; return them and the rate that was reached (rows/s)."""
        span = self.span(int(rate * seconds), "trickle")
        begun = time.monotonic() + 0.2
        ended: list[float] = []
        errors: list[psycopg.Error] = []

        def work(number: int) -> None:
            try:
                with psycopg.connect(self._source_dsn, autocommit=True) as connection:
                    for i in range(number, span.rows, LATENCY_CONNECTIONS):
                        pause_s = begun + i / rate - time.monotonic()
                        if pause_s > 0:
                            time.sleep(pause_s)
                        one = {"first": span.first + i, "last": span.first + i, "city": span.city}
                        connection.execute(_ROWS, one, prepare=True)
                    ended.append(time.monotonic())
            except psycopg.Error as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(LATENCY_CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise Fatal(f"the source refused a row: {errors[0]}", hint="See PostgreSQL's log in the stack's folder.")
        return span, span.rows / (max(ended) - begun)

    def latency_ms(self, span: Span) -> dict[str, float]:
        """Return p50, p95 and p99 from the source's clock at the insert to the destination's at its own."""
        row = self.target.execute(_PERCENTILES, span.values()).fetchone()
        assert row is not None
        p50, p95, p99 = (round(value, 1) for value in row[0])
        return {"p50": p50, "p95": p95, "p99": p99}

    def _load(self, statement: LiteralString, span: Span) -> None:
        for first in range(span.first, span.last + 1, ROWS_PER_TRANSACTION):
            last = min(first + ROWS_PER_TRANSACTION - 1, span.last)
            self.source.execute(statement, {"first": first, "last": last, "city": span.city}, prepare=True)
