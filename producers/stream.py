"""The stream of one slot, message by message, into change topics: the hot loop of capture by replication."""

from __future__ import annotations

import struct
import time
from typing import Protocol

from producers.base import Publisher
from producers.columns import some_long
from producers.pgoutput import (
    UNCHANGED,
    LogicalMessage,
    Relation,
    Text,
    read_begin,
    read_commit,
    read_message,
    read_origin,
    read_relation,
    read_truncate,
    read_tuple,
)
from producers.rows import NO_ORIGIN, SourceColumn
from producers.tables import Table, Tables
from producers.walsender import WalSender, show_lsn
from tidelock.avro import encode_long, encode_string
from tidelock.change import CREATE, DELETE, OURS, UPDATE, position
from tidelock.context import Context
from tidelock.envelopes import Entry, Receipts
from tidelock.errors import Reject

RECEIPTS = "tidelock.receipts"
CREATED = "identity:"  # before the entity of a pack in the log: the fate of a create, for identify
WATERMARK = "tidelock.watermark"
ORIGIN_PREFIX = "tidelock_"
_MULTIPLIER = 0x9E3779B97F4A7C15F39CC0605CEDC835  # of `tidelock.change.event_id`; a test holds the two together
_OUR_ORIGIN = b"\x02" + encode_string(OURS)
_CREATE, _UPDATED = encode_long(CREATE), encode_long(UPDATE)
_MASK = (1 << 128) - 1
_XIDS_KEPT = 131_072
_POLL_EVERY = 1000
LINGER_S = 0.002
LONGEST_S = 0.05
_BAD = (Reject, ValueError, OverflowError, struct.error)

_W, _K = b"wk"
_INSERT, _UPDATE, _DELETE, _BEGIN, _COMMIT, _RELATION, _MESSAGE, _ORIGIN, _TRUNCATE, _NEW, _OLD = b"IUDBCRMOTNO"


class Listener(Protocol):
    """Who is told of what is not a row."""

    def types(self, relation: Relation) -> list[str]:
        """Spell the types of a relation's columns."""

    def watermark(self, content: str, lsn: int, source_time: int) -> int:
        """Take a watermark met at a commit LSN; return how many rows it made publish."""

    def truncated(self, table: Table, kept: set[bytes]) -> list[bytes]:
        """Return the keys that a TRUNCATE has removed, other than ``kept``."""

    def reread(self, entity: str, key: bytes) -> None:
        """See to it that a row is read again: its change did not carry every column."""


class Emptied:
    """A window from a TRUNCATE to the end of its transaction: rows that are put back in it were not deleted."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()

    def seen(self, key: bytes, *, partial: bool) -> None:  # noqa: ARG002 - the shape of `Window`
        """Keep a key that was put back."""
        self.keys.add(key)

    def void(self) -> None:
        """Forget what was put back: it was emptied once more."""
        self.keys.clear()


class Stream:
    """Decode and publish. ``done`` is the LSN before which everything has been published (not: acknowledged).

    After an exception the object is spent: make another one and read the slot again from its confirmed position.
    """

    def __init__(
        self,
        context: Context,
        system: str,
        publisher: Publisher,
        tables: Tables,
        listener: Listener,
        done: int,
        xids: dict[int, int] | None = None,
    ) -> None:
        self._context = context
        self._system = system
        self._publisher = publisher
        self._tables = tables
        self._listener = listener
        self._by_oid: dict[bytes, Table] = {}
        self._emptied: dict[str, Emptied] = {}
        self.done = done
        self.committed = done  # as `done`, but moved by transactions only
        self.open = self.more = False
        self.reply_wanted = False
        # Transaction id → commit LSN, the last ones: those of the stream before, too, which are not sent again.
        self.xids: dict[int, int] = {} if xids is None else xids
        self._commit = self._source_time = self._position = 0
        self._origin_text: str | None = None
        self._captured_at = 0
        self._create = self._update = b""

    def drain(self, sender: WalSender, most: int) -> int:
        """Publish what has been sent, about ``most`` messages; return the number of changes.

        ``more`` tells afterwards whether it stopped for the number, not for want of messages.
        """
        read, wait, by_oid = sender.read, sender.wait, self._by_oid
        self._captured_at = time.time_ns() // 1000
        if self.open:  # in the middle of a long transaction
            self._heads()
        create, update, pos = self._create, self._update, self._position
        origin = self._set_origin(self._origin_text)
        monotonic = time.monotonic
        end = monotonic() + LONGEST_S
        count = messages = 0
        while messages < most:
            data = read()
            if data is None:
                # A moment's wait here, where the next message wakes us at once, costs less than a step for every few messages.
                if monotonic() > end or not wait(LINGER_S):
                    break
                continue
            messages += 1
            if data[0] == _W:
                what = data[25]
                if what == _INSERT or (what == _UPDATE and data[30] == _NEW):
                    table = by_oid.get(data[26:30])
                    if table is None:
                        continue
                    pos += 1
                    count += 1
                    table.captured += 1
                    try:
                        key, value = table.change(
                            data,
                            33,
                            pos.to_bytes(16, "big"),
                            pos * _MULTIPLIER & _MASK,
                            create if what == _INSERT else update,
                            origin,
                        )
                    except _BAD as error:
                        self._reject(table, data, 31, error)
                        continue
                    table.send(key, value)
                    if origin is _OUR_ORIGIN:
                        table.echoes += 1
                    if table.windows:
                        self._seen(table, key, bool(table.plan.row(data, 33)[2]))
                    if not count % _POLL_EVERY:
                        self._publisher.poll()
                elif what == _BEGIN:
                    self._begin(data)
                    create, update, origin, pos = self._create, self._update, NO_ORIGIN, self._position
                elif what == _COMMIT:
                    self._position = pos
                    count += self._end(data)
                elif what == _ORIGIN:
                    origin = self._set_origin(read_origin(data, 26))
                else:
                    self._position = pos
                    count += self._other(what, data)
                    pos = self._position
            elif data[0] == _K:
                self.reply_wanted = self.reply_wanted or data[17] == 1
                if not self.open:
                    self.done = max(self.done, int.from_bytes(data[1:9], "big"))
        self._position = pos
        self.more = messages >= most
        return count

    def count(self) -> None:
        """Hand the counts since the last time to the activity."""
        activity = self._context.activity
        for table in self._tables.by_entity.values():
            if table.captured:
                activity.count("captured", self._system, table.entity, table.captured)
                table.captured = 0
            if table.echoes:
                activity.count("echoes", self._system, table.entity, table.echoes)
                table.echoes = 0

    def _begin(self, data: bytes) -> None:
        self._commit, self._source_time, xid = read_begin(data, 26)
        self.xids[xid] = self._commit
        if len(self.xids) > _XIDS_KEPT:
            for old in list(self.xids)[: _XIDS_KEPT // 2]:
                del self.xids[old]
        self._position = self._commit << 64
        self._origin_text = None
        self.open = True
        self._heads()

    def _set_origin(self, name: str | None) -> bytes:
        """Take note of who wrote this transaction: our own sinks have origins of their own."""
        if name is None:
            return NO_ORIGIN
        if name == OURS or name.startswith(ORIGIN_PREFIX):
            self._origin_text = OURS
            return _OUR_ORIGIN
        self._origin_text = name
        return b"\x02" + encode_string(name)

    def _heads(self) -> None:
        times = some_long(self._source_time)[1:] + some_long(self._captured_at)[1:]
        self._create, self._update = _CREATE + times, _UPDATED + times

    def _end(self, data: bytes) -> int:
        count = 0
        for entity, emptied in self._emptied.items():
            table = self._tables.by_entity[entity]
            table.windows.remove(emptied)
            for key in self._listener.truncated(table, emptied.keys):
                self._slow(table, DELETE, key, None)
                count += 1
        self._emptied.clear()
        self.open = False
        self.done = self.committed = read_commit(data, 26)[1]
        return count

    def _other(self, what: int, data: bytes) -> int:
        if what in (_UPDATE, _DELETE):
            table = self._by_oid.get(data[26:30])
            if table is None:
                return 0
            try:
                return self._replaced(table, data) if what == _UPDATE else self._deleted(table, data)
            except _BAD as error:
                self._position += 1
                self._reject(table, data, 31, error)
                return 1
        if what == _RELATION:
            self._relation(read_relation(data, 26))
        elif what == _MESSAGE:
            return self._message(read_message(data, 26))
        elif what == _TRUNCATE:
            for oid in read_truncate(data, 26):
                self._truncate(oid)
        return 0

    def _replaced(self, table: Table, data: bytes) -> int:
        """Publish an update that came with the old key or the whole old row."""
        old, at = read_tuple(data, 31)
        new, _ = read_tuple(data, at + 1)
        whole = data[30] == _OLD
        if whole:
            new = [o if n is UNCHANGED else n for o, n in zip(old, new, strict=True)]
        plan = table.plan
        old_key, key = plan.key_of(old), plan.key_of(new)
        plan.slices_of(new)  # refuse the row before anything of it is published
        before = plan.slices_of(old) if whole else None
        if key == old_key:
            self._slow(table, UPDATE, key, new, before)
            return 1
        self._slow(table, DELETE, old_key, None, before)
        self._slow(table, CREATE, key, new)
        if plan.absent_of(new):
            self._listener.reread(table.entity, key)
        return 2

    def _deleted(self, table: Table, data: bytes) -> int:
        old, _ = read_tuple(data, 31)
        before = table.plan.slices_of(old) if data[30] == _OLD else None
        self._slow(table, DELETE, table.plan.key_of(old), None, before)
        return 1

    def _slow(
        self,
        table: Table,
        op: int,
        key: bytes,
        after: list[Text] | None,
        before: list[bytes] | None = None,
    ) -> None:
        """Publish one change by the general writer."""
        self._position += 1
        pos = self._position.to_bytes(16, "big")
        plan = table.plan
        absent = plan.absent_of(after) if after is not None else ()
        value = plan.writer.write(
            plan.event_id(key, pos),
            pos,
            op,
            self._source_time,
            self._captured_at,
            key,
            plan.slices_of(after) if after is not None else None,
            before,
            absent,
            self._origin_text,
            None,
            plan.actor_of(after) if after is not None and self._origin_text is None else None,
        )
        table.captured += 1
        if self._origin_text == OURS:
            table.echoes += 1
        table.send(key, value)
        if table.windows:
            self._seen(table, key, bool(absent))

    def _seen(self, table: Table, key: bytes, partial: bool) -> None:
        for window in table.windows:
            window.seen(key, partial=partial)

    def _reject(self, table: Table, data: bytes, at: int, error: Exception) -> None:
        try:
            texts, at = read_tuple(data, at)
            if data[25] == _UPDATE and data[30] != _NEW:
                texts, at = read_tuple(data, at + 1)
            key = table.plan.key_of(texts)
        except (ValueError, Reject, IndexError):
            key = b""
        reason = error if isinstance(error, Reject) else Reject(f"a value cannot be read: {error}", kind="bad_value")
        table.reject(key, data[25:-4], reason)
        if table.windows:
            self._seen(table, key, False)

    def _relation(self, relation: Relation) -> None:
        table = self._tables.by_name.get((relation.schema, relation.table))
        if table is None:
            self._by_oid.pop(relation.oid.to_bytes(4, "big"), None)  # it may have been ours under another name
            return
        texts = self._listener.types(relation)
        source = [SourceColumn(c.name, c.oid, text) for c, text in zip(relation.columns, texts, strict=True)]
        table.use(self._tables.plan(table.entity, source))
        self._by_oid[relation.oid.to_bytes(4, "big")] = table

    def _message(self, message: LogicalMessage) -> int:
        if not message.transactional:
            if not self.open:
                self.done = max(self.done, message.lsn)
            return 0
        if message.prefix == RECEIPTS:
            self._receipts(message.content)
        elif message.prefix == WATERMARK:
            return self._listener.watermark(message.content.decode(errors="replace"), self._commit, self._source_time)
        return 0

    def _receipts(self, content: bytes) -> None:
        """Send our own sink's receipts on, at the exact position of the transaction that made them."""
        header = self._context.codec.header("receipts") + position(self._commit, 0)
        try:
            receipts = read_receipts(content)
        except ValueError as error:
            self._publisher.alert(
                "bad_receipts",
                "",
                self._system,
                f"a {RECEIPTS} message of system {self._system} at {show_lsn(self._commit)} cannot be read: {error}",
                "find out who else emits logical messages with that prefix there",
            )
            return
        for name, partition, body in receipts:
            pack, entity = header + body[16:], name.removeprefix(CREATED)
            if entity == name:
                self._publisher.raw(self._context.topics.journal(entity), None, pack, partition)
            else:
                self._publisher.raw(self._context.topics.identity(entity), None, self._created(pack, partition), 0)

    def _created(self, pack: bytes, partition: int) -> bytes:
        """Return the entry by which identify hears of the fate of a create; it passes the pack on to the journal."""
        receipts = Receipts.decode(pack)
        receipt = receipts.items[0]
        entry = Entry(
            "created",
            receipt.canonical_id,
            receipts.system,
            receipts.tenant,
            receipt.native_key or "",
            partition=partition,
            payload=pack,
        )
        return self._context.codec.header("entry") + entry.encode()

    def _truncate(self, oid: int) -> None:
        table = self._by_oid.get(oid.to_bytes(4, "big"))
        if table is None:
            return
        for window in table.windows:
            window.void()
        if table.entity not in self._emptied:
            emptied = self._emptied[table.entity] = Emptied()
            table.windows.append(emptied)


def read_receipts(content: bytes) -> list[tuple[str, int, bytes]]:
    """Cut the content of a ``tidelock.receipts`` message into (entity, journal partition, Avro body). Raises ValueError."""
    out = []
    at = 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 2], "big")
        at += 2
        entity = content[at : at + size].decode()
        at += size
        partition = int.from_bytes(content[at : at + 2], "big")
        size = int.from_bytes(content[at + 2 : at + 6], "big")
        body = content[at + 6 : at + 6 + size]
        at += 6 + size
        if len(body) != size or size < 16:
            raise ValueError("a receipts message ends before its content")
        out.append((entity, partition, body))
    return out
