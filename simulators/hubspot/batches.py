"""Batches of records: read, create, update, upsert and archive; 207 when some of the inputs fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import Refused, invalid, not_found, some_not_found
from simulators.hubspot.gate import Gate, Visit, strings
from simulators.hubspot.moments import spelt
from simulators.hubspot.objects import Objects
from simulators.hubspot.paths import objects
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Record
from simulators.hubspot.shapes import Shape, written
from simulators.hubspot.writer import Claims, Writer

FAULTS = {
    "batch_partial": "the first `count` (1) inputs of a batch write fail with an internal error, the others go on (207)"
}
Do = Callable[[], Shape]
Input = dict[str, Any]


class Batches:
    """Handlers of batches."""

    def __init__(self, portal: Portal, writer: Writer, singles: Objects) -> None:
        self._portal = portal
        self._writer = writer
        self._singles = singles

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths, in both families."""
        return [
            *objects("/{type}/batch/read", gate(self.read, "read"), "POST"),
            *objects("/{type}/batch/create", gate(self.create, "write"), "POST"),
            *objects("/{type}/batch/update", gate(self.update, "write"), "POST"),
            *objects("/{type}/batch/upsert", gate(self.upsert, "write"), "POST"),
            *objects("/{type}/batch/archive", gate(self.archive, "write"), "POST"),
        ]

    def read(self, visit: Visit) -> Response:
        """Answer several records; what is not there is told in one error."""
        kind, inputs, sent = visit.kind(), visit.inputs(), visit.body()
        asked, histories = strings(sent, "properties"), strings(sent, "propertiesWithHistory")
        if histories and len(inputs) > 50:
            raise invalid("The maximum number of inputs supported in a batch request with history is 50")
        by, archived = sent.get("idProperty"), visit.flag("archived")
        found: dict[int, Record] = {}
        missing = []
        for one in inputs:
            number = _id(one)
            record = self._writer.find(kind, number, by, archived=archived)
            if record is None:
                missing.append(number)
            else:
                found[record.id] = record
        results = [self._singles.show(record, asked, histories) for record in found.values()]
        return self._answer(results, [some_not_found(kind.singular.upper(), missing)] if missing else [], len(missing))

    def create(self, visit: Visit) -> Response:
        """Make several records: all or none, unless every input has a trace id of its own."""
        kind, inputs = visit.kind(), visit.inputs()
        claims = Claims()

        def prepared(one: Input) -> Do:
            values = self._writer.checked(kind, one.get("properties"), None)
            self._writer.claimed(kind, values, None, claims)
            wanted = self._writer.links(kind, one.get("associations"))

            def do() -> Shape:
                record = self._writer.create(kind, values, wanted, visit.origin)
                self._portal.wrote("create", record, values, visit.grant)
                return written(record, record.values, self._portal.options)

            return do

        return self._carried_out(inputs, prepared, 201)

    def update(self, visit: Visit) -> Response:
        """Change several records; ids that are not there are told in an error, the others are changed."""
        kind, inputs, claims = visit.kind(), visit.inputs(), Claims()
        _distinct(inputs)

        def prepared(one: Input) -> Do:
            record = self._writer.found(kind, _id(one), one.get("idProperty"))
            values = self._writer.checked(kind, one.get("properties"), record)
            self._writer.claimed(kind, values, record, claims)

            def do() -> Shape:
                changed = self._portal.store.update(record, values, visit.origin)
                self._portal.wrote("update", record, changed, visit.grant)
                return written(record, values, self._portal.options)

            return do

        return self._carried_out(inputs, prepared, 200)

    def upsert(self, visit: Visit) -> Response:
        """Change or make several records, found by a unique property."""
        kind, inputs, claims = visit.kind(), visit.inputs(), Claims()
        _distinct(inputs)

        def prepared(one: Input) -> Do:
            by, number = one.get("idProperty"), _id(one)
            record = self._writer.find(kind, number, by)
            given = one.get("properties")
            if record is None:
                if by is None or by == "hs_object_id":
                    raise not_found(number)
                given = {by: number, **(given if isinstance(given, dict) else {})}
            values = self._writer.checked(kind, given, record)
            self._writer.claimed(kind, values, record, claims)

            def do() -> Shape:
                if record is None:
                    made, what, changed = self._writer.create(kind, values, [], visit.origin), "create", values
                else:
                    self._sparse(by, values, record)
                    made, what = record, "update"
                    changed = self._portal.store.update(record, values, visit.origin)
                self._portal.wrote(what, made, changed, visit.grant)
                return {**written(made, values, self._portal.options), "new": record is None}

            return do

        return self._carried_out(inputs, prepared, 200)

    def archive(self, visit: Visit) -> Response:
        """Put several records into the bin; those that are not there are as good as archived."""
        kind, inputs = visit.kind(), visit.inputs()
        for one in inputs:
            record = self._writer.find(kind, _id(one), None)
            if record is not None:
                self._portal.store.archive(record, visit.origin)
                self._portal.wrote("archive", record, None, visit.grant)
        return Response(status_code=204)

    def _carried_out(self, inputs: list[Input], prepared: Callable[[Input], Do], status: int) -> Response:
        """Check all inputs, then carry out those that are well; raises what is wrong unless it concerns one input alone."""
        traces = [one.get("objectWriteTraceId") for one in inputs]
        traced = all(traces) and len(set(map(str, traces))) == len(traces)
        fault = self._portal.faults.take("batch_partial")
        failing = 0 if fault is None else int(fault.more.get("count", 1))
        work: list[tuple[Input, Do]] = []
        errors: list[dict[str, Any]] = []
        for n, one in enumerate(inputs):
            trace = one.get("objectWriteTraceId")
            context = {"objectWriteTraceId": str(trace)} if trace else {}
            try:
                if n < failing:
                    raise Refused(500, "internal error", "INTERNAL_ERROR", context={"ids": [str(one.get("id", n))]})
                work.append((one, prepared(one)))
            except Refused as error:
                if error.status == 404:
                    ids = [str(one.get("id"))]
                    error = Refused(404, error.message, error.category, context={"ids": ids})
                elif not traced and error.status != 500:
                    raise
                errors.append(error.entry(**context))
        results = []
        for one, do in work:
            body = do()
            if trace := one.get("objectWriteTraceId"):
                body["objectWriteTraceId"] = trace
            results.append(body)
        return self._answer(results, errors, len(errors), status)

    def _sparse(self, by: str | None, values: dict[str, str], record: Record) -> None:
        """Count upserts by e-mail address that leave properties out: the vendor warns that it may not keep those."""
        if by != "email":
            return
        schema = self._portal.schema
        for name in record.values:
            definition = schema.living(record.kind, name)
            if definition is not None and not definition.read_only and name not in values and name != "email":
                self._portal.counts["sparse e-mail upsert"] += 1
                return

    def _answer(self, results: list[Shape], errors: list[dict[str, Any]], failed: int, status: int = 200) -> Response:
        now = spelt(self._portal.now_ms())
        body: dict[str, Any] = {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}
        if errors:
            body["numErrors"] = failed
            body["errors"] = errors
            status = 207
        return answer(body, status)


def _id(one: Input) -> str:
    if one.get("id") is None:
        raise invalid("Some required fields were not set: [id]")
    return str(one["id"])


def _distinct(inputs: list[Input]) -> None:
    """Refuse inputs that name one record twice."""
    seen: set[str] = set()
    for one in inputs:
        number = _id(one).strip().lower()
        if number in seen:
            raise invalid(f"Duplicate IDs found in batch input: [{number}]. IDs must be unique.")
        seen.add(number)
