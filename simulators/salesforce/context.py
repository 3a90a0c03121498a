"""What every part of the API shares: the org, the options, and how a call becomes a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from simulators.salesforce.asking import Ask, Handler, Reply, Router
from simulators.salesforce.errors import Refusal
from simulators.salesforce.org import Org
from simulators.salesforce.unit import Unit, transacted

T = TypeVar("T")


@dataclass(slots=True)
class Options:
    """The settings of a simulator, as `--option` gives them."""

    daily_limit: int = 115_000
    duplicate_key: str = "auto"
    bulk_delay_s: float = 0.2
    poll_s: float = 110.0
    most_cursors: int = 50
    bulk_batches: int = 15_000


class Context:
    """The org as the handlers see it."""

    def __init__(self, org: Org, options: Options) -> None:
        self.org = org
        self.options = options
        self.router = Router()
        self.running: Callable[[Awaitable[None]], None] = lambda _: None
        """Starts something beside the requests."""

    def write(self, ask: Ask, work: Callable[[Unit], T]) -> T:
        """Do something in a transaction: its own, or the one around it, of which only this part is taken back if it fails."""
        if ask.unit is None:
            out: T = transacted(self.org, ask.actor(), work)
            return out
        mark = ask.unit.savepoint()
        try:
            return work(ask.unit)
        except Refusal:
            ask.unit.rollback(mark)
            raise

    async def run(self, ask: Ask) -> Reply:
        """Carry out a call and turn what it refuses into an answer."""
        try:
            handler: Handler = self.router.find(ask.method, ask.parts)
            reply: Any = handler(ask)
            if not isinstance(reply, Reply):
                reply = await reply
            assert isinstance(reply, Reply)
            return reply
        except Refusal as refusal:
            return Reply(refusal.status, refusal.body())
