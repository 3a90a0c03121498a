"""Errors as Salesforce tells them: an array of objects in an answer, an object with other names in a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Refusal(Exception):
    """Something that Salesforce refuses; ``more`` are further members of its body, for example the duplicates found."""

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 400,
        fields: Sequence[str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields
        self.more = more or {}

    def body(self) -> list[dict[str, Any]]:
        """Return the body of an answer of its own."""
        out: dict[str, Any] = {"message": self.message, "errorCode": self.code}
        if self.fields is not None:
            out["fields"] = list(self.fields)
        return [{**out, **self.more}]

    def item(self) -> dict[str, Any]:
        """Return the error as it stands inside one result of a collection or a tree."""
        return {
            "statusCode": self.code,
            "message": self.message,
            "fields": list(self.fields or ()),
            **self.more,
        }

    def cell(self) -> str:
        """Return the error as the column ``sf__Error`` of a bulk result spells it."""
        return f"{self.code}:{self.message}:{','.join(self.fields or ())}--"


def not_found(message: str = "The requested resource does not exist") -> Refusal:
    """Return the refusal of something that is not there."""
    return Refusal("NOT_FOUND", message, 404)


def unknown_type(name: str) -> Refusal:
    """Return the refusal of an object that the org does not have, as queries and writes word it."""
    return Refusal(
        "INVALID_TYPE",
        f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to append the "
        "'__c' after the entity name. Please reference your WSDL or the describe call for the appropriate names.",
    )


def unknown_column(field: str, kind: str) -> Refusal:
    """Return the refusal of a field that an object does not have, as queries word it."""
    return Refusal(
        "INVALID_FIELD",
        f"No such column '{field}' on entity '{kind}'. If you are attempting to use a custom field, be sure to append the "
        "'__c' after the custom field name. Please reference your WSDL or the describe call for the appropriate names.",
    )
