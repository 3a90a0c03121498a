"""The shop's contract as OpenAPI 3.1, written from its tables of fields: ``python -m simulators.shop.contract > docs/openapi/shop.yaml``.

The paths stand here, the schemas in `contract_schemas`. A test compares the file with this module, and schemathesis checks that the
shop does what the file says.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

from simulators.shop.batches import MOST_RECORDS
from simulators.shop.contract_schemas import batch_schemas, error_schemas, record_schemas, ref
from simulators.shop.lists import LONGEST, MOST, SEVERAL, USUAL
from simulators.shop.resources import RESOURCES, Resource
from simulators.shop.rest import MOST_AT_ONCE, ROOT
from simulators.shop.values import HIGHEST

_ABOUT = f"""\
An ERP web shop as an integrator meets it. **This contract is our own: it is modelled on a description of such shops, not on the
documents of any vendor.** The simulator of this project implements it; a real shop needs an adapter to it.

**Times** are RFC 3339 in UTC with milliseconds. Filters take any time zone, but need one.

**Versions.** `version` grows by one with every change of a record, and `updated_at` moves with it. Setting `exported` to 1 changes
neither. A write that changes nothing leaves both as they are (`unchanged`).

**Lists** are ordered by `updated_at`, then `id`. `updated_at_min` is inclusive; with `after_id` beside it, what has exactly that time
comes only with a greater id, so that a client which keeps the last record's pair misses and repeats nothing. A record that is changed
while somebody pages moves to the end.

**Handing over** (orders, payments, customers). `exported` is blank or 0 until a client takes the record, `erp_import_status` is blank
(pending) until somebody writes back what became of it. `GET …?pull=1` returns what is not exported and sets the flag in the same step: if
that answer is lost, the records are not offered again. The safe way is to read with `exported=0` and to acknowledge afterwards with
`PATCH {{"exported": 1}}` under `If-Match` (or `if_version`): an edit made in between then answers 412, and the record stays on offer. An edit
after the hand-over does **not** reset the flag, unless the shop is set up so; `version` > `exported_version` tells it. A worker can ask for a record to be
exported again, which resets flag, status and error and is a change with a new version: importers must find such an order by its number.

**Several records** (at most {MOST_AT_ONCE}): one result per record in the order sent, HTTP 200 even if all failed; every record stands alone. A malformed
envelope is 400, more records 413 `too_many_records`. **Batches** (at most {MOST_RECORDS:,} records): 202 with `Location`; states queued, processing, done,
failed (broken off; records without a result were not looked at); they are worked off in the order of their submission. Results are kept
for 24 hours (410 afterwards), the batch itself for 7 days, idempotency keys for 24 hours.

**Which record.** `id`, or `external_ref`, the writer's own id: unique per resource, so that a create sent twice answers 409
`duplicate_external_ref` with `existing_id`, and an upsert finds it. `source` says who made the present version.

**Status codes of one record.** 422: wrong in itself, correct it. 409: conflicts with what stands in the shop (a number that is taken, a
reference to nothing, a delete that is refused). 412: the version is another. 423 and 5xx: send it again.

**Values.** Text is trimmed; text of blanks is null. Amounts are decimals as strings and come back with two places, e-mail addresses of
ASCII in small letters. Text that is too long is refused, but cut without a word for products (their `sku` excepted) and for `erp_import_error`. Countries are ISO 3166-1 alpha-3.

**Deletes.** Customers and products are disabled (`status` 0) and answer with the record; prices are really deleted (204); orders, invoices and payments refuse (409).
What a user of the shop removed for good stands in `/deletions` for 30 days.

**Limits.** 429 with `Retry-After` in seconds. Credentials: header `X-Api-Key`, or OAuth client credentials.
"""
_JSON = "application/json"


def contract() -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, Any] = {"/oauth/token": {"post": _token()}}
    for resource in RESOURCES.values():
        paths |= _paths(resource)
    paths |= _other_paths()
    schemas = error_schemas() | batch_schemas()
    for resource in RESOURCES.values():
        schemas |= record_schemas(resource)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Web shop", "version": "1.0.0", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"apiKey": []}, {"oauth": ["read", "write"]}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "oauth": {
                    "type": "oauth2",
                    "flows": {
                        "clientCredentials": {
                            "tokenUrl": "/oauth/token",
                            "scopes": {"read": "read everything", "write": "write, and pull"},
                        }
                    },
                },
            },
            "parameters": _parameters(),
            "responses": _responses(),
            "schemas": schemas,
        },
    }


def _paths(resource: Resource) -> dict[str, Any]:
    name, one = resource.name, resource.singular
    title = one.capitalize()
    several = {
        "200": _ok("One result per record, in the order sent; each stands alone.", f"{title}Results"),
        **_errors("400", "413", "415"),
    }
    removed = resource.delete == "remove"
    delete = {"204": {"description": "Deleted."}} if removed else {"200": _ok("Disabled.", title, etag=True)}
    if resource.delete == "refuse":
        delete = {}
    lists = [
        _param(n) for n in ("limit", "cursor", "updated_at_min", "updated_at_max", "after_id", "ids", "external_refs")
    ]
    lists += [_param(n) for n in (("exported", "pull") if resource.exported else ())]
    lists += [_filter(resource, n) for n in (*resource.choices, *resource.indexed)]
    return {
        f"{ROOT}/{name}": {
            "get": _op(
                f"list_{name}", f"List {name}", {"200": _ok("One page.", f"{title}Page"), **_errors("400")}, lists
            ),
            "post": _op(f"create_{name}", f"Create {name}", several, body=_records(f"{title}Create")),
            "patch": _op(f"update_{name}", f"Update {name}", several, body=_records(f"{title}Update")),
            "put": _op(
                f"upsert_{name}", f"Create or update {name} by external_ref", several, body=_records(f"{title}Upsert")
            ),
            "delete": _op(
                f"delete_{name}",
                f"Delete {name} ({resource.delete})",
                {"200": _ok("One result per record.", f"{title}Results"), **_errors("400", "413")},
                [
                    {
                        "name": "id",
                        "in": "query",
                        "required": True,
                        "schema": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MOST_AT_ONCE,
                            "items": {"type": "integer", "minimum": 0, "maximum": HIGHEST},
                        },
                    }
                ],
            ),
        },
        f"{ROOT}/{name}/{{id}}": {
            "parameters": [_param("id")],
            "get": _op(
                f"get_{one}", f"Read one {one}", {"200": _ok("The record.", title, etag=True), **_errors("404")}
            ),
            "patch": _op(
                f"update_{one}",
                f"Update one {one}",
                {
                    "200": _ok("The record.", title, etag=True),
                    **_errors("400", "404", "409", "412", "413", "415", "422", "423"),
                },
                [_param("if_match")],
                body={"required": True, "content": {_JSON: {"schema": ref(f"{title}Patch")}}},
            ),
            "delete": _op(
                f"delete_{one}",
                f"Delete one {one} ({resource.delete})",
                {**delete, **_errors("400", "404", "409", "412", "423")},
                [_param("if_match")],
            ),
        },
    }


def _other_paths() -> dict[str, Any]:
    submit = {
        "202": {
            **_ok("Queued, or queued before under this key.", "Batch"),
            "headers": {"Location": {"schema": {"type": "string"}}, "Retry-After": {"schema": {"type": "integer"}}},
        },
        **_errors("400", "409", "413", "415"),
    }
    key = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 128}}
    state = {"type": "string", "enum": ["queued", "processing", "done", "failed"]}
    few = {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    many = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}
    flag = {"type": "integer", "enum": [0, 1]}
    batch = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        f"{ROOT}/deletions": {
            "get": _op(
                "list_deletions",
                "List what was removed for good",
                {"200": _ok("One page, oldest first.", "DeletionPage"), **_errors("400")},
                [
                    {"name": "resource", "in": "query", "required": True, "schema": {"enum": list(RESOURCES)}},
                    {"name": "deleted_at_min", "in": "query", "schema": {"type": "string", "format": "date-time"}},
                    *(_param(n) for n in ("after_id", "limit", "cursor")),
                ],
            )
        },
        f"{ROOT}/batches": {
            "post": _op(
                "submit_batch",
                "Submit a batch",
                submit,
                [key],
                body={"required": True, "content": {_JSON: {"schema": ref("BatchSubmit")}}},
            ),
            "get": _op(
                "list_batches",
                "List batches, newest first",
                {"200": _ok("The newest ones.", "BatchList"), **_errors("400")},
                [_query("state", state), _query("limit", few)],
            ),
        },
        f"{ROOT}/batches/{{id}}": {
            "get": _op("get_batch", "Read a batch", {"200": _ok("The batch.", "Batch"), **_errors("404")}, [batch])
        },
        f"{ROOT}/batches/{{id}}/results": {
            "get": _op(
                "list_results",
                "List the results of a batch that has ended",
                {"200": _ok("One page, in the order sent.", "BatchResultPage"), **_errors("400", "404", "409", "410")},
                [batch, _query("limit", many), _query("failed", flag), _param("cursor")],
            )
        },
    }


def _token() -> dict[str, Any]:
    fields = {
        "grant_type": {"const": "client_credentials"},
        "client_id": {"type": "string"},
        "client_secret": {"type": "string"},
        "scope": {"type": "string", "description": "read and write, separated by a blank; both if left out"},
    }
    form = {"type": "object", "required": ["grant_type"], "properties": fields}
    refused = {"description": "Refused (RFC 6749).", "content": {_JSON: {"schema": ref("TokenError")}}}
    return {
        "operationId": "token",
        "summary": "Fetch a token by client credentials, in the form or by Basic",
        "security": [],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {"200": _ok("A token.", "Token"), "400": refused, "401": refused},
    }


def _op(
    operation_id: str,
    summary: str,
    responses: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    done: dict[str, Any] = {"operationId": operation_id, "summary": summary}
    if parameters:
        done["parameters"] = parameters
    if body is not None:
        done["requestBody"] = body
    done["responses"] = responses | _errors("401", "403", "429")
    return done


def _ok(description: str, schema: str, *, etag: bool = False) -> dict[str, Any]:
    done: dict[str, Any] = {"description": description, "content": {_JSON: {"schema": ref(schema)}}}
    if etag:
        done["headers"] = {"ETag": {"description": "The version in quotes.", "schema": {"type": "string"}}}
    return done


def _errors(*codes: str) -> dict[str, Any]:
    return {code: {"$ref": f"#/components/responses/E{code}"} for code in codes}


def _records(schema: str) -> dict[str, Any]:
    records = {"type": "array", "minItems": 1, "maxItems": MOST_AT_ONCE, "items": ref(schema)}
    envelope = {
        "type": "object",
        "required": ["records"],
        "additionalProperties": False,
        "properties": {"records": records},
    }
    return {"required": True, "content": {_JSON: {"schema": envelope}}}


def _param(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/parameters/{name}"}


def _query(name: str, schema: dict[str, Any], description: str | None = None) -> dict[str, Any]:
    done: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
    if description is not None:
        done["description"] = description
    return done


def _filter(resource: Resource, name: str) -> dict[str, Any]:
    field = resource.field(name)
    assert field is not None
    if field.kind == "flag":
        return _query(name, {"type": "integer", "enum": [0, 1]})
    if field.one_of:
        return _query(name, {"type": "string", "enum": list(field.one_of)})
    return _query(name, {"type": "string", "pattern": r"\S", "maxLength": LONGEST})


def _parameters() -> dict[str, Any]:
    moment = {"type": "string", "format": "date-time"}
    flag = {"type": "integer", "enum": [0, 1]}
    return {
        "id": {
            "name": "id",
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0, "maximum": HIGHEST},
        },
        "limit": _query("limit", {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL}),
        "cursor": _query("cursor", {"type": "string"}, "next_cursor of the page before, with the same filters."),
        "ids": _query(
            "ids",
            {"type": "string", "pattern": f"^{SEVERAL['ids']}$"},
            "Only these, at most 100; those that are not there are left out.",
        ),
        "external_refs": _query(
            "external_refs",
            {"type": "string", "pattern": f"^{SEVERAL['external_refs']}$"},
            "Only those with these, at most 100.",
        ),
        "updated_at_min": _query("updated_at_min", moment, "Inclusive."),
        "updated_at_max": _query("updated_at_max", moment, "Exclusive."),
        "after_id": _query(
            "after_id",
            {"type": "integer", "minimum": 0, "maximum": HIGHEST},
            "Of what has exactly the time of the lower bound, only greater ids. Needs that bound.",
        ),
        "exported": _query("exported", flag, "0 finds blank ones too."),
        "pull": _query(
            "pull", flag, "1: return what is not exported and set the flag in the same step. Needs the right to write."
        ),
        "if_match": {
            "name": "If-Match",
            "in": "header",
            "description": "The ETag as it came, or the bare version; 412 if the record has another version by now. * fits any.",
            "schema": {"type": "string", "pattern": r'^("[0-9]{1,15}"|[0-9]{1,15}|\*)$'},
        },
    }


def _responses() -> dict[str, Any]:
    texts = {
        "400": "The call is malformed: a parameter, a header, the JSON, the envelope.",
        "401": "No credential, or one that is wrong, expired or revoked.",
        "403": "The credential may not do this.",
        "404": "There is no such record.",
        "409": "It conflicts with what stands in the shop.",
        "410": "The results are no longer kept.",
        "412": "The record has another version.",
        "413": "Too many records, or too many bytes.",
        "415": "Only application/json is taken.",
        "422": "Values are wrong in themselves.",
        "423": "Somebody has the record open.",
        "429": "Too many calls, or too many batches waiting.",
    }
    done: dict[str, Any] = {}
    for code, text in texts.items():
        content = {"application/problem+json": {"schema": ref("Problem")}}
        done[f"E{code}"] = {"description": text, "content": content}
    wait = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
    done["E429"]["headers"] = {"Retry-After": {**wait, "required": True}}
    return done


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def written() -> str:
    """Return the document as YAML."""
    return yaml.dump(
        contract(), Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True, default_flow_style=None
    )


if __name__ == "__main__":
    sys.stdout.write(written())
