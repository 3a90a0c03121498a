"""Typed access to what identify remembers; the rows themselves are in `processors.identity_rows`."""

from __future__ import annotations

from collections.abc import Iterator

from processors.identity_rows import (
    CUT,
    FIRST_HOLDER,
    FRESH_KEY,
    Key,
    Native,
    Place,
    Record,
    Rows,
    Sight,
    encode_strings,
    key_row,
    native_row,
    number,
    part,
    record_row,
    unpart,
)
from tidelock.avro import decode_long, encode_bytes, encode_long
from tidelock.change import read_strings


class Ledger:
    """Typed access to the rows, and the small structures that span several of them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._places: dict[str, Place] = {}

    def flush(self) -> None:
        """Write back the counters of places; they change with nearly every entry, so this is done once per batch."""
        for place, row in self._places.items():
            self.rows.put(b"s:" + place.encode(), row.encode())
        self._places.clear()

    def native(self, place: str, native: str) -> Native:
        """Return a native, a fresh one if nothing is known of it."""
        data = self.rows.get(native_row(place, native))
        return Native() if data is None else Native.decode(data)

    def save_native(self, place: str, native: str, n: Native) -> None:
        """Write a native back."""
        self.rows.put(native_row(place, native), n.encode())

    def record(self, cid: str) -> Record | None:
        """Return a record, or None if there is none (never made, or dead and without members)."""
        data = self.rows.get(record_row(cid))
        return None if data is None else Record.decode(data)

    def save_record(self, cid: str, r: Record) -> None:
        """Write a record back; a dead one without members is forgotten (natives remember how many ids they gave)."""
        forget = not (r.alive or r.members or r.awaited or r.into)
        self.rows.put(record_row(cid), None if forget else r.encode())

    def key(self, key: str) -> Key | None:
        """Return a match key, or None if nobody holds or waits for it."""
        data = self.rows.get(key_row(key))
        return None if data is None else Key.decode(data)

    def save_key(self, key: str, row: Key) -> None:
        """Write a match key back."""
        self.rows.put(key_row(key), row.encode())

    def place(self, place: str) -> Place:
        """Return the creates in flight of a place; `flush` writes back what is changed in it."""
        row = self._places.get(place)
        if row is None:
            data = self.rows.get(b"s:" + place.encode())
            row = self._places[place] = Place() if data is None else Place.decode(data)
        return row

    # ---- holders of a key: inline while there is one, rows of their own while there are several

    def take_key(self, key: str, cid: str) -> Key:
        """Add a holder."""
        name = key_row(key)
        data = self.rows.get(name)
        if data is None:  # nearly always
            self.rows.put(name, FIRST_HOLDER + encode_bytes(cid.encode()))
            return FRESH_KEY
        row = Key.decode(data)
        if row.count == 0:
            row.only = cid
        else:
            if row.count == 1:
                self.rows.put(b"K:" + part(key) + CUT + row.only.encode(), b"")
                row.only = ""
            self.rows.put(b"K:" + part(key) + CUT + cid.encode(), b"")
        row.count += 1
        self.save_key(key, row)
        return row

    def drop_key(self, key: str, cid: str) -> Key:
        """Remove a holder."""
        row = self.key(key) or Key()
        if row.count == 1:
            if row.only == cid:
                row.count, row.only = 0, ""
        elif row.count > 1:
            self.rows.put(b"K:" + part(key) + CUT + cid.encode(), None)
            row.count -= 1
            if row.count == 1:
                row.only = self.holders(key)[0]
                self.rows.put(b"K:" + part(key) + CUT + row.only.encode(), None)
        self.save_key(key, row)
        return row

    def holders(self, key: str) -> list[str]:
        """Return the holders of a key of which there are several, in order of their ids."""
        prefix = b"K:" + part(key) + CUT
        return [k[len(prefix) :].decode() for k, _ in self.rows.scan(prefix)]

    # ---- changes of a native that wait

    def enqueue(self, n: Native, sight: Sight) -> None:
        """Put a change behind the waiting ones of its native; the caller saves the native."""
        self.rows.put(self._queue_row(sight.place, sight.native, n.first + n.queued), sight.encode())
        n.queued += 1

    def waiting(self, place: str, native: str, n: Native) -> Iterator[tuple[int, Sight]]:
        """Yield the waiting changes of a native by their numbers, in order."""
        for i in range(n.first, n.first + n.queued):
            data = self.rows.get(self._queue_row(place, native, i))
            assert data is not None, f"identify: change {i} of {place}/{native} waits but is not there"
            yield i, Sight.decode(place, native, data)

    def put_waiting(self, i: int, sight: Sight) -> None:
        """Put another change in the place of a waiting one."""
        self.rows.put(self._queue_row(sight.place, sight.native, i), sight.encode())

    def head(self, place: str, native: str, n: Native) -> Sight:
        """Return the first waiting change."""
        return next(self.waiting(place, native, n))[1]

    def dequeue(self, place: str, native: str, n: Native) -> None:
        """Remove the first waiting change; the caller saves the native."""
        self.rows.put(self._queue_row(place, native, n.first), None)
        n.first += 1
        n.queued -= 1

    def requeue(self, n: Native, sight: Sight) -> None:
        """Put a change back in front of the waiting ones, as number ``n.first``; the caller saves the native."""
        self.rows.put(self._queue_row(sight.place, sight.native, n.first), sight.encode())
        n.queued += 1

    @staticmethod
    def _queue_row(place: str, native: str, i: int) -> bytes:
        return f"w:{place}/{native}".encode() + CUT + number(i)

    # ---- natives that are held

    def hold(self, n: Native, sight: Sight, keys: tuple[str, ...]) -> None:
        """Keep a native's change and note it under the keys that may free it; the caller saves the native."""
        n.held = True
        self.rows.put(f"h:{sight.place}/{sight.native}".encode(), encode_strings(keys) + sight.encode())
        for key in keys:
            self.rows.put(self._held_row(key, sight.place, sight.native), b"")
            row = self.key(key) or Key()
            if not row.held:
                row.held = True
                self.save_key(key, row)

    def unhold(self, place: str, native: str, n: Native) -> Sight | None:
        """Let a held native go and return what was kept of it; the caller saves it, and empties or uses ``n.rival``."""
        n.held = False
        name = f"h:{place}/{native}".encode()
        data = self.rows.get(name)
        if data is None:
            return None
        keys, at = read_strings(data, 0)
        for key in keys:
            self.rows.put(self._held_row(key, place, native), None)
        self.rows.put(name, None)
        return Sight.decode(place, native, data, at)

    def held_by(self, key: str, place: str) -> Iterator[str]:
        """Yield the native keys that are held in a place because of a key; materialise before changing anything."""
        prefix = b"Q:" + part(key) + CUT + part(place) + CUT
        for k, _ in self.rows.scan(prefix):
            yield unpart(k[len(prefix) :])

    @staticmethod
    def _held_row(key: str, place: str, native: str) -> bytes:
        return b"Q:" + part(key) + CUT + part(place) + CUT + part(native)

    # ---- writes that are blocked, by a key ("k...") or by a native ("n...")

    def block(self, what: bytes, cid: str, place: str) -> None:
        """Note that a record's write to a place waits for something to move."""
        self.rows.put(b"B:" + what + CUT + part(cid) + CUT + part(place), b"")

    def unblock(self, what: bytes) -> list[tuple[str, str]]:
        """Remove and return who waited, as (canonical id, place)."""
        prefix = b"B:" + what + CUT
        found = [k for k, _ in self.rows.scan(prefix)]
        out = []
        for k in found:
            self.rows.put(k, None)
            cid, place = k[len(prefix) :].split(CUT)
            out.append((unpart(cid), unpart(place)))
        return out

    # ---- creates in flight, and who waits for them

    def grant(self, place: str) -> int:
        """Count a create in flight and return its epoch."""
        row = self.place(place)
        row.count += 1
        return row.current

    def resolve(self, place: str, epoch: int) -> None:
        """Count a create in flight out."""
        row = self.place(place)
        if epoch == row.current:
            row.count -= 1
        else:
            name = self._epoch_row(place, epoch)
            left = decode_long(self.rows.get(name) or b"\x02", 0)[0] - 1
            self.rows.put(name, encode_long(left) if left else None)
            while row.low < row.current and self.rows.get(self._epoch_row(place, row.low)) is None:
                row.low += 1

    def queue_up(self, place: str, native: str, n: Native) -> bool:
        """Let a native wait for every create in flight in its place; False if there is none. The caller saves the native."""
        row = self.place(place)
        if row.count:
            self.rows.put(self._epoch_row(place, row.current), encode_long(row.count))
            row.current += 1
            row.count = 0
        elif row.low == row.current:
            return False
        n.awaits, n.seq = "", row.tail
        self.rows.put(self._line_row(place, row.tail), encode_long(row.current - 1) + native.encode())
        row.tail += 1
        return True

    def next_ready(self, place: str) -> str | None:
        """Take the next native out of line for which no create is in flight any more."""
        row = self.place(place)
        found = None
        while row.head < row.tail and found is None:
            name = self._line_row(place, row.head)
            data = self.rows.get(name)
            if data is not None:  # None: it left the line
                epoch, at = decode_long(data, 0)
                if epoch >= row.low:
                    break
                found = data[at:].decode()
                self.rows.put(name, None)
            row.head += 1
        return found

    def await_record(self, cid: str, r: Record, place: str, native: str, n: Native) -> None:
        """Let a native wait for one record's create in its place; the caller saves the native."""
        n.awaits = cid
        r.awaited += 1
        self.save_record(cid, r)
        self.rows.put(self._await_row(cid, place, native), b"")

    def awaiting(self, cid: str, place: str) -> list[str]:
        """Return the natives that wait for a record's create in a place."""
        prefix = self._await_row(cid, place, "")
        return [unpart(k[len(prefix) :]) for k, _ in self.rows.scan(prefix)]

    def stop_waiting(self, place: str, native: str, n: Native) -> None:
        """Take a native out of whatever it waits for; the caller saves the native."""
        if n.awaits:
            self.rows.put(self._await_row(n.awaits, place, native), None)
            r = self.record(n.awaits)
            if r is not None:
                r.awaited -= 1
                self.save_record(n.awaits, r)
            n.awaits = ""
        else:
            self.rows.put(self._line_row(place, n.seq), None)

    @staticmethod
    def _epoch_row(place: str, epoch: int) -> bytes:
        return b"e:" + place.encode() + CUT + number(epoch)

    @staticmethod
    def _line_row(place: str, seq: int) -> bytes:
        return b"E:" + place.encode() + CUT + number(seq)

    @staticmethod
    def _await_row(cid: str, place: str, native: str) -> bytes:
        return b"X:" + part(cid) + CUT + part(place) + CUT + part(native)
