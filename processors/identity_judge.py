"""Whose is this native record? The decision itself, and looking again when something has moved.

A change of a record that is not linked waits while a create is in flight that may have made it; then it is linked, becomes a record
of its own, or is held as ambiguous. Entries of merge and of persons are in `processors.identity_core`.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from processors.identity_parts import Parts
from processors.identity_rows import ALONE, OWN, PART, Key, Native, Record, Rows, Sight, part
from processors.identity_rules import Decisions, Joiner, Rules, canonical_id, watch
from processors.identity_seeds import Gates
from processors.identity_state import Ledger


class Judge(Parts):
    """Look at changes that come the long way, and look again at who waits or is held when something has moved."""

    def __init__(self, rules: Rules, rows: Rows, out: Decisions, joiner: Joiner) -> None:
        super().__init__(Ledger(rows), out, joiner)
        self.rules = rules
        self.gates = Gates(rules.closing, rows, out)
        self._moved: deque[str] = deque()  # keys whose held natives are looked at again at the end of the entry

    # ------------------------------------------------------------------------------------------- what route sends

    def unknown(self, sight: Sight) -> None:
        """Take a change whose record route does not know (or not yet)."""
        self._look(sight, self.ledger.native(sight.place, sight.native))
        if self._moved:
            self._settle()

    def flush(self) -> None:
        """Write back what is kept for the length of a batch; to be called at its end."""
        self.ledger.flush()
        self.gates.flush()

    def pass_on(self, place: str, native: str, partition: int, offset: int, position: bytes, payload: bytes) -> bool:
        """Forward a change of a linked native without looking into it; False if it is not linked."""
        n = self.ledger.native(place, native)
        if not n.cid or position <= n.dead:
            return False
        sight = Sight(place, native, position, partition=partition, offset=offset, payload=payload)
        self._forward(sight, n)
        return True

    def _forward(self, sight: Sight, n: Native) -> None:
        if sight.offset > n.through:
            n.through = sight.offset
            self.ledger.save_native(sight.place, sight.native, n)
        self.out.change(n.cid, sight)
        self.out.link(sight.place, sight.native, sight.partition, n.cid, n.through)

    def _look(self, sight: Sight, n: Native) -> None:
        place, native = sight.place, sight.native
        if sight.position <= n.dead:
            self._pass(sight, n)
            self.out.no_link(place, native, sight.partition)
            return
        if n.cid:
            self._forward(sight, n)
            return
        if sight.position < n.seen:  # a newer state of it was looked at meanwhile
            self._pass(sight, n)
            self._late(sight, n)
            return
        if n.queued:
            if sight.position > n.seen:  # else it came twice
                n.seen = sight.position
                self.ledger.enqueue(n, sight)
                self.ledger.save_native(place, native, n)
            return
        n.seen = sight.position
        if n.held:
            sight = self._join(sight, n)
        if n.dead and self._overtook(sight):
            n.through = max(n.through, sight.offset)
            told = n.rival == PART
            self._set_aside(sight, n)
            if not told:
                self.out.held(sight, (), "only a part of its row has come so far")
            return
        if self._must_wait(sight, n) or not self._decide(sight, n):
            self.ledger.enqueue(n, sight)
            self.ledger.save_native(place, native, n)

    def _pass(self, sight: Sight, n: Native) -> None:
        """Note that nothing of a change remains to come through."""
        if sight.offset > n.through and not n.queued:
            n.through = sight.offset
            self.ledger.save_native(sight.place, sight.native, n)

    def _late(self, sight: Sight, n: Native) -> None:
        """Take what a change that has been overtaken tells, and the newer one has left out."""
        place, native = sight.place, sight.native
        if n.queued:
            over = next(
                ((i, w) for i, w in self.ledger.waiting(place, native, n) if w.position >= sight.position), None
            )
            if over is not None and not (over[1].gone or sight.gone):
                self.ledger.put_waiting(over[0], self.joiner.join(sight, over[1]))
        elif sight.gone:
            return
        elif not n.held:  # the newer one has been with a record that it is not of, and is on its way back
            self._set_aside(sight, n)
        else:
            whole = self._join(sight, n)
            if whole.position < n.seen or (n.dead and self._overtook(whole)):
                self._set_aside(whole, n)
            elif not self._decide(whole, n, again=True):
                self.ledger.enqueue(n, whole)
                self.ledger.save_native(place, native, n)

    def _must_wait(self, sight: Sight, n: Native) -> bool:
        """Let a native wait whose record may be one that we are just creating there."""
        if sight.ext:
            cid, r = sight.ext, self.ledger.record(sight.ext)
            while r is not None:
                if isinstance(r.members.get(sight.place), int):
                    self.ledger.await_record(cid, r, sight.place, sight.native, n)
                    return True
                cid, r = r.into, self.ledger.record(r.into) if r.into else None
        return sight.ext is None and self.ledger.queue_up(sight.place, sight.native, n)

    # ------------------------------------------------------------------------------------------- the decision

    def _decide(self, sight: Sight, n: Native, *, again: bool = False) -> bool:
        """Link, hold or bury a native; False if it has to wait for a create (it is in that line then, unsaved).

        What was held of it has been taken out and is part of ``sight``.
        ``again``: the native itself has not moved; who is blocked by it is told only if it gets linked now.
        """
        place, native = sight.place, sight.native
        rival, n.rival = n.rival, ""
        if n.blocked and not again:
            self._wake_native(place, native, n)
        if sight.gone:
            n.dead, n.to, n.woken = sight.position, "", False
            n.through = max(n.through, sight.offset)
            self.ledger.save_native(place, native, n)
            return True
        if n.to == ALONE:
            self._hold(sight, n, rival, (), (), "a person has unlinked it")
            return True
        if n.to == OWN:
            return self._make(sight, n, ())
        if n.to:
            cid, r = self._record(n.to)
            if r is not None and r.alive:
                return self._offer(sight, n, rival, cid, r, decided=True)
            n.to = ""
        if sight.ext:
            cid, r = self._record(sight.ext)
            if r is not None and r.alive and cid != sight.ext:
                n.to = cid  # it was made for a record that has become part of this one
                return self._offer(sight, n, rival, cid, r, decided=True)
            if r is not None and r.alive and r.members.get(place) is None:
                return self._offer(sight, n, rival, cid, r)
        found: str = ""
        for key in sight.keys:
            row = self.ledger.key(key)
            if row is None or not row.count:
                continue
            if found:
                if row.only != found and found not in (other := (row.only and [row.only]) or self.ledger.holders(key)):
                    self.out.conflict(sight, found, other[0])
                continue
            if row.count > 1:
                return self._several(sight, n, rival, self.ledger.holders(key))
            found = row.only
        if not found:
            return self._make(sight, n, sight.keys)
        r = self.ledger.record(found)
        assert r is not None, f"identify: a match key finds {found}, which is no record"
        return self._offer(sight, n, rival, found, r)

    def _offer(self, sight: Sight, n: Native, rival: str, cid: str, r: Record, *, decided: bool = False) -> bool:
        """Link a native to a record if its place there is free."""
        member = r.members.get(sight.place)
        if member is None:
            self._link(sight, n, cid, r, ())
            create = self.gates.take_back(cid, sight.place)
            if create is not None:  # this is what would have been created a second time
                self.out.note("no_create", cid, sight.place, "", "", create)
        elif isinstance(member, int):  # its create will meet this record, or make a double: then we know more
            self.ledger.await_record(cid, r, sight.place, sight.native, n)
            return False
        elif self.rules.ambiguous == "separate" and not decided:
            return self._make(sight, n, ())
        else:
            self._hold(
                sight,
                n,
                rival,
                (cid,),
                (watch(cid),) if decided else (),
                f"that record has {member} in {sight.place} already",
            )
        return True

    def _several(self, sight: Sight, n: Native, rival: str, found: list[str]) -> bool:
        """Several records match: ask for a person, unless the configuration says what to do."""
        if self.rules.ambiguous == "separate":
            return self._make(sight, n, ())
        if self.rules.ambiguous == "merge":
            records = [(cid, self.ledger.record(cid)) for cid in found]
            taken = [p for _, r in records if r is not None for p in r.members] + [sight.place]
            if len(taken) == len(set(taken)):  # no place has two of them, so none is lost by making them one
                self._merge(found[0], found[1:])
                r = self.ledger.record(found[0])
                assert r is not None
                return self._offer(sight, n, rival, found[0], r)
        self._hold(sight, n, rival, (found[0], found[1]), (), f"{len(found)} records have its match key")
        return True

    def _make(self, sight: Sight, n: Native, keys: tuple[str, ...]) -> bool:
        """Make a record of a native. It takes the keys, and may be created wherever it belongs without asking again."""
        cid = canonical_id(self.rules.entity, sight.place, sight.native, n.made)
        n.made += 1
        n.to = ""
        keys = tuple(dict.fromkeys(keys)) if len(keys) > 1 else keys
        r = Record(True, keys)
        for key in keys:
            self._key_moved(key, self.ledger.take_key(key, cid))
        grants = self.gates.opened(self.rules.grants.get(sight.place, ()))
        for place in grants:
            r.members[place] = self.ledger.grant(place)
        self._link(sight, n, cid, r, grants)
        return True

    def _link(self, sight: Sight, n: Native, cid: str, r: Record, grants: tuple[str, ...]) -> None:
        place, native = sight.place, sight.native
        r.members[place] = native
        self.ledger.save_record(cid, r)
        if n.blocked:
            self._wake_native(place, native, n)
        n.cid, n.to = cid, ""
        if sight.offset > n.through:
            n.through = sight.offset
        self.ledger.save_native(place, native, n)
        if sight.earlier:
            first, *rest = self.joiner.parts(sight, linked=True)
            self.out.linked(cid, first, grants)
            for later in rest:
                self.out.change(cid, later)
        else:
            self.out.linked(cid, sight, grants)
        self.out.link(place, native, sight.partition, cid, n.through)

    def _hold(
        self, sight: Sight, n: Native, rival: str, rivals: tuple[str, ...], more: tuple[str, ...], reason: str
    ) -> None:
        keys = tuple(dict.fromkeys(sight.keys + more)) if rivals else ()
        self.ledger.hold(n, sight, keys)
        n.rival = rivals[0] if rivals else ALONE
        n.through = max(n.through, sight.offset)
        self.ledger.save_native(sight.place, sight.native, n)
        if n.rival != rival:  # the same trouble is told once
            self.out.held(sight, rivals, reason)

    # ------------------------------------------------------------------------------------------- looking again

    def _run(self, place: str, native: str) -> None:
        """The fate a native waited for is known: decide its waiting changes in order."""
        n = self.ledger.native(place, native)
        while n.queued:
            sight = self.ledger.head(place, native, n)
            born_again = bool(n.dead) and not n.cid and sight.position > n.dead
            self.ledger.dequeue(place, native, n)
            if n.held and sight.position > n.dead:
                sight = self._join(sight, n)
            if n.cid:
                n.through = max(n.through, sight.offset)
                self.ledger.save_native(place, native, n)
                self._deliver(n.cid, sight)
                self.out.link(place, native, sight.partition, n.cid, n.through)
            elif sight.position <= n.dead:
                self.ledger.save_native(place, native, n)
                self._pass(sight, n)
                self.out.no_link(place, native, sight.partition)
            elif (born_again and self._must_wait(sight, n)) or not self._decide(sight, n):
                n.first -= 1  # it stays where it was, first in the queue
                self.ledger.requeue(n, sight)
                self.ledger.save_native(place, native, n)
                return
            n = self.ledger.native(place, native)

    def _settle(self) -> None:
        """Look again at who is held because of keys that moved. What that moves in turn is looked at as well."""
        moved = self._moved
        while moved:
            key = moved.popleft()
            anybody = False
            for place in self.rules.places:
                some = list(islice(self.ledger.held_by(key, place), 32))
                anybody = anybody or bool(some)
                if some and self._open(key, place):
                    done = self._look_again(key, place, some)
                    if not done and len(some) == 32:  # rarely needed, and there may be very many
                        self._look_again(key, place, list(self.ledger.held_by(key, place)))
            if not anybody:
                row = self.ledger.key(key)
                if row is not None:
                    row.held = False
                    self.ledger.save_key(key, row)

    def _look_again(self, key: str, place: str, natives: list[str]) -> bool:
        """Decide held natives again; True once the key's record has one there, so that the others stay held."""
        for native in natives:
            if not self._open(key, place):
                return True
            self._again(place, native, self.ledger.native(place, native))
        return False

    def _again(self, place: str, native: str, n: Native) -> None:
        """Decide a held native again, which has not moved itself."""
        sight = self.ledger.unhold(place, native, n) if n.held else None
        if sight is not None and not self._decide(sight, n, again=True):
            self.ledger.enqueue(n, sight)
            self.ledger.save_native(place, native, n)

    def _open(self, key: str, place: str) -> bool:
        """Tell whether a native held in a place because of a key could come to another verdict now."""
        row = self.ledger.key(key) or Key()
        if row.count > 1:
            return self.rules.ambiguous == "merge"
        if not row.count:
            return True
        r = self.ledger.record(row.only)
        return r is None or not isinstance(r.members.get(place), str)

    def _key_moved(self, key: str, row: Key) -> None:
        """Something about this key changed: whoever waited for it tries again."""
        if row.blocked:
            row.blocked = False
            self.ledger.save_key(key, row)
            for cid, place in self.ledger.unblock(b"k" + part(key)):
                self.out.note("retry", cid, place, "", "", b"")
        if row.held:
            self._moved.append(key)

    def _keys_moved(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            row = self.ledger.key(key)
            if row is not None:
                self._key_moved(key, row)

    def _slot_moved(self, cid: str) -> None:
        """A place of a record is free now: whoever wants to be a copy of it tries again."""
        r = self.ledger.record(cid)
        self._keys_moved((*(() if r is None else r.keys), watch(cid)))

    def _wake_native(self, place: str, native: str, n: Native) -> None:
        """A native moved: whoever was refused because of it tries again. The caller saves the native."""
        n.blocked = False
        for cid, where in self.ledger.unblock(b"n" + part(place) + b"\x00" + part(native)):
            self.out.note("retry", cid, where, "", "", b"")

    def _record(self, cid: str) -> tuple[str, Record | None]:
        """Return a record, or the one it was merged into."""
        r = self.ledger.record(cid)
        while r is not None and r.into:
            cid = r.into
            r = self.ledger.record(cid)
        return cid, r

    def _kill(self, cid: str, r: Record) -> None:
        old, r.keys, r.alive = r.keys, (), False
        self.ledger.save_record(cid, r)
        for key in old:
            self._key_moved(key, self.ledger.drop_key(key, cid))
        self._keys_moved((watch(cid),))

    def _merge(self, winner: str, losers: list[str]) -> None:
        for cid in losers:
            r = self.ledger.record(cid)
            if r is None or not r.alive:
                continue
            r.into = winner
            for place, member in r.members.items():
                if isinstance(member, str):
                    n = self.ledger.native(place, member)
                    n.to = winner
                    self.ledger.save_native(place, member, n)
            self._kill(cid, r)
            self.out.note("merge", cid, "", "", winner, b"")
