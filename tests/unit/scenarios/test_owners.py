"""A tenant per customer: what is born in a customer's org belongs to that customer, and reaches only the product and that org."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.scene import FIELD_SPECS, Scene, columns
from tests.model.systems import System

ACME, BOLT = "org/acme", "org/bolt"
FIELDS = {**FIELD_SPECS, "customer": {}}
BOUND = columns(email="string", name="string", city="string", points="integer", customer="string")
ORG_MAP = [{"column": f, "field": f} for f in FIELD_SPECS]


def scene(*, on_exit: str = "keep", external_id: bool = False, unique: bool = False, **options: Any) -> Scene:
    """Return the product, which knows whose a contact is, and the orgs of two customers, in which nothing says so."""
    orgs = [System(n, external_id=external_id, unique=unique) for n in (ACME, BOLT)]
    given = {
        "fields": FIELDS,
        "flows": [{"from": "product", "to": "org", "on_exit": on_exit}, {"from": "org", "to": "product"}],
        "tables": {"org": {"map": ORG_MAP, "disable": {"points": 0}}},
        "tenants": {ACME: {"fields": {"customer": "acme"}}, BOLT: {"fields": {"customer": "bolt"}}},
    }
    return Scene(System("product", columns=BOUND), *orgs, **(given | options))


def whose(s: Scene) -> list[tuple[str, str, str | None]]:
    """Return (e-mail, name, customer) of the product's rows."""
    return sorted((r["email"], r["name"], r["customer"]) for r in s.rows("product"))


def names(s: Scene) -> dict[str, list[str]]:
    """Return the names that each org holds."""
    return {org: sorted(r["name"] for r in s.rows(org)) for org in (ACME, BOLT)}


def test_a_record_born_in_an_org_reaches_the_product_with_its_customer_and_no_other_org() -> None:
    s = scene()
    s[ACME].create({"email": "p@x", "name": "Ada"})
    s.settle()
    assert whose(s) == [("p@x", "Ada", "acme")]
    assert names(s) == {ACME: ["Ada"], BOLT: []}
    assert s.golden["customer"] == "acme"
    before = s.messages()
    s.settle()
    assert s.messages() == before


@pytest.mark.parametrize("policy", ["priority", "newest", "manual"])
def test_two_customers_contacts_with_one_address_are_two_records(policy: str) -> None:
    """In every order of capture, and whoever edits what."""
    s = scene(policy=policy)
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": "p@x", "name": name})
    s.settle()
    assert whose(s) == [("p@x", "Ada", "acme"), ("p@x", "Bob", "bolt")]
    s[ACME].update(s.key(ACME), {"name": "Ann"})
    (bob,) = (k for k, row in s["product"].rows.items() if row.values["customer"] == "bolt")
    s["product"].update(bob, {"name": "Ben"})
    s.settle()
    assert whose(s) == [("p@x", "Ann", "acme"), ("p@x", "Ben", "bolt")]
    assert names(s) == {ACME: ["Ann"], BOLT: ["Ben"]}
    assert s.conflicts() == s.alerts() == []


def test_what_stands_on_both_sides_at_the_first_start_meets_within_its_customer() -> None:
    s = scene()
    for customer in ("acme", "bolt"):
        s["product"].create({"email": "p@x", "name": customer, "customer": customer})
        s[f"org/{customer}"].create({"email": "P@X ", "name": customer})
    s.settle()
    assert len(s.world.golden()) == 2
    assert len(s.world.linked()) == 4
    assert [w.op for w in s.world.writes if w.op == "create"] == []


def test_customers_that_differ_in_upper_and_lower_case_only_are_different() -> None:
    """Keys of vendors often do: what tenants give is compared as it is, other parts of a match key are not."""
    s = scene(tenants={ACME: {"fields": {"customer": "0015g"}}, BOLT: {"fields": {"customer": "0015G"}}})
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": "p@x", "name": name})
    s.settle()
    assert whose(s) == [("p@x", "Ada", "0015g"), ("p@x", "Bob", "0015G")]
    assert names(s) == {ACME: ["Ada"], BOLT: ["Bob"]}


def test_a_record_of_nobody_goes_to_no_org_until_the_product_says_whose_it_is() -> None:
    s = scene()
    key = s["product"].create({"email": "p@x", "name": "Ada"})
    s.settle()
    assert names(s) == {ACME: [], BOLT: []}
    s["product"].update(key, {"customer": "bolt"})
    s.settle()
    assert names(s) == {ACME: [], BOLT: ["Ada"]}


@pytest.mark.parametrize(("on_exit", "left"), [("keep", [10]), ("disable", [0]), ("delete", [])])
def test_a_contact_that_moves_in_the_product_leaves_one_org_and_enters_the_other(on_exit: str, left: list[int]) -> None:
    s = scene(on_exit=on_exit)
    a = s["product"].create({"email": "p@x", "name": "Ada", "points": 10, "customer": "acme"})
    s.settle()
    assert names(s) == {ACME: ["Ada"], BOLT: []}
    s["product"].update(a, {"customer": "bolt"})
    s.settle()
    assert [r["points"] for r in s.rows(ACME)] == left
    assert [(r["name"], r["points"]) for r in s.rows(BOLT)] == [("Ada", 10)]
    s["product"].update(a, {"name": "Grace"})
    s.settle()
    assert names(s) == {ACME: ["Ada"] if left else [], BOLT: ["Grace"]}
    s["product"].update(a, {"customer": "acme"})
    s.settle()
    assert [(r["name"], r["points"]) for r in s.rows(ACME)] == [("Grace", 10)]
    assert len(s.world.golden()) == 1
    at_rest = s.messages()
    s.settle()
    assert s.messages() == at_rest


def test_what_the_former_customer_does_with_the_copy_it_keeps_reaches_nobody() -> None:
    """Its edits stay there, and are on record; its delete deletes nothing elsewhere; and a delete of the record leaves it alone."""
    s = scene()
    a = s["product"].create({"email": "p@x", "name": "Ada", "customer": "acme"})
    s.settle()
    s["product"].update(a, {"customer": "bolt"})
    s.settle()
    kept = s.key(ACME)
    s[ACME].update(kept, {"name": "ours"})
    s.settle()
    assert whose(s) == [("p@x", "Ada", "bolt")]
    assert names(s) == {ACME: ["ours"], BOLT: ["Ada"]}
    (conflict,) = s.conflicts()
    assert (conflict["system"], conflict["theirs"], conflict["rule"], conflict["outcome"]) == (
        ACME, '"ours"', "tenant", "golden",
    )  # fmt: skip
    s[BOLT].delete(s.key(BOLT))
    s.settle()
    assert s.world.golden() == {}
    assert whose(s) == []
    assert names(s) == {ACME: ["ours"], BOLT: []}, "the delete is not the former customer's"
    assert s.world.linked() == {}
    s[ACME].update(kept, {"city": "Rome"})
    s.settle()
    assert whose(s) == [("p@x", "ours", "acme")], "what is nobody's any more is the org's own again"


def test_a_copy_that_a_former_customer_deletes_deletes_nothing_elsewhere() -> None:
    s = scene()
    a = s["product"].create({"email": "p@x", "name": "Ada", "customer": "acme"})
    s.settle()
    s["product"].update(a, {"customer": "bolt"})
    s.settle()
    s[ACME].delete(s.key(ACME))
    s.settle()
    assert whose(s) == [("p@x", "Ada", "bolt")]
    assert names(s) == {ACME: [], BOLT: ["Ada"]}
    s["product"].update(a, {"customer": "acme"})
    s.settle()
    assert names(s)[ACME] == ["Ada"], "it is created again when the record comes back"


def test_an_edit_that_was_on_its_way_when_the_record_moved_is_on_record() -> None:
    """The org's user could not know; the move came first into the journal."""
    s = scene(on_exit="delete")
    a = s["product"].create({"email": "p@x", "name": "Ada", "customer": "acme"})
    s.settle()
    s["product"].update(a, {"customer": "bolt"})
    s[ACME].update(s.key(ACME), {"name": "late"})
    s.run(f"capture:{ACME}", f"route:{ACME}", "sink")
    s.settle()
    assert whose(s) == [("p@x", "Ada", "bolt")]
    assert names(s) == {ACME: [], BOLT: ["Ada"]}
    assert [c["theirs"] for c in s.conflicts()] == ['"late"']


@pytest.mark.parametrize("email", ["p@x", "q@x", None])
def test_a_restored_contact_that_carries_the_id_of_somebody_elses_record_is_a_record_of_its_own(
    email: str | None,
) -> None:
    """The vendor's recycle bin, or a clone: our id in it names a record that has moved to another customer."""
    s = scene(on_exit="delete", external_id=True)
    a = s["product"].create({"email": email, "name": "Ada", "customer": "acme"})
    s.settle()
    cid = s.cid
    s["product"].update(a, {"customer": "bolt"})
    s.settle()
    s[ACME].create({"email": email, "name": "restored", "hub_id": cid})
    s.settle()
    assert {(n, c) for _, n, c in whose_any(s)} == {("Ada", "bolt"), ("restored", "acme")}
    assert names(s) == {ACME: ["restored"], BOLT: ["Ada"]}
    assert {a["kind"] for a in s.alerts()} == {"other_tenant"}
    s[ACME].update(s.key(ACME), {"name": "edited"})
    s.settle()
    assert names(s) == {ACME: ["edited"], BOLT: ["Ada"]}
    assert len(s.alerts()) == 1


def whose_any(s: Scene) -> list[tuple[str | None, str, str | None]]:
    """Return the same as `whose`, blank e-mails too."""
    return [(r["email"], r["name"], r["customer"]) for r in s.rows("product")]


def test_a_person_cannot_link_a_contact_to_another_customers_record() -> None:
    """It would show one customer's values to the other: it is refused, said, and all stays as it was."""
    s = scene()
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": f"{name}@x", "name": name})
    s.settle()
    before, linked = whose(s), s.world.linked()
    (cid,) = (cid for cid, value in s.world.golden().items() if value["customer"] == "acme")
    s.enter("link", cid, BOLT, identity=True, native_key=s.key(BOLT))
    s.settle()
    assert whose(s) == before
    assert names(s) == {ACME: ["Ada"], BOLT: ["Bob"]}
    assert s.world.linked() == linked
    assert len(s.world.topics[s.world.context.topics.dlq("identify", "org", "contact")][0]) == 1


@pytest.mark.parametrize("winner", ["acme", "bolt"])
def test_records_of_two_customers_that_a_person_merges_stay_apart_in_their_orgs(winner: str) -> None:
    """The loser's org copy becomes a record of its own, with its customer; nothing of it is shown to the winner's."""
    s = scene()
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": f"{name}@x", "name": name})
    s.settle()
    by = {value["customer"]: cid for cid, value in s.world.golden().items()}
    loser = "bolt" if winner == "acme" else "acme"
    s.enter("merge", by[winner], identity=True, keys=(by[loser],))
    s.settle()
    assert names(s) == {ACME: ["Ada"], BOLT: ["Bob"]}
    assert len(s.world.golden()) == 2


def test_an_address_that_moves_within_a_customer_matches_nobody_elses() -> None:
    """A match key that changes is looked for among the customer's own records only."""
    s = scene(unique=True)
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": f"{name}@x", "name": name})
    s.settle()
    s[ACME].update(s.key(ACME), {"email": "Bob@x"})
    s.settle()
    assert whose(s) == [("Bob@x", "Ada", "acme"), ("Bob@x", "Bob", "bolt")]
    assert s.alerts() == []


def test_two_orgs_of_one_customer_hold_the_same_records() -> None:
    s = scene(tenants={ACME: {"fields": {"customer": "acme"}}, BOLT: {"fields": {"customer": "acme"}}})
    s[ACME].create({"email": "p@x", "name": "Ada"})
    s.settle()
    s[BOLT].update(s.key(BOLT), {"name": "Ann"})
    s.settle()
    assert whose(s) == [("p@x", "Ann", "acme")]
    assert names(s) == {ACME: ["Ann"], BOLT: ["Ann"]}


def test_a_condition_of_the_tenant_comes_on_top_of_its_fields() -> None:
    s = scene(
        tenants={ACME: {"fields": {"customer": "acme"}, "when": "points > 5"}, BOLT: {"fields": {"customer": "bolt"}}}
    )
    a = s["product"].create({"email": "p@x", "name": "Ada", "points": 1, "customer": "acme"})
    s.settle()
    assert names(s) == {ACME: [], BOLT: []}
    s["product"].update(a, {"points": 6})
    s.settle()
    assert names(s) == {ACME: ["Ada"], BOLT: []}


def test_an_org_from_which_nothing_flows_still_says_whose_its_contacts_are() -> None:
    """Else those that the product does not know would be taken for nobody's, and `on_exit` would remove them."""
    s = scene(flows=[{"from": "product", "to": "org", "on_exit": "delete"}])
    s[ACME].create({"email": "p@x", "name": "Ada"})
    s.settle()
    assert names(s) == {ACME: ["Ada"], BOLT: []}
    s["product"].create({"email": "p@x", "name": "Grace", "customer": "acme"})
    s.settle()
    assert names(s) == {ACME: ["Grace"], BOLT: []}
    assert len(s.world.golden()) == 1


def test_a_delete_in_an_org_deletes_the_customers_record_only() -> None:
    s = scene()
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": "p@x", "name": name})
    s.settle()
    s[ACME].delete(s.key(ACME))
    s.settle()
    assert whose(s) == [("p@x", "Bob", "bolt")]
    assert names(s) == {ACME: [], BOLT: ["Bob"]}


def test_tenants_that_are_given_fields_later_keep_what_they_hold() -> None:
    """Records from before get what their tenant gives as soon as they are looked at; nothing leaves an org because it was nobody's."""
    s = scene(on_exit="delete", tenants={}, flows=[{"from": "org", "to": "product"}])
    for org, name in ((ACME, "Ada"), (BOLT, "Bob")):
        s[org].create({"email": f"{name}@x", "name": name})
    s.settle()
    assert whose(s) == [("Ada@x", "Ada", None), ("Bob@x", "Bob", None)]
    s.world.reconfigure(scene(on_exit="delete").config)
    for cid in list(s.world.golden()):
        s.enter("resync", cid)
    s.settle()
    assert whose(s) == [("Ada@x", "Ada", "acme"), ("Bob@x", "Bob", "bolt")]
    assert names(s) == {ACME: ["Ada"], BOLT: ["Bob"]}
    assert all(key.endswith(("\x1facme", "\x1fbolt")) for cid in s.world.golden() for key in s.record(cid).keys)


def test_a_record_that_comes_back_finds_what_it_holds_and_not_what_was_written_meanwhile() -> None:
    """Also in a field of which nobody else has ever said anything."""
    s = scene()
    a = s["product"].create({"email": "p@x", "name": "Ada", "customer": "acme"})
    s.settle()
    s["product"].update(a, {"customer": "bolt"})
    s.settle()
    s[ACME].update(s.key(ACME), {"name": "ours", "city": "Rome"})
    s.settle()
    s["product"].update(a, {"customer": "acme"})
    s.settle()
    assert [(r["name"], r["city"]) for r in s.rows(ACME)] == [("Ada", None)]
    assert {c["theirs"] for c in s.conflicts()} == {'"ours"', '"Rome"'}
