"""The schemas of the shop's contract: of every resource as it is read and as it is written, of errors and of batches."""

from __future__ import annotations

from typing import Any

from simulators.shop.batches import MOST_RECORDS
from simulators.shop.resources import LINE, MOST_LINES, OWN, RESOURCES, Field, Resource
from simulators.shop.store import OPERATIONS
from simulators.shop.values import COUNTRIES, CURRENCY, EMAIL, HIGHEST, MONEY, SUM

_TEXT = {"type": "string"}
_MOMENT = {"type": "string", "format": "date-time"}
_WHOLE = {"type": "integer"}
_MAYBE = {"type": ["string", "null"]}


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def record_schemas(resource: Resource) -> dict[str, Any]:
    """Return a resource's schemas: the record, what is sent for create, update, upsert and patch, pages and results."""
    title = resource.singular.capitalize()
    own: dict[str, Any] = {"id": _WHOLE, "version": {"type": "integer", "minimum": 1}}
    shown = (
        own | {f.name: _shown(f, resource) for f in resource.fields} | {"created_at": _MOMENT, "updated_at": _MOMENT}
    )
    writable = {f.name: _written(f, resource) for f in resource.fields if not f.read_only}
    required = [f.name for f in resource.fields if f.required]
    named = {"id": _WHOLE, "if_version": _WHOLE}
    must_ref = {"external_ref": {"type": "string", "pattern": r"\S", "maxLength": 64}}
    return {
        title: _object(shown, [*OWN, *(f.name for f in resource.fields)]),
        f"{title}Patch": _object(writable),
        f"{title}Create": _object(writable, required),
        f"{title}Update": {
            **_object(named | writable),
            "anyOf": [{"required": ["id"]}, {"required": ["external_ref"], "properties": must_ref}],
        },
        f"{title}Upsert": {
            **_object(writable | must_ref | {"if_version": _WHOLE}, ["external_ref"]),
            "description": f"A new {resource.singular} needs what {title}Create needs.",
        },
        f"{title}Page": _object({"data": _array(ref(title)), "next_cursor": _MAYBE}, ["data", "next_cursor"]),
        f"{title}Result": _result(title),
        f"{title}Results": _object(
            {"results": _array(ref(f"{title}Result")), "failed": {"type": "integer", "minimum": 0}},
            ["results", "failed"],
        ),
    }


def error_schemas() -> dict[str, Any]:
    """Return the schemas of errors and tokens."""
    wrong = _object({"code": _TEXT, "field": _MAYBE, "message": _TEXT}, ["code", "field", "message"])
    problem = {
        "type": "object",
        "required": ["type", "title", "status", "code", "detail", "errors"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": _WHOLE,
            "code": _TEXT | {"description": "Stable, for programs."},
            "detail": _TEXT | {"description": "What happened and what to do, for people."},
            "errors": _array(ref("FieldError")),
            "existing_id": _WHOLE | {"description": "With duplicate_…: the record that has the value."},
            "version": {"type": ["integer", "null"], "description": "With version_mismatch: the version that stands."},
        },
    }
    token = _object(
        {"access_token": _TEXT, "token_type": {"const": "Bearer"}, "expires_in": _WHOLE, "scope": _TEXT},
        ["access_token", "token_type", "expires_in", "scope"],
    )
    refused = _object({"error": _TEXT, "error_description": _TEXT}, ["error"])
    countries = {"type": "string", "description": "ISO 3166-1 alpha-3.", "enum": sorted(COUNTRIES)}
    return {"FieldError": wrong, "Problem": problem, "Token": token, "TokenError": refused, "Country": countries}


def batch_schemas() -> dict[str, Any]:
    """Return the schemas of batches and of the list of deletions."""
    count = {"type": "integer", "minimum": 0}
    maybe = {"type": ["string", "null"], "format": "date-time"}
    batch = {
        "id": _TEXT,
        "resource": {"enum": list(RESOURCES)},
        "operation": {"enum": list(OPERATIONS)},
        "state": {"enum": ["queued", "processing", "done", "failed"]},
        **dict.fromkeys(("records", "processed", "succeeded", "failed"), count),
        "created_at": _MOMENT,
        **dict.fromkeys(("started_at", "finished_at", "results_expire_at"), maybe),
        "error": {"anyOf": [ref("Problem"), {"type": "null"}]},
    }
    submit = {
        "resource": {"enum": list(RESOURCES)},
        "operation": {"enum": list(OPERATIONS)},
        "return": {"enum": ["minimal", "representation"], "default": "minimal"},
        "records": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_RECORDS,
            "items": {"type": "object"},
            "description": "As in the call with several records; a delete has id or external_ref, and if_version.",
        },
    }
    told = {
        "resource": _TEXT,
        "id": _WHOLE,
        "external_ref": _MAYBE,
        "number": _MAYBE,
        "version": _WHOLE,
        "deleted_at": _MOMENT,
    }
    page = {"data": _array(ref("Deletion")), "next_cursor": _MAYBE, "kept_since": _MOMENT}
    return {
        "Batch": _object(batch, list(batch)),
        "BatchList": _object({"data": _array(ref("Batch"))}, ["data"]),
        "BatchSubmit": _object(submit, ["resource", "operation", "records"]),
        "BatchResult": _result(None),
        "BatchResultPage": _object(
            {"results": _array(ref("BatchResult")), "next_cursor": _MAYBE}, ["results", "next_cursor"]
        ),
        "Deletion": _object(told, list(told)),
        "DeletionPage": _object(page, list(page)),
        "OrderLine": _object({f.name: _shown(f, None) for f in LINE}, [f.name for f in LINE]),
        "OrderLineWrite": _object(
            {f.name: {"description": "Computed; ignored."} if f.read_only else _written(f, None) for f in LINE},
            [f.name for f in LINE if f.required],
        ),
    }


def _result(title: str | None) -> dict[str, Any]:
    record: dict[str, Any] = {"type": ["object", "null"], "description": "With return: representation."}
    fields = {
        "index": {"type": "integer", "minimum": 0},
        "id": {"type": ["integer", "null"]},
        "external_ref": _MAYBE,
        "status": {"enum": ["created", "updated", "unchanged", "disabled", "deleted", "failed"]},
        "http_status": {"type": "integer"},
        "version": {"type": ["integer", "null"]},
        "record": record if title is None else {"anyOf": [ref(title), {"type": "null"}]},
        "error": {"anyOf": [ref("Problem"), {"type": "null"}]},
    }
    return _object(fields, list(fields))


def _shown(field: Field, resource: Resource | None) -> dict[str, Any]:
    done = _kind(field)
    if field.kind == "lines":
        done["items"] = ref("OrderLine")
    if field.size:
        done["maxLength"] = field.size
    return _described(done if field.required and resource is not None else _nullable(done), field)


def _written(field: Field, resource: Resource | None) -> dict[str, Any]:
    done = _kind(field)
    cut = field.cut if field.cut is not None else resource is not None and resource.too_long == "truncate"
    if field.size:
        done["x-truncated-to" if cut else "maxLength"] = field.size
    if field.required and field.kind == "text":
        done["pattern"] = r"\S"
    return _described(done if field.required else _nullable(done), field)


def _kind(field: Field) -> dict[str, Any]:
    match field.kind:
        case "integer":
            return {"type": "integer", "minimum": field.lowest, "maximum": HIGHEST}
        case "flag":
            return {"type": "integer", "enum": [0, 1]}
        case "lines":
            return {"type": "array", "minItems": 1, "maxItems": MOST_LINES, "items": ref("OrderLineWrite")}
        case "country":
            return ref("Country")
        case "date":
            return {"type": "string", "format": "date"}
        case "moment":
            return dict(_MOMENT)
        case "money" if field.read_only:
            return {"type": "string", "pattern": SUM}
        case "email" | "money" | "currency":
            return {"type": "string", "pattern": {"email": EMAIL, "money": MONEY, "currency": CURRENCY}[field.kind]}
    return {"type": "string", "enum": list(field.one_of)} if field.one_of else dict(_TEXT)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    if "enum" in schema:
        schema = {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _described(schema: dict[str, Any], field: Field) -> dict[str, Any]:
    return {**schema, "description": field.about} if field.about else schema


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    done: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        done["required"] = required
    return done
