"""Where secrets stand: every byte of topics, files, tables and outputs is searched for them, in the spellings that programs give them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg

from tidelock.kafka import KafkaClients
from tidelock.topicread import read_all

_LEAST = 10  # a shorter text may stand somewhere by chance
_LONG, _BEGINNING = 100, 60


class Secrets:
    """Secrets by name, in all their spellings: plain, percent-encoded, hexadecimal, and base64 wherever in a longer text they begin."""

    def __init__(self, named: Mapping[str, str] | None = None) -> None:
        self._spelt: dict[bytes, set[str]] = {}
        for name, value in (named or {}).items():
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Add a secret."""
        assert len(value) >= _LEAST, f"{name} is too short to be told from chance"
        plain = value.encode()
        spelt = {plain, quote(value, safe="").encode(), plain.hex().encode()}
        for before in range(3):
            whole = base64.b64encode(b"\0" * before + plain)
            # The first and last characters depend on what stands beside it.
            spelt.add(whole[{0: 0, 1: 2, 2: 3}[before] : len(whole) - 4 if (before + len(plain)) % 3 else None])
        if len(plain) > _LONG:
            spelt.add(plain[:_BEGINNING])  # messages are cut off, and so may be what they quote
        for form in spelt:
            self._spelt.setdefault(form, set()).add(name)

    @property
    def names(self) -> set[str]:
        """Return the names."""
        return set().union(*self._spelt.values())

    def in_bytes(self, data: bytes) -> set[str]:
        """Return the names of the secrets that stand in some bytes."""
        return {name for form, names in list(self._spelt.items()) if form in data for name in names}

    def search(self, places: Iterable[tuple[str, bytes]]) -> dict[str, set[str]]:
        """Return the names of the secrets that stand somewhere, by place."""
        out: dict[str, set[str]] = {}
        for place, data in places:
            if found := self.in_bytes(data):
                out.setdefault(place, set()).update(found)
        return out


def topics(kafka: KafkaClients, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yield everything that stands in the topics of an installation: keys, values, headers."""
    names = sorted(t for t in kafka.admin().list_topics(timeout=30).topics if t.startswith(prefix))
    assert names, "there are no topics"
    for message in read_all(kafka, names):
        parts = [message.key() or b"", message.value() or b""]
        parts += [part for name, value in message.headers() or () for part in (name.encode(), value or b"")]
        yield (
            f"topic {str(message.topic()).removeprefix(prefix)}",
            b"\n".join(p if isinstance(p, bytes) else str(p).encode() for p in parts),
        )


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all files below a folder. Local state is not compressed (`processors.store`), so a search sees what stands in it."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield f"file {path.relative_to(folder)}", path.read_bytes()


def tables(dsn: str) -> Iterator[tuple[str, bytes]]:
    """Yield the dump of every table of a database; bytes are hexadecimal in it, which is one of the spellings searched for."""
    with psycopg.connect(dsn) as db:
        found = db.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert found, "the database is empty"
        for (name,) in found:
            with db.cursor().copy(f"copy {name} to stdout".encode()) as copying:
                yield f"table {name}", b"".join(bytes(part) for part in copying)
