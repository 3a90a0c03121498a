"""The rules of DESIGN section 12, over random histories of the real stages (tests/model)."""

from __future__ import annotations

import random

import pytest

from tests.model.history import History, TenantHistory
from tests.model.owners import OwnerHistory
from tidelock.envelopes import TENANT_OFF, TENANT_WAITS

SEEDS = range(500)
SLICES = 4


@pytest.mark.parametrize("part", range(SLICES))
def test_every_history_converges_loses_nothing_and_replays(part: int) -> None:
    """Convergence, no lost edit, no loop, idempotence and replay hold whatever the order, duplication, abort or restart.

    Each run takes other histories, besides the first ones, which are always the same; a failure names its seed.
    """
    for seed in (*SEEDS[part::SLICES], *(random.getrandbits(48) for _ in SEEDS[part::SLICES])):
        run(History(seed), seed)


@pytest.mark.parametrize("part", range(SLICES))
def test_tenants_of_a_system_converge_as_systems_do(part: int) -> None:
    """The same where one of the systems has two tenants, each with copies of its own."""
    for seed in (*SEEDS[part :: 2 * SLICES], *(random.getrandbits(48) for _ in SEEDS[part :: 2 * SLICES])):
        run(TenantHistory(seed), seed)


@pytest.mark.parametrize("part", range(SLICES))
def test_contacts_of_customers_stay_apart(part: int) -> None:
    """The same where tenants give their records an owner: nothing of one customer is ever seen by the other, and all the rest holds."""
    for seed in (*SEEDS[part::SLICES], *(random.getrandbits(48) for _ in SEEDS[part::SLICES])):
        run(OwnerHistory(seed), seed)


def test_contacts_of_customers_could_meet() -> None:
    """Contacts move, copies that are left behind are edited, and carry ids of others' records. Else the histories could not fail."""
    strays = elsewhere = left = 0
    for seed in range(150):
        history = OwnerHistory(seed)
        history.run()
        w = history.world
        strays += any(a["kind"] == "other_tenant" for a in w.decoded(w.context.topics.ops("alerts")))
        elsewhere += any(c["rule"] == "tenant" for c in w.decoded(w.context.topics.ops("conflicts")))
        left += bool(history.bystanders)
    assert strays > 4
    assert elsewhere > 10
    assert left > 10


def run(history: History, seed: int) -> None:
    """Run a history; if it fails, say how to run it again."""
    try:
        history.run()
    except Exception as error:
        error.add_note(f"{type(history).__name__}({seed}); its {len(history.trace)} steps:")
        error.add_note("\n".join(history.trace))
        raise


def test_histories_contend() -> None:
    """Most histories do what they are for: edits meet, writes are refused or wait, records are held. Else they could not fail."""
    conflicts = refused = waiting = 0
    for seed in range(60):
        history = History(seed)
        history.run()
        w = history.world
        conflicts += bool(w.decoded(w.context.topics.ops("conflicts")))
        refused += any(receipt.refused for s in w.systems.values() for _, _, receipt in s.told)
        waiting += history.contended
    assert conflicts > 20
    assert refused > 20
    assert waiting > 25


def test_tenants_go_down() -> None:
    """In half of their histories a tenant refuses writes. Else they could not fail."""
    refused = 0
    for seed in range(40):
        history = TenantHistory(seed)
        history.run()
        told = [r.kind for s in history.world.systems.values() for _, _, r in s.told]
        refused += TENANT_WAITS in told or TENANT_OFF in told
    assert refused > 14
