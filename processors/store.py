"""The local state store: one RocksDB per worker, the overlay a batch writes to, and the marks that say how far it reaches.

The truth is the changelog topic; what stands here may be older or gone at any time. That is why RocksDB's own log is off: a
killed process loses the newest writes, but whole `Store.write` batches and newest first, because there is one column family, a
batch never spans two memtables and memtables are flushed in order. The mark of a scope is in the same batch as its data, so an
older store says truthfully how old it is, and the restore replays the rest (tests/integration/test_engine.py kills it).
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from tidelock.errors import Fatal

MB = 1 << 20
Scope = tuple[str, int]  # an input topic and one of its partitions
Changes = dict[bytes, bytes | None]  # None: the key is gone
_MARK = struct.Struct(">qqd")
_DATA, _META = b"d", b"m"
_ABSENT = object()
_OVERHEAD_BYTES = 250  # of one recent value: its key, both objects, and its place in the dictionary


@dataclass(slots=True, frozen=True)
class Mark:
    """How far a scope reaches: the next offset of its changelog and of its input, when that was so (Unix time), and the
    changelog's topic id, which tells a topic from a later one of the same name.
    """

    changelog: int
    input: int = -1
    at: float = 0.0
    topic_id: str = ""


class Store:
    """Keep keys and values by scope, in ``folder``; about ``buffer_bytes`` + ``cache_bytes`` + ``recent_bytes`` of memory.

    Raises Fatal if another process has it open. A damaged store is thrown away: the changelog has everything.
    """

    def __init__(
        self, folder: Path, *, buffer_bytes: int = 24 * MB, cache_bytes: int = 16 * MB, recent_bytes: int = 56 * MB
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder / "store"
        self._prefixes: dict[Scope, bytes] = {}
        self._options = _options(buffer_bytes, cache_bytes)
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # a property, whatever the stub says
        self._db = self._open()
        # The values written last, oldest first: what is read is mostly what was written a moment ago, and RocksDB costs 20 times as much.
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._most_recent_bytes = recent_bytes

    def _open(self) -> Any:
        try:
            return Rdict(str(self.folder), self._options)
        except Exception as error:
            if "lock" in str(error).lower():
                raise Fatal(
                    f"the local state in {self.folder} is in use by another process",
                    hint="two workers of one role need different slots; or an earlier one is still ending",
                ) from error
            shutil.rmtree(self.folder, ignore_errors=True)
            return Rdict(str(self.folder), self._options)

    def prefix(self, scope: Scope) -> bytes:
        """Return the eight bytes before every key of a scope; hashed, so that they need no table that could be lost."""
        known = self._prefixes.get(scope)
        if known is None:
            digest = hashlib.blake2b(scope[0].encode(), digest_size=5).digest()
            known = self._prefixes[scope] = _DATA + digest + scope[1].to_bytes(2, "big")
        return known

    def get(self, scope: Scope, key: bytes) -> bytes | None:
        """Return a value, None if there is none."""
        name = self.prefix(scope) + key
        value: bytes | None = self._recent.get(name)
        return value if value is not None else self._db.get(name)

    def get_many(self, scope: Scope, keys: list[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in their order."""
        prefix, recent = self.prefix(scope), self._recent
        names = [prefix + key for key in keys]
        values: list[bytes | None] = [recent.get(name) for name in names]
        if None in values:
            missing = [i for i, value in enumerate(values) if value is None]
            for i, value in zip(missing, self._db.get([names[i] for i in missing]), strict=True):
                values[i] = value
        return values

    def scan(self, scope: Scope, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys that start with ``prefix``, in order, with their values, as they stand when it is called."""
        start = self.prefix(scope) + prefix
        cut = len(self.prefix(scope))
        for key, value in self._db.items(from_key=start):
            if not key.startswith(start):
                return
            yield key[cut:], value

    def write(self, changes: Mapping[Scope, Changes], marks: Mapping[Scope, Mark]) -> None:
        """Write data and marks in one atomic batch."""
        batch = WriteBatch(raw_mode=True)
        put, delete, recent = batch.put, batch.delete, self._recent
        size = self._recent_bytes
        for scope, keys in changes.items():
            prefix = self.prefix(scope)
            for key, value in keys.items():
                name = prefix + key
                before = recent.pop(name, None)
                if before is not None:
                    size -= len(before) + _OVERHEAD_BYTES
                if value is None:
                    delete(name)
                else:
                    put(name, value)
                    recent[name] = value
                    size += len(value) + _OVERHEAD_BYTES
        while size > self._most_recent_bytes:
            size -= len(recent.popitem(last=False)[1]) + _OVERHEAD_BYTES
        self._recent_bytes = size
        for scope, mark in marks.items():
            put(_META + self.prefix(scope), _MARK.pack(mark.changelog, mark.input, mark.at) + mark.topic_id.encode())
        self._db.write(batch, self._unlogged)

    def mark(self, scope: Scope) -> Mark | None:
        """Return how far a scope reaches, None if nothing is known of it."""
        raw: bytes | None = self._db.get(_META + self.prefix(scope))
        if raw is None:
            return None
        changelog, input_, at = _MARK.unpack_from(raw)
        return Mark(changelog, input_, at, raw[_MARK.size :].decode())

    def touch(self, scopes: Iterable[Scope]) -> None:
        """Say that these scopes are up to date now, though nothing changed; an idle worker's state must not grow old."""
        now = time.time()
        known = ((scope, self.mark(scope)) for scope in scopes)
        self.write({}, {s: Mark(m.changelog, m.input, now, m.topic_id) for s, m in known if m is not None})

    def wipe(self, scope: Scope) -> None:
        """Forget everything of a scope, its mark too."""
        prefix = self.prefix(scope)
        self._recent.clear()
        self._recent_bytes = 0
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(prefix, _after(prefix))
        batch.delete(_META + prefix)
        self._db.write(batch, self._unlogged)

    def flush(self) -> None:
        """Put everything on disk, so that a killed process need not replay it."""
        self._db.flush()

    def close(self) -> None:
        """Flush and let go of the folder."""
        self._db.flush()
        self._db.close()


def _after(prefix: bytes) -> bytes:
    """Return the first key behind all keys with this prefix."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


def _options(buffer_bytes: int, cache_bytes: int) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(cache_bytes))
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)  # else they grow with the data, outside every limit
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_block_size(4096)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(buffer_bytes // 2)
    options.set_max_write_buffer_number(2)
    options.set_level_zero_file_num_compaction_trigger(8)  # states are overwritten all the time: merge them less often
    options.set_compression_type(DBCompressionType.none())  # values are small and read at random: unpacking costs more
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MB)
    return options


class Overlay:
    """What a batch has read and changed, over a store; see `processors.stage.Overlay`. Dropped on abort, applied on commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Scope, dict[bytes, bytes | None]] = {}
        self._undo: list[tuple[Scope, bytes, Any]] | None = None
        self.changes: dict[Scope, Changes] = {}

    def load(self, topic: str, partition: int, keys: Iterable[bytes]) -> Mapping[bytes, bytes | None]:
        """Fetch what is not known yet of many keys, in one read of the store; return what is known."""
        scope = (topic, partition)
        known = self._known.setdefault(scope, {})
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            known.update(zip(missing, self._store.get_many(scope, missing), strict=True))
        return known

    def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return the value as this batch sees it."""
        scope = (topic, partition)
        known = self._known.get(scope)
        if known is None:
            known = self._known[scope] = {}
        value = known.get(key, _ABSENT)
        if value is _ABSENT:
            value = known[key] = self._store.get(scope, key)
        return value  # type: ignore[return-value]  # the sentinel is gone

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Set a value for this batch; None deletes."""
        scope = (topic, partition)
        changes = self.changes.get(scope)
        if changes is None:
            changes = self.changes[scope] = {}
            self._known.setdefault(scope, {})
        if self._undo is not None:
            self._undo.append((scope, key, changes.get(key, _ABSENT)))
        changes[key] = self._known[scope][key] = value

    def update(self, topic: str, partition: int, changes: Mapping[bytes, bytes | None]) -> None:
        """Set many values for this batch; None deletes."""
        if self._undo is not None:
            for key, value in changes.items():
                self.put(topic, partition, key, value)
            return
        scope = (topic, partition)
        self.changes.setdefault(scope, {}).update(changes)
        self._known.setdefault(scope, {}).update(changes)

    def scan(self, topic: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys with a prefix in order, store and batch merged, as they stand when iteration starts."""
        scope = (topic, partition)
        own = {k: v for k, v in self.changes.get(scope, {}).items() if k.startswith(prefix)}
        ours = iter(sorted(own))
        mine = next(ours, None)
        for key, value in self._store.scan(scope, prefix):
            while mine is not None and mine < key:
                if (new := own[mine]) is not None:
                    yield mine, new
                mine = next(ours, None)
            if mine == key:
                continue  # ours replaces it; it comes out in the loop above, or below at the end
            yield key, value
        while mine is not None:
            if (new := own[mine]) is not None:
                yield mine, new
            mine = next(ours, None)

    def clear(self) -> None:
        """Drop everything this batch has read and changed."""
        self._known.clear()
        self.changes.clear()

    def savepoint(self) -> None:
        """Remember from here on what `put` replaces, so that `undo` can take it back; forgets the last savepoint."""
        self._undo = []

    def undo(self) -> None:
        """Take back every `put` since the savepoint."""
        for scope, key, before in reversed(self._undo or ()):
            if before is _ABSENT:
                del self.changes[scope][key]
                del self._known[scope][key]
            else:
                self.changes[scope][key] = self._known[scope][key] = before
        self._undo = []
