"""What the platform adds to a write: states, stamps, computed columns, and the refusal of duplicates."""

from __future__ import annotations

from simulators.clock import Clock
from simulators.dynamics.errors import ODataError
from simulators.dynamics.messages import Caller
from simulators.dynamics.schema import Table
from simulators.dynamics.store import Store, Values
from simulators.dynamics.values import folded, stamp


class Platform:
    """Completes rows before they are kept. ``defaults`` are ids that new rows refer to: businessunit, transactioncurrency."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.defaults: dict[str, str] = {}
        self.duplicate_rules: dict[str, tuple[str, ...]] = {}
        self._counters: dict[str, int] = {}

    def states(self, table: Table, values: Values, assigned: Values, old: Values, row_id: str) -> None:
        """Give a row its state and status. Raises ODataError if they do not go together."""
        state, status = table.columns.get("statecode"), table.columns.get("statuscode")
        if state is None or status is None:
            return
        current = values.setdefault(
            "statecode", 2 if table.name == "product" and not old else next(iter(state.options))
        )
        allowed = [v for v, s in status.states.items() if s == current]
        if "statuscode" not in assigned or assigned["statuscode"] is None:
            if values.get("statuscode") not in allowed:
                values["statuscode"] = allowed[0]
        elif values["statuscode"] not in allowed:
            raise ODataError(
                400,
                "0x80048408",
                f"{values['statuscode']} is not a valid status code for state code "
                f"{table.schema_name}State.{state.options[current].replace(' ', '')} on {table.name} with Id {row_id}.",
            )

    def stamps(self, table: Table, values: Values, caller: Caller, *, created: bool) -> None:
        """Say who made or changed a row, and when."""
        if not table.stamped:
            return
        now = stamp(self._clock.moment())
        behalf = caller.user if caller.acting_for else None
        values["modifiedon"] = now
        values["_modifiedby_value"] = caller.acting
        values["_modifiedonbehalfby_value"] = behalf
        if created:
            values["createdon"] = values.get("overriddencreatedon") or now
            if "overriddencreatedon" in values:
                values["overriddencreatedon"] = now  # the two change places: what it shows is when it was really made
            values["_createdby_value"] = caller.acting
            values["_createdonbehalfby_value"] = behalf
            if "ownerid" in table.columns:
                values.setdefault("_ownerid_value", caller.acting)
                values.setdefault("_ownerid_value!", "systemuser")
            if "owningbusinessunit" in table.columns:
                values["_owningbusinessunit_value"] = self.defaults.get("businessunit")
            if "transactioncurrencyid" in table.columns and any(
                c.kind == "money" and c.name in values for c in table.columns.values()
            ):
                values.setdefault("_transactioncurrencyid_value", self.defaults.get("transactioncurrency"))
        if "owninguser" in table.columns:
            user = values.get("_ownerid_value!") == "systemuser"
            values["_owninguser_value"] = values.get("_ownerid_value") if user else None
        for name in ("_modifiedonbehalfby_value", "_createdonbehalfby_value", "_owninguser_value"):
            if values.get(name, "") is None:
                del values[name]

    def compute(self, table: Table, values: Values) -> None:
        """Work out the columns that the platform fills itself."""
        if table.primary_name == "fullname" and not table.columns["fullname"].creatable:
            parts = (values.get("firstname"), values.get("middlename"), values.get("lastname"))
            name = " ".join(p for p in parts if p)
            if name:
                values["fullname"] = name
            else:
                values.pop("fullname", None)
        for number, prefix in (("ordernumber", "ORD"), ("invoicenumber", "INV")):
            if number in table.columns and number not in values:
                count = self._counters[number] = self._counters.get(number, 1000) + 1
                values[number] = f"{prefix}-{count:05}"

    def refuse_duplicates(self, table: Table, values: Values, row_id: str) -> None:
        """Raise ODataError if a rule finds another row like this one."""
        for prop in self.duplicate_rules.get(table.name, ()):
            value = values.get(prop)
            if value is None:
                continue
            holders = self._store.data(table).index(prop).get(folded(value), {})
            if any(holder != row_id for holder in holders):
                raise ODataError(
                    412,
                    "0x80040333",
                    "A record was not created or updated because a duplicate of the current record already exists.",
                )
