"""What is kept of a native that is not linked, where its changes tell only parts of its row or overtake one another."""

from __future__ import annotations

from processors.identity_rows import PART, Native, Sight
from processors.identity_rules import Decisions, Joiner
from processors.identity_state import Ledger


class Parts:
    """Join, keep and deliver changes of natives that are held or wait; `processors.identity_judge` decides about them."""

    def __init__(self, ledger: Ledger, out: Decisions, joiner: Joiner) -> None:
        self.ledger = ledger
        self.out = out
        self.joiner = joiner

    def _overtook(self, sight: Sight) -> bool:
        """Tell whether a change of what has been deleted and made anew has overtaken the one that made it (which is whole)."""
        return not sight.gone and sight.offset >= 0 and self.joiner.partial(sight)

    def _set_aside(self, sight: Sight, n: Native) -> None:
        """Keep a change without deciding on it: the rest of what is to be known of its native is on its way."""
        self.ledger.hold(n, sight, ())
        n.rival = PART
        self.ledger.save_native(sight.place, sight.native, n)

    def _join(self, sight: Sight, n: Native) -> Sight:
        """Take what is kept of a held native out, and return it together with another change of it. ``n.rival`` stays, for `_decide`."""
        kept = self.ledger.unhold(sight.place, sight.native, n)
        return sight if sight.gone or kept is None else self.joiner.join(kept, sight)

    def _deliver(self, cid: str, sight: Sight) -> None:
        """Hand a change that has waited or was held to its record."""
        for one in self.joiner.parts(sight, linked=False) if sight.earlier else (sight,):
            self.out.change(cid, one)
