"""The web shop's API as producers and sinks need it: signing in, columns by resource, reading, what its answers mean.

The contract is our own (docs/openapi/shop.yaml). A record's ``version`` grows by one with every change, so it orders the states of one
record exactly; ``source`` says who made the present one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tidelock.apis.client import ApiClient, bearer
from tidelock.apis.judging import Answer, judge
from tidelock.apis.records import ApiColumn, Record, decimal_text, json_text, micros_of, moment
from tidelock.auth import ClientCredentials, Grant, Static, Token
from tidelock.avro import FieldType
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, TidelockError
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant

T = TypeVar("T")

ROOT = "/api/v1"
SYNC_MOST = 10
BATCH_MOST = 5000
LIST_MOST = 250
IDS_MOST = 100
SOURCE = "tidelock"
HANDED_OVER = ("orders", "payments", "customers")

_COMMON = "id:i version:i external_ref source created_at:t updated_at:t"
_HAND_OVER = "exported:i erp_import_status erp_import_error exported_at:t exported_version:i"
_FIELDS = {
    "customers": "customer_number email first_name last_name company phone address1 address2 city state postal_code country"
    " price_level credit_limit:d notes status:i " + _HAND_OVER,
    "products": "sku name description category uom price:d currency stock_quantity:i status:i",
    "prices": "sku price_level customer_number min_quantity:i price:d currency valid_from:D valid_to:D",
    "orders": "order_number order_date:t order_status customer_number email po_number currency ship_name ship_address1 ship_address2"
    " ship_city ship_state ship_postal_code ship_country comments lines:j subtotal:d shipping_amount:d tax_amount:d total:d "
    + _HAND_OVER,
    "invoices": "invoice_number customer_number order_number invoice_date:D due_date:D invoice_status currency total:d open_amount:d",
    "payments": "payment_number customer_number invoice_number order_number paid_at:t method payment_status currency amount:d "
    + _HAND_OVER,
}
_READ_ONLY = frozenset(("id", "version", "created_at", "updated_at", "exported_at", "exported_version", "subtotal"))


def _time_text(value: Any) -> str:
    at = value if isinstance(value, dt.datetime) else moment(str(value))
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_KINDS: dict[str, tuple[FieldType, Any, Any]] = {
    "": (FieldType.STRING, str, str),
    "i": (FieldType.INTEGER, int, int),
    "d": (FieldType.DECIMAL, decimal_text, str),
    "t": (FieldType.TIMESTAMP, moment, _time_text),
    "D": (FieldType.DATE, dt.date.fromisoformat, lambda value: value.isoformat()),
    "j": (FieldType.JSON, json_text, json.loads),
}


def _columns(resource: str) -> dict[str, ApiColumn]:
    out = {}
    for item in f"{_COMMON} {_FIELDS[resource]}".split():
        name, _, code = item.partition(":")
        kind, load, dump = _KINDS[code]
        writable = name not in _READ_ONLY and (resource != "orders" or name != "total")
        out[name] = ApiColumn(name, kind, f"shop {kind.value}", load, dump, writable=writable)
    return out


class Shop:
    """One tenant's shop."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self.tenant = tenant
        options = tenant.options
        self.source = str(options.get("source", SOURCE))
        rate = options.get("rate", (900, 10))
        spec = LimitSpec(
            concurrency=int(options.get("concurrency", 8)),
            rate=(int(rate[0]), float(rate[1])),
            daily=int(options["daily"]) if options.get("daily") else None,
        )
        if not tenant.url:
            raise Fatal(f"{tenant.path} has no address", hint=f"set `url` of {tenant.path}: https://shop.example.com")
        by_key = "client_id" not in tenant.credentials
        grant: Grant = Static("api_key") if by_key else ClientCredentials(f"{tenant.url}/oauth/token")
        self.client: ApiClient = context.access.client(
            tenant,
            base_url=tenant.url,
            grant=grant,
            judge=_judge,
            limits=spec,
            authorise=_key if by_key else bearer,
        )

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a resource. Raises Fatal if the shop has no such resource."""
        if table.table not in _FIELDS:
            raise Fatal(
                f"{self.tenant.path}: the shop has no resource {table.table!r}", hint=f"resources: {', '.join(_FIELDS)}"
            )
        return _columns(table.table)

    def pages(self, path: str, /, **query: Any) -> Iterator[list[dict[str, Any]]]:
        """Read a list page by page, in the order of (updated_at, id)."""
        asked = {"limit": LIST_MOST, **query}
        while True:
            page = self.client.send("GET", f"{ROOT}/{path}", params=asked, name=f"list {path.partition('/')[0]}").json()
            yield page.get("data") or page.get("results") or []
            if page["next_cursor"] is None:
                return
            asked = {**asked, "cursor": page["next_cursor"]}

    def by_ids(self, resource: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Read records by id; those that are not there are left out."""
        out: dict[str, dict[str, Any]] = {}
        numbers = [key for key in dict.fromkeys(keys) if key.isascii() and key.isdigit()]
        for part in cut(numbers, IDS_MOST):
            for rows in self.pages(resource, ids=",".join(part)):
                out.update({str(row["id"]): row for row in rows})
        return out

    def record(self, table: TableSpec, row: Mapping[str, Any]) -> Record:
        """Turn a row of a table into a record; ``table`` says whether a disabled one counts as deleted (`disables`)."""
        if "deleted_at" in row:
            return Record(str(row["id"]), {}, (int(row["version"]), 0), micros_of(row["deleted_at"]), deleted=True)
        return Record(
            str(row["id"]),
            row,
            (int(row["version"]), 0),
            micros_of(row["updated_at"]),
            deleted=row.get("status", 1) == 0 and not disables(table),
            created=row["version"] == 1,
            ours=row["source"] == self.source,
            actor=row["source"],
        )

    def close(self) -> None:
        """Close connections."""
        self.client.close()


def disables(table: TableSpec) -> bool:
    """Return whether the configuration knows `status`. Where it does not, a disabled record is one that was deleted: the shop's own
    DELETE only disables customers and products."""
    return "status" in table.disable or any("status" in binding.column_names for binding in table.map)


def _key(token: Token) -> dict[str, str]:
    return {"X-Api-Key": token.value}


def _judge(answer: Answer, what: str) -> TidelockError | None:
    return judge(answer, what)


def problem(error: Mapping[str, Any] | None, columns: Mapping[str, ApiColumn]) -> Reject:
    """Turn the problem of one record into a Reject that names the column, if it is one."""
    error = error or {}
    wrong: Mapping[str, Any] = next(iter(error.get("errors") or ()), {})
    field = wrong.get("field")
    text = wrong.get("message") or error.get("detail") or "the shop gave no reason"
    return Reject(
        str(text),
        kind=str(wrong.get("code") or error.get("code") or "rejected"),
        field=field if field in columns else None,
    )


def cut(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most so many."""
    return (items[at : at + most] for at in range(0, len(items), most))
