"""Every decision about identity of one entity, in one order: which records of several systems are one record.

Pure: entries in, `Decisions` out, everything remembered in rows (`processors.identity_rows`). What must hold at rest: every
living native record is linked to exactly one record or reported as ambiguous; no record has two copies in one place; nothing
that we created exists twice; what is parked is parked for a reason that still holds.
"""

from __future__ import annotations

from dataclasses import replace

from processors.identity_judge import Judge
from processors.identity_rows import ALONE, OWN, Key, Native, Sight, part


class Identity(Judge):
    """Decide entry by entry. Keeps nothing between entries but what is in the rows."""

    # ------------------------------------------------------------------------------------------- what merge says

    def keys(self, cid: str, keys: tuple[str, ...]) -> None:
        """A record has other match keys now."""
        r = self.ledger.record(cid)
        if r is None or not r.alive:
            return
        keys = tuple(dict.fromkeys(keys))
        old, r.keys = r.keys, keys
        self.ledger.save_record(cid, r)
        rows = [(key, self.ledger.drop_key(key, cid)) for key in old if key not in keys]
        rows += [(key, self.ledger.take_key(key, cid)) for key in keys if key not in old]
        for key, row in rows:
            self._key_moved(key, row)
        for place, member in r.members.items():
            if isinstance(member, str):
                self._native_moved(place, member)
        self._settle()

    def _native_moved(self, place: str, native: str) -> None:
        n = self.ledger.native(place, native)
        if n.blocked:
            self._wake_native(place, native, n)
            self.ledger.save_native(place, native, n)

    def dying(self, cid: str) -> None:
        """A record is deleted; its copies leave one by one."""
        r = self.ledger.record(cid)
        if r is not None and r.alive:
            self._kill(cid, r)
            self._settle()

    def left(self, cid: str, place: str, native: str, position: bytes) -> None:
        """A record's copy is gone from its system, as of a position there."""
        n = self.ledger.native(place, native)
        n.dead, n.to, n.woken = max(n.dead, position), "", False
        self._part(cid, place, native, n)
        if n.blocked:
            self._wake_native(place, native, n)
        self.ledger.save_native(place, native, n)
        self._slot_moved(cid)
        self._settle()

    def _part(self, cid: str, place: str, native: str, n: Native) -> None:
        """Take a native out of a record; the caller saves the native."""
        r = self.ledger.record(cid)
        if r is not None and r.members.get(place) == native:
            del r.members[place]
            self.ledger.save_record(cid, r)
        if n.cid == cid:
            n.cid = ""
            self.out.no_link(place, native, -1)

    def bounce(self, cid: str, place: str, native: str, sight: Sight | None) -> None:
        """A change has reached a record that is not, or no longer, its own. None: the copy is let go, its state is not known."""
        n = self.ledger.native(place, native)
        if n.cid == cid:
            r = self.ledger.record(cid)
            if r is not None and r.alive and not n.to and sight is not None:
                self._forward(sight, n)  # it was let go and came back since: the record has it, or will
                return
            self._part(cid, place, native, n)
            self.ledger.save_native(place, native, n)
            self._slot_moved(cid)
        elif not n.cid:
            self.out.no_link(place, native, -1)
        if sight is not None:
            self._look(sight, n)
        self._settle()

    def stray(self, cid: str, place: str, native: str, sight: Sight | None) -> None:
        """A native was linked to a record that belongs to another tenant: it is whatever its match keys say, without our id that it carries."""
        n = self.ledger.native(place, native)
        if n.cid == cid:
            self._part(cid, place, native, n)
            self.ledger.save_native(place, native, n)
            self._slot_moved(cid)
        if sight is not None:
            self._look(replace(sight, ext=None), n)
        self._settle()

    def create(self, cid: str, place: str, payload: bytes) -> None:
        """Merge wants a record to be created in a place."""
        r = self.ledger.record(cid)
        if r is None or not r.alive or r.members.get(place) is not None:
            self.out.note("no_create", cid, place, "", "", payload)
            return
        if not self.gates.open(place):
            self.gates.postpone(cid, place, payload)
            return
        r.members[place] = self.ledger.grant(place)
        r.asked[place] = self.joiner.version(payload)
        self.ledger.save_record(cid, r)
        self.out.write(cid, place, payload)

    # ------------------------------------------------------------------------------------------- the end of a seed

    def seeded(self, place: str, partition: int, partitions: int) -> None:
        """Everything that a place's seed has put into one of its partitions of cdc has been looked at."""
        if self.gates.mark(place, partition, partitions):
            self.drain(place)

    def drain(self, place: str) -> None:
        """Decide the next of the creates that waited for a seed."""
        for cid, payload in self.gates.portion(place):
            self.create(cid, place, payload)
        if self.gates.more(place):
            self.out.drain(place)

    # ------------------------------------------------------------------------------------------- what becomes of a create

    def created(
        self,
        cid: str,
        place: str,
        native: str,
        position: bytes,
        payload: bytes,
        *,
        applied: bool,
        taken: bool,
        reason: str,
        version: int,
    ) -> None:
        """The fate of a create: made as ``native``, or not (``native``: of the record that holds a value, if known)."""
        r = self.ledger.record(cid)
        epoch = None if r is None else r.members.get(place)
        if r is None or not isinstance(epoch, int) or r.asked.get(place, 1) not in (0, version):
            return  # told twice, or of an earlier create told again
        n = self.ledger.native(place, native) if native else Native()
        if applied and n.cid not in ("", cid):  # somebody else's: an upsert that met a row, not a create
            applied, taken, reason = False, True, "taken"
        elif applied and not n.cid and not n.queued and position <= n.dead:  # made, and deleted there before we knew it
            applied, reason = False, "gone"
        elif applied and r.into and not n.cid and self._follow(r.into, place, native, n):
            applied, reason = False, "merged"
        elif applied and not n.cid and n.to and self._record(n.to)[0] != cid:  # met what a person keeps apart from it
            applied, taken, reason = False, True, "taken"
        if applied:
            held = self.ledger.unhold(place, native, n) if n.held else None
            n.rival = ""
            r.members[place] = native
            self.ledger.save_record(cid, r)
            n.cid, n.to = cid, ""
            self.out.receipts(cid, payload)
            if held is not None:
                self._deliver(cid, held)
            self._release_queue(place, native, n)
            self.ledger.save_native(place, native, n)
            self.out.link(place, native, -1, cid, n.through)
        else:
            del r.members[place]
            self.ledger.save_record(cid, r)
            if taken:
                self._block(cid, place, native, r.keys)
            self.out.note("park", cid, place, native, reason, payload)
        self._resolved(cid, place, epoch)
        if not r.alive:
            self.out.note("retry", cid, place, "", "", b"")  # it died meanwhile: let it clean up
        self._settle()

    def _follow(self, winner: str, place: str, native: str, n: Native) -> bool:
        """Let what was made for a record that was merged away follow it, unless a person has decided about it; False if there is no winner."""
        to, w = self._record(winner)
        if w is None or not w.alive:
            return False  # it is made for a record that is dead, which cleans up
        n.to = n.to or to
        self.ledger.save_native(place, native, n)
        return True

    def _release_queue(self, place: str, native: str, n: Native) -> None:
        """Forward what waited of a native that turned out to be the one we made; the caller saves it and tells the link."""
        if n.queued:
            self.ledger.stop_waiting(place, native, n)
        while n.queued:
            sight = self.ledger.head(place, native, n)
            self.ledger.dequeue(place, native, n)
            n.through = max(n.through, sight.offset)
            self._deliver(n.cid, sight)

    def release(self, cid: str, place: str) -> None:
        """Merge does not want a create that was granted."""
        r = self.ledger.record(cid)
        epoch = None if r is None else r.members.get(place)
        if r is None or not isinstance(epoch, int):
            return
        del r.members[place]
        self.ledger.save_record(cid, r)
        self._resolved(cid, place, epoch)
        self._settle()

    def _resolved(self, cid: str, place: str, epoch: int) -> None:
        """The fate of a record's create is known: look again at what waited for it."""
        self.ledger.resolve(place, epoch)
        r = self.ledger.record(cid)
        if r is not None and r.awaited:
            for native in self.ledger.awaiting(cid, place):
                n = self.ledger.native(place, native)
                self.ledger.stop_waiting(place, native, n)
                self.ledger.save_native(place, native, n)
                self._run(place, native)
        while (ready := self.ledger.next_ready(place)) is not None:
            self._run(place, ready)

    def taken(self, cid: str, place: str, native: str, keys: tuple[str, ...]) -> None:
        """A system refused an update because another record holds a value that must be unique."""
        r = self.ledger.record(cid)
        self._block(cid, place, native, keys or (() if r is None else r.keys))

    def _block(self, cid: str, place: str, native: str, keys: tuple[str, ...]) -> None:
        """Let a record's write wait until one of its keys, or the native in its way, moves."""
        for key in keys:
            self.ledger.block(b"k" + part(key), cid, place)
            row = self.ledger.key(key) or Key()
            if not row.blocked:
                row.blocked = True
                self.ledger.save_key(key, row)
        if native:
            self.ledger.block(b"n" + part(place) + b"\x00" + part(native), cid, place)
            n = self.ledger.native(place, native)
            n.blocked = True
            if n.dead and not (n.cid or n.held or n.queued or n.woken):
                n.woken = True  # once: if it is in the way still, its key is in use again, and its capture will say so
                self._wake_native(place, native, n)
            self.ledger.save_native(place, native, n)

    def retry(self, cid: str, place: str) -> None:
        """The slow timer of a parked write."""
        self.out.note("retry", cid, place, "", "", b"")

    # ------------------------------------------------------------------------------------------- what a person decides

    def decide_link(self, cid: str, place: str, native: str) -> None:
        """This native record is that record."""
        self._direct(place, native, cid)

    def foreign(self, cid: str, place: str) -> bool:
        """Tell whether a record belongs to another tenant than the place, as far as its match keys tell."""
        tail, (_, r) = self.rules.tails.get(place, ""), self._record(cid)
        return bool(tail) and r is not None and bool(r.keys) and not r.keys[0].endswith(tail)

    def decide_unlink(self, place: str, native: str) -> None:
        """This native record is to be left alone until a person links it or makes it a record of its own."""
        self._direct(place, native, ALONE)

    def decide_split(self, place: str, native: str) -> None:
        """This native record is a record of its own, whatever its match keys say."""
        self._direct(place, native, OWN)

    def decide_merge(self, winner: str, losers: tuple[str, ...]) -> None:
        """These records are one: the copies of the losers become copies of the winner, where it has none yet."""
        r = self.ledger.record(winner)
        if r is not None and r.alive:
            self._merge(winner, [cid for cid in losers if cid != winner])
            self._settle()

    def _direct(self, place: str, native: str, to: str) -> None:
        n = self.ledger.native(place, native)
        if n.cid == to and not n.to:
            return
        n.to = to
        self.ledger.save_native(place, native, n)
        if n.cid:
            self.out.note("unlink", n.cid, place, native, "", b"")  # merge lets the copy go and hands its state back
        elif n.held and not n.queued:
            self._again(place, native, n)
        self._settle()
