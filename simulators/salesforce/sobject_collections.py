"""sObject Collections: up to 200 records in one call, each with a result of its own, and reading up to 2,000."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulators.salesforce.asking import Ask, Reply, names
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal
from simulators.salesforce.ids import normal
from simulators.salesforce.records import key_field, upserted, wanted
from simulators.salesforce.selection import whole
from simulators.salesforce.tables import Table
from simulators.salesforce.unit import Unit

MOST = 200
_MOST_READ = 2000
_MOST_CHUNKS = 10

Result = dict[str, Any]


class Collections:
    """The handlers under ``composite/sobjects``."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._org = context.org
        add = context.router.add
        add("composite/sobjects", POST=self._create, PATCH=self._update, DELETE=self._delete)
        add("composite/sobjects/*", GET=self._read, POST=self._read)
        add("composite/sobjects/*/*", PATCH=self._upsert)

    def _create(self, ask: Ask) -> Reply:
        body, records = _records(ask)

        def one(unit: Unit, record: dict[str, Any]) -> Result:
            return _done(unit.create(self._typed(record), record))

        return self._each(ask, records, one, bool(body.get("allOrNone", False)))

    def _update(self, ask: Ask) -> Reply:
        body, records = _records(ask)

        def one(unit: Unit, record: dict[str, Any]) -> Result:
            table, id_ = self._typed(record), _id_of(record)
            if id_ is None:
                raise Refusal("MISSING_ARGUMENT", "Id not specified in an update call", fields=["Id"])
            _existing(unit, table, id_)
            unit.update(table, id_, record)
            return _done(normal(id_) or id_)

        return self._each(ask, records, one, bool(body.get("allOrNone", False)))

    def _delete(self, ask: Ask) -> Reply:
        ids = names(ask.query.get("ids", ""))
        if not ids:
            raise Refusal("MISSING_ARGUMENT", "The ids parameter is required")
        _bounded(ids)

        def one(unit: Unit, record: dict[str, Any]) -> Result:
            id_ = record["id"]
            table = self._org.prefixes.get(id_[:3])
            if table is None:
                raise Refusal("MALFORMED_ID", f"malformed id {id_}", fields=[])
            _existing(unit, table, id_)
            unit.delete(table, id_)
            return _done(normal(id_) or id_)

        return self._each(ask, [{"id": i} for i in ids], one, ask.flag("allOrNone"))

    def _upsert(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[2])
        field = key_field(table, ask.parts[3])
        body, records = _records(ask)

        def one(unit: Unit, record: dict[str, Any]) -> Result:
            id_, created = upserted(unit, table, field, record)
            return {**_done(id_), "created": created}

        return self._each(ask, records, one, bool(body.get("allOrNone", False)))

    def _each(
        self, ask: Ask, records: list[dict[str, Any]], one: Callable[[Unit, dict[str, Any]], Result], all_or_none: bool
    ) -> Reply:
        """Do something with each record in one transaction; what fails is taken back alone, or takes back everything."""
        unit = ask.unit if ask.unit is not None else Unit(self._org, ask.actor())
        begun, results, failed = unit.savepoint(), list[Result](), False
        for record in records:
            mark = unit.savepoint()
            try:
                fault = self._org.faults.take("partial", ask.method, ask.path)
                if fault is not None:
                    raise Refusal(
                        str(fault.more.get("code", "FIELD_CUSTOM_VALIDATION_EXCEPTION")),
                        str(fault.more.get("message", "a validation rule of the simulator says no")),
                        fields=[],
                    )
                results.append(one(unit, record))
            except Refusal as refusal:
                unit.rollback(mark)
                failed = True
                results.append({"success": False, "errors": [refusal.item()]})
        if failed and all_or_none:
            unit.rollback(begun)
            rolled = {
                "statusCode": "ALL_OR_NONE_OPERATION_ROLLED_BACK",
                "message": "Record rolled back because not all records were valid and the request was using AllOrNone header",
                "fields": [],
            }
            results = [r if not r["success"] else {"success": False, "errors": [rolled]} for r in results]
        if ask.unit is None:
            unit.commit()
        return Reply(data=results)

    def _read(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[2])
        given = ask.object() if ask.method == "POST" else ask.query
        ids, fields = names(given.get("ids", "")), names(given.get("fields", ""))
        if not ids or not fields:
            raise Refusal("MISSING_ARGUMENT", f"The {'fields' if ids else 'ids'} parameter is required")
        if len(ids) > _MOST_READ or (ask.method == "GET" and len(ids) > 800):
            raise Refusal(
                "EXCEEDED_ID_LIMIT",
                f"record limit reached. cannot submit more than {_MOST_READ} records into this call",
            )
        chosen, out = wanted(table, ",".join(fields)), list[Any]()
        for text in ids:
            known = normal(text)
            if known is None:
                raise Refusal("MALFORMED_ID", f"malformed id {text}")
            row = table.seen(known)
            out.append(whole(table, row, ask.version, chosen) if row is not None and not row["IsDeleted"] else None)
        return Reply(data=out)

    def _typed(self, record: dict[str, Any]) -> Table:
        attributes = record.get("attributes")
        name = attributes.get("type") if isinstance(attributes, dict) else None
        if not name:
            raise Refusal("INVALID_TYPE", "The type attribute is required: attributes.type is missing", fields=[])
        return self._org.typed(str(name))


def _records(ask: Ask) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    body = ask.object()
    records = body.get("records")
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise Refusal("JSON_PARSER_ERROR", "The records of the request must be an array of objects")
    _bounded(records)
    chunks, last = 0, None
    for record in records:
        attributes = record.get("attributes")
        type_ = attributes.get("type") if isinstance(attributes, dict) else None
        chunks, last = chunks + (type_ != last), type_
    if chunks > _MOST_CHUNKS:
        raise Refusal(
            "INVALID_INPUT",
            f"Cannot have more than {_MOST_CHUNKS} chunks in a single operation; sort the records by type",
        )
    return body, records


def _bounded(records: list[Any]) -> None:
    if len(records) > MOST:
        raise Refusal(
            "EXCEEDED_ID_LIMIT",
            f"record limit reached. cannot submit more than {MOST} records into this call",
            fields=[],
        )


def _id_of(record: dict[str, Any]) -> str | None:
    id_ = next((v for k, v in record.items() if k.lower() == "id"), None)
    return id_ if isinstance(id_, str) and id_ else None


def _existing(unit: Unit, table: Table, id_: str) -> None:
    """Refuse a record that is not there as collections word it."""
    try:
        unit.existing(table, id_)
    except Refusal as refusal:
        if refusal.code == "NOT_FOUND":
            raise Refusal("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", fields=[]) from None
        raise


def _done(id_: str) -> Result:
    return {"id": id_, "success": True, "errors": []}
