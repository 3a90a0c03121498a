"""The real stages under a Hypothesis state machine: users, capture, every stage, sinks, receipts, aborts, restarts and re-deliveries.

Each run ends with rest and with every check of `tests.model.history`: convergence, no lost edit, no loop, idempotence, replay.
Where the seeded histories are many and long, this one shrinks to the shortest script that breaks a rule.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.model.history import History
from tests.model.systems import System

pick = st.integers(0, 7)  # one of what there is; taken modulo its number


class Installation(RuleBasedStateMachine):
    """Any interleaving of everything that can happen in one installation."""

    def __init__(self) -> None:
        super().__init__()
        self.history: History | None = None

    @initialize(seed=st.integers(0, 2**16))
    def install(self, seed: int) -> None:
        """Draw systems, flows, policies, and whether the users contend for one record."""
        self.history = History(seed)

    @property
    def h(self) -> History:
        assert self.history is not None
        return self.history

    def system(self, n: int) -> System:
        systems = list(self.h.world.systems.values())
        return systems[n % len(systems)]

    def alive(self, s: System) -> list[str]:
        return [k for k, row in s.rows.items() if row.alive]

    # ------------------------------------------------------------------------------------------------ users

    @precondition(lambda self: self.h.deletes)
    @rule(system=pick, email=pick)
    def create(self, system: int, email: int) -> None:
        self.h.serial += 1
        self.h.user_creates(self.system(system), self.h.emails[email % len(self.h.emails)])

    @rule(system=pick, record=pick, column=pick)
    def edit(self, system: int, record: int, column: int) -> None:
        s = self.system(system)
        if alive := self.alive(s):
            self.h.serial += 1
            self.h.user_edits(s, alive[record % len(alive)], self.h.columns[column % len(self.h.columns)])

    @precondition(lambda self: not self.h.contended)
    @rule(system=pick, record=pick, email=pick)
    def re_mail(self, system: int, record: int, email: int) -> None:
        s = self.system(system)
        if alive := self.alive(s):
            self.h.user_mails(s, alive[record % len(alive)], self.h.emails[email % len(self.h.emails)])

    @precondition(lambda self: self.h.deletes)
    @rule(system=pick, record=pick)
    def delete(self, system: int, record: int) -> None:
        s = self.system(system)
        if alive := self.alive(s):
            self.h.user_deletes(s, alive[record % len(alive)])

    # ------------------------------------------------------------------------------------------------ the machinery

    @precondition(lambda self: self.h.world.named_moves())
    @rule(which=st.lists(st.integers(0, 31), min_size=1, max_size=6))
    def move(self, which: list[int]) -> None:
        """Poll, capture, route, learn a link, fold, write, or tell a receipt: a few of these in any order."""
        for n in which:
            moves = self.h.world.named_moves()
            if moves:
                name, act = moves[n % len(moves)]
                self.h.trace.append(name)
                act()

    @rule(stage=st.sampled_from(["merge", "identify"]))
    def abort(self, stage: str) -> None:
        self.h.abort(stage)

    @rule(stage=st.sampled_from(["merge", "identify", "router"]))
    def restart(self, stage: str) -> None:
        w = self.h.world
        if stage == "router":
            self.pass_the_barrier()
        {"merge": w.restart_merge, "identify": w.restart_identify, "router": w.restart_router}[stage]()

    def pass_the_barrier(self) -> None:
        """Let identify look at all it has been sent, and route learn all links: a new router waits for exactly this."""
        w = self.h.world
        while moves := [act for name, act in w.named_moves() if name in ("identify", "learn")]:
            moves[0]()

    @rule(system=pick, back=st.integers(1, 3))
    def redeliver(self, system: int, back: int) -> None:
        self.h.redeliver(self.system(system), back)

    @rule(system=pick)
    def tell_again(self, system: int) -> None:
        self.h.tell_again(self.system(system))

    @rule()
    def timers(self) -> None:
        self.h.world.timers()

    def teardown(self) -> None:
        if self.history is not None:
            self.history.finish()


TestInstallation = Installation.TestCase
TestInstallation.settings = settings(
    max_examples=700,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
