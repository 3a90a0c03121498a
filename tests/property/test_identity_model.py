"""Identity under random interleavings of users, capture, route, identify, merge, writes, receipts and persons.

A history of `tests.property.identity_world` ends when nothing moves any more; then every rule of identity is checked against what
the systems hold. Run more by hand: ``python -m tests.property.test_identity_model 20000 [first seed]``.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
import time
from collections import Counter
from typing import Any

from processors.identity_core import Identity
from processors.identity_rows import ALONE, PART, Sight
from tests.property.identity_systems import JsonJoiner, MemoryRows, Row, Value, keys_of, row_of
from tests.property.identity_world import Tape, World, apply
from tidelock.change import read_strings

SUITE = 800
SUITE_BUDGET_S = 15.0


def trouble(w: World) -> str:
    """Return the first rule that does not hold, or nothing."""
    ledger = w.identity.ledger
    for p, s in w.systems.items():
        for native, n in s.natives.items():
            known = ledger.native(p, native)
            if known.queued:
                return f"{p}/{native} still waits"
            if not n.alive:
                if known.cid:
                    return f"{p}/{native} is dead and linked"
                continue
            if known.cid:
                g = w.golden[known.cid]
                c = g.copies.get(p)
                if g.deleted or c is None or c.native != native:
                    return f"{p}/{native}: link and record disagree"
                r = ledger.record(known.cid)
                if r is None or not r.alive or r.members.get(p) != native:
                    return f"{p}/{native}: link and members disagree"
                if c.note != n.note:
                    return f"{p}/{native}: the last note is lost"
            elif not known.held:
                return f"{p}/{native} lives and is neither linked nor reported"
            elif held_row(w, p, native) != n.row():
                return f"{p}/{native} is held, and not all that was captured of it is kept"
            elif known.rival == PART:
                return f"{p}/{native} waits for a part that never comes"
            elif known.rival != ALONE:
                if known.to:  # a person wants it there, where another one is
                    r = ledger.record(known.to)
                    while r is not None and r.into:
                        r = ledger.record(r.into)
                    reason = r is not None and r.alive and isinstance(r.members.get(p), str)
                else:
                    reason = held_reason(w, p, n.value)
                if not reason:
                    return f"{p}/{native} is held without a reason"
    for cid, g in w.golden.items():
        if g.deleted or g.value is None:
            if g.copies:
                return f"{cid} is deleted and keeps copies"
            continue
        if not g.copies:
            return f"{cid} lives without copies"
        r = ledger.record(cid)
        if r is None or not r.alive:
            return f"{cid} lives unknown to identify"
        for p, s in w.systems.items():
            c = g.copies.get(p)
            if p in g.parked and g.parked[p] == g.value:
                if not s.holder(g.value, c.native if c is not None else None):
                    return f"{cid} is parked in {p} without a reason"
            elif c is None or c.flight is not None or s.natives[c.native].value != g.value:
                return f"{cid} is not in step in {p}"
    for (p, native), cid in w.made.items():
        known, (winner, r) = ledger.native(p, native), w.identity._record(cid)
        if (p, native) in w.handled or cid in w.died or winner == cid or r is None or not r.alive:
            continue
        if not w.systems[p].natives[native].alive:
            return f"{p}/{native} was made for {cid}, which is {winner} now, and was deleted with it"
        if known.cid != winner and not (known.held and w.identity._record(known.to)[0] == winner):
            return f"{p}/{native} was made for {cid}, which is {winner} now, and is not its"
    for p, s in w.systems.items():
        if not w.decided and any(
            n > 1 for n in Counter(r.ext for r in s.natives.values() if r.alive and r.ext).values()
        ):
            return f"two of ours in {p}"
        row = ledger.place(p)
        if row.count or row.low != row.current or row.head != row.tail:
            return f"creates in flight in {p}: {row}"
    if any(k[:1] in b"ewEXcC" and k[1:2] == b":" for k in w.rows.data):
        return "rows of waiting are left over"
    return ""


def held_row(w: World, place: str, native: str) -> Row | None:
    """Return what identify has kept of a held native."""
    data = w.rows.data[f"h:{place}/{native}".encode()]
    kept = Sight.decode(place, native, data, read_strings(data, 0)[1])
    return row_of(JsonJoiner().parts(kept, linked=True)[0].payload)


def held_reason(w: World, place: str, value: Value) -> bool:
    """Tell whether the match keys of a held native still say so; the first that finds anything decides."""
    for key in keys_of(value):
        row = w.identity.ledger.key(key)
        if row is None or not row.count:
            continue
        if row.count > 1:
            return True
        r = w.identity.ledger.record(row.only)
        return r is not None and isinstance(r.members.get(place), str)
    return False


def history(seed: int, trace: list[Any] | None = None, *, timer: bool = True, seeding: bool = False) -> str:
    """Run one history; return what is wrong at its end, or nothing. ``timer``: parked writes are tried again in the end;
    ``seeding``: creates wait for the ends of seeds, which come at some time.
    """
    r = random.Random(seed)
    w = World(r, r.choice(["quarantine", "quarantine", "quarantine", "separate", "merge"]), trace, seeding=seeding)
    users = r.randint(1, 8)
    mails, phones = ["p", "q", "r"][: r.randint(1, 3)], ["", "1", "2"][: r.choice([1, 1, 3])]
    values = [(m, f) for m in mails for f in phones]
    late = 0
    for _ in range(4000):
        moves = w.moves()
        if users and (not moves or r.random() < 0.25):
            users -= 1
            w.user(values)
        elif w.person_left and (r.random() < 0.03 or not moves):
            w.person_left -= 1
            w.person()
        elif moves:
            w.step(r.choice(moves))
        elif timer and late < 3 and w.late():
            late += 1
            w.queue += [("retry", x, p) for x, p in w.late()]  # the slow timer
        else:
            break
    else:
        return "it does not come to rest"
    wrong = trouble(w)
    if not wrong and seed % 5 == 0:
        tape = Tape()
        again = Identity(w.rules, MemoryRows(), tape, JsonJoiner())
        for job in w.taken_in:
            apply(again, job, w.answers)
        if tape.told != w.told:
            return "a replay decides otherwise"
    return wrong


def test_identity_holds_every_rule_under_random_interleavings() -> None:
    end = time.monotonic() + SUITE_BUDGET_S
    done = 0
    for seed in range(SUITE):
        assert not (wrong := history(seed)), f"seed {seed}: {wrong}"
        done += 1
        if time.monotonic() > end:
            break
    assert done >= 100, f"only {done} histories in {SUITE_BUDGET_S:.0f} s"


def test_creates_that_wait_for_seeds_are_all_decided_in_the_end() -> None:
    for seed in range(300):
        assert not (wrong := history(seed, seeding=True)), f"seed {seed}: {wrong}"


def short(step: Any) -> str:
    """Spell a step of a history for a person."""
    text = re.sub(r"payload=b.*?\)\"", "", str(step)).replace("\\x00", "")
    return re.sub(r"([0-9a-f]{8})-[0-9a-f-]{27}", r"\1", text)


def test_parked_writes_hardly_ever_need_the_slow_timer() -> None:
    stuck = [seed for seed in range(900) if history(seed, timer=False)]
    assert len(stuck) <= 2, f"{len(stuck)} of 900 histories wait for the timer: seeds {stuck}"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    verdicts: Counter[str] = Counter()
    worst: dict[str, tuple[int, list[Any]]] = {}
    for seed in range(first, first + count):
        try:
            wrong = history(seed)
        except Exception as error:  # noqa: BLE001 - a crash is one more verdict
            wrong = f"crash {error!r}"
        kind = re.sub(r"[0-9a-f-]{36}|[abc]/t(/\w+)?", "…", wrong)
        verdicts[kind or "ok"] += 1
        if wrong:
            trace: list[Any] = []
            with contextlib.suppress(Exception):
                history(seed, trace)
            if kind not in worst or len(trace) < len(worst[kind][1]):
                worst[kind] = seed, trace
    out = sys.stdout.write
    out(f"{dict(verdicts)}\n")
    for kind, (seed, trace) in worst.items():
        out(f"{kind}: seed {seed}\n" + "".join(f"   {short(t)}\n" for t in trace[-45:]))


if __name__ == "__main__":
    main()
