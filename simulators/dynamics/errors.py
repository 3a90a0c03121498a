"""The vendor's errors: status, code and text as its Web API answers them."""

from __future__ import annotations

from typing import Any

import msgspec

JSON = "application/json; odata.metadata=minimal"


class ODataError(Exception):
    """An error of the Web API. ``code`` is the vendor's hexadecimal word, or empty."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def body(self, annotated: bool) -> bytes:
        """Return the JSON body; annotated ones carry the members that clients ask for with include-annotations."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if annotated:
            error["@Microsoft.PowerApps.CDS.ErrorDetails.OperationStatus"] = "0"
            error["@Microsoft.PowerApps.CDS.ErrorDetails.SubErrorCode"] = "-2146233088"
            error["@Microsoft.PowerApps.CDS.HelpLink"] = (
                f"http://go.microsoft.com/fwlink/?LinkID=398563&error=Microsoft.Crm.CrmException%3a{self.code}&client=platform"
            )
            error["@Microsoft.PowerApps.CDS.TraceText"] = ""
            error["@Microsoft.PowerApps.CDS.InnerError.Message"] = self.message
        return msgspec.json.encode({"error": error})


def missing(table: str, row_id: str) -> ODataError:
    """Return the error for a row that is not there."""
    return ODataError(404, "0x80040217", f"{table} With Id = {row_id} Does Not Exist")


def missing_key(table: str) -> ODataError:
    """Return the error for an alternate key that no row has."""
    return ODataError(404, "0x80060891", f"A record with the specified key values does not exist in {table} entity")


def no_segment(segment: str) -> ODataError:
    """Return the error for a path that names nothing."""
    return ODataError(404, "0x80060888", f"Resource not found for the segment '{segment}'.")


def no_property(name: str, table: str) -> ODataError:
    """Return the error for a query that names a column which is not there."""
    return ODataError(
        400, "0x80060888", f"Could not find a property named '{name}' on type 'Microsoft.Dynamics.CRM.{table}'."
    )


def bad_query(message: str) -> ODataError:
    """Return the error for a query that cannot be read or is not supported."""
    return ODataError(400, "0x80060888", message)


def bad_payload(entity_set: str, inner: str) -> ODataError:
    """Return the error for a body that does not fit the table."""
    return ODataError(
        400,
        "0x80048d19",
        f"Error identified in Payload provided by the user for Entity :'{entity_set}', For more information on this error "
        "please follow this help link https://go.microsoft.com/fwlink/?linkid=2195293  ---->  "
        f"InnerException : Microsoft.OData.ODataException: {inner}",
    )


def not_allowed(method: str) -> ODataError:
    """Return the error for a method that this resource does not know."""
    return ODataError(405, "0x80060888", f"The requested resource does not support http method '{method}'.")


def version_mismatch() -> ODataError:
    """Return the error of optimistic concurrency."""
    return ODataError(
        412,
        "0x80060882",
        "The version of the existing record doesn't match the RowVersion property provided.",
    )


def already_there() -> ODataError:
    """Return the error for a create of a row that exists."""
    return ODataError(412, "0x80040237", "A record with matching key values already exists.")


def key_taken(key: str, names: str) -> ODataError:
    """Return the error for an alternate key that another row holds."""
    return ODataError(
        412,
        "0x80060892",
        f"Entity Key {key} violated. A record with the same value for {names} already exists. "
        "A duplicate record cannot be created. Select one or more unique values and try again.",
    )
