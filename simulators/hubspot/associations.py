"""The associations API: one by one and in batches, by type ids (v4 and date versions) and by type names (v3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import Refused, invalid, not_found
from simulators.hubspot.gate import Gate, Need, Visit
from simulators.hubspot.kinds import Kind
from simulators.hubspot.links import TYPES, LinkType, plain_between, types_between
from simulators.hubspot.moments import spelt
from simulators.hubspot.objects import page_size
from simulators.hubspot.paths import DATED, paths
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Record
from simulators.hubspot.shapes import associations_of, written

_MOST_WRITTEN, _MOST_READ, _PAGE = 2000, 1000, 500
_NOTHING = "crm.associations.NO_ASSOCIATIONS_FOUND"


class Associations:
    """Handlers of associations."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths of both families."""
        read: Need = "read"
        write: Need = "write"
        found: list[Route] = []
        own = "/{type}/{id}/associations"
        for rest, handler, method in (
            (f"{own}/default/{{to_type}}/{{to_id}}", gate(self.put_default, write), "PUT"),
            (f"{own}/{{to_type}}/{{to_id}}", gate(self.put, write), "PUT"),
            (f"{own}/{{to_type}}/{{to_id}}", gate(self.remove, write), "DELETE"),
            (f"{own}/{{to_type}}", gate(self.of_one, read), "GET"),
        ):
            found += paths(handler, method, f"/crm/v4/objects{rest}", f"/crm/objects/{DATED}{rest}")
        for rest, handler, method in (
            ("/batch/read", gate(self.batch_read, read), "POST"),
            ("/batch/create", gate(self.batch_create, write), "POST"),
            ("/batch/archive", gate(self.batch_remove, write), "POST"),
            ("/batch/labels/archive", gate(self.batch_remove_types, write), "POST"),
            ("/batch/associate/default", gate(self.batch_default, write), "POST"),
            ("/labels", gate(self.labels, read), "GET"),
        ):
            pair = f"/{{from_type}}/{{to_type}}{rest}"
            found += paths(handler, method, f"/crm/v4/associations{pair}", f"/crm/associations/{DATED}{pair}")
        old = "/crm/v3/associations/{from_type}/{to_type}"
        return [
            *found,
            Route(f"{old}/batch/read", gate(self.old_batch_read, read), methods=["POST"]),
            Route(f"{old}/batch/create", gate(self.old_batch_create, write), methods=["POST"]),
            Route(f"{old}/batch/archive", gate(self.old_batch_remove, write), methods=["POST"]),
            Route(f"{old}/types", gate(self.types, read), methods=["GET"]),
            Route(f"/crm/v3/objects{own}/{{to_type}}", gate(self.old_of_one, read), methods=["GET"]),
            Route(f"/crm/v3/objects{own}/{{to_type}}/{{to_id}}/{{name}}", gate(self.old_put, write), methods=["PUT"]),
            Route(
                f"/crm/v3/objects{own}/{{to_type}}/{{to_id}}/{{name}}", gate(self.old_remove, write), methods=["DELETE"]
            ),
        ]

    # One record.

    def of_one(self, visit: Visit) -> Response:
        """Answer what one record is associated with."""
        end, query = visit.kind("to_type"), visit.request.query_params
        limit, after = page_size(query.get("limit"), _PAGE, _PAGE), query.get("after", "0")
        found = [
            f for f in self._portal.links.of(self._start(visit), end) if f[0] > (int(after) if after.isdecimal() else 0)
        ]
        body: dict[str, Any] = {"results": [_shown(number, types) for number, types in found[:limit]]}
        if len(found) > limit:
            body["paging"] = {"next": {"after": str(found[limit - 1][0])}}
        return answer(body)

    def put(self, visit: Visit) -> Response:
        """Associate two records by types."""
        start, end = self._ends(visit)
        given = visit.any_body()
        if not isinstance(given, list):
            raise invalid("Invalid input JSON on line 1, column 1: an array of association types is expected")
        for link in _types(given, start.kind, end.kind):
            self._portal.links.add(link, start, end, visit.origin)
        return answer(self._labelled(start, end), 201)

    def put_default(self, visit: Visit) -> Response:
        """Associate two records without a label."""
        start, end = self._ends(visit)
        self._portal.links.add(_plain(start.kind, end.kind), start, end, visit.origin)
        return answer(self._batch(self._both_ways(start, end)))

    def remove(self, visit: Visit) -> Response:
        """Take all associations between two records away."""
        start, end = self._ends(visit)
        self._portal.links.remove(start, end, visit.origin)
        return Response(status_code=204)

    def old_of_one(self, visit: Visit) -> Response:
        """Answer what one record is associated with, by type names."""
        found = self._portal.links.of(self._start(visit), visit.kind("to_type"))
        return answer({"results": [{"id": str(number), "type": t.name} for number, types in found for t in types]})

    def old_put(self, visit: Visit) -> Response:
        """Associate two records by the name or the id of a type."""
        start, end = self._ends(visit)
        self._portal.links.add(
            _named(visit.request.path_params["name"], start.kind, end.kind), start, end, visit.origin
        )
        return answer(self._portal_shape(start, end))

    def old_remove(self, visit: Visit) -> Response:
        """Take one association away by the name or the id of its type."""
        start, end = self._ends(visit)
        link = _named(visit.request.path_params["name"], start.kind, end.kind)
        self._portal.links.remove(start, end, visit.origin, {link.id})
        return Response(status_code=204)

    # Batches by type ids.

    def batch_read(self, visit: Visit) -> Response:
        """Answer what several records are associated with."""
        return self._read(visit, _shown_flat)

    def batch_create(self, visit: Visit) -> Response:
        """Associate several pairs of records."""
        start, end = visit.kind("from_type"), visit.kind("to_type")
        done, errors = [], []
        for one in visit.inputs(_MOST_WRITTEN):
            try:
                pair = self._pair(one, start, end)
                for link in _types(one.get("types"), start, end):
                    self._portal.links.add(link, *pair, visit.origin)
                done.append(self._labelled(*pair))
            except Refused as error:
                errors.append(error.entry())
        return answer(self._batch(done, errors), 207 if errors else 201)

    def batch_default(self, visit: Visit) -> Response:
        """Associate several pairs of records without a label."""
        start, end = visit.kind("from_type"), visit.kind("to_type")
        plain = _plain(start, end)
        done, errors = [], []
        for one in visit.inputs(_MOST_WRITTEN):
            try:
                pair = self._pair(one, start, end)
                self._portal.links.add(plain, *pair, visit.origin)
                done += self._both_ways(*pair)
            except Refused as error:
                errors.append(error.entry())
        return answer(self._batch(done, errors), 207 if errors else 200)

    def batch_remove(self, visit: Visit) -> Response:
        """Take all associations between several pairs away."""
        start, end = visit.kind("from_type"), visit.kind("to_type")
        for one in visit.inputs(_MOST_WRITTEN):
            tos = one.get("to") or []
            for to in tos if isinstance(tos, list) else [tos]:
                first, second = self._find(start, one.get("from")), self._find(end, to)
                if first is not None and second is not None:
                    self._portal.links.remove(first, second, visit.origin)
        return Response(status_code=204)

    def batch_remove_types(self, visit: Visit) -> Response:
        """Take some types of association between several pairs away."""
        start, end = visit.kind("from_type"), visit.kind("to_type")
        for one in visit.inputs(_MOST_WRITTEN):
            first, second = self._find(start, one.get("from")), self._find(end, one.get("to"))
            if first is not None and second is not None:
                only = {link.id for link in _types(one.get("types"), start, end)}
                self._portal.links.remove(first, second, visit.origin, only)
        return Response(status_code=204)

    def labels(self, visit: Visit) -> Response:
        """Answer the types that lead from one kind to another."""
        return answer(
            {"results": [_type_shown(t) for t in types_between(visit.kind("from_type"), visit.kind("to_type"))]}
        )

    # Batches by type names.

    def old_batch_read(self, visit: Visit) -> Response:
        """Answer what several records are associated with, by type names."""
        return self._read(visit, _named_flat)

    def old_batch_create(self, visit: Visit) -> Response:
        """Associate several pairs of records by type names."""
        start, end = visit.kind("from_type"), visit.kind("to_type")
        done = []
        for one in visit.inputs():
            link = _named(str(one.get("type")), start, end)
            self._portal.links.add(link, *self._pair(one, start, end), visit.origin)
            done.append({"from": one["from"], "to": one["to"], "type": link.name})
        return answer(self._batch(done), 201)

    def old_batch_remove(self, visit: Visit) -> Response:
        """Take several associations away by type names."""
        start, end = visit.kind("from_type"), visit.kind("to_type")
        for one in visit.inputs():
            first, second = self._find(start, one.get("from")), self._find(end, one.get("to"))
            if first is not None and second is not None:
                self._portal.links.remove(first, second, visit.origin, {_named(str(one.get("type")), start, end).id})
        return Response(status_code=204)

    def types(self, visit: Visit) -> Response:
        """Answer the types that lead from one kind to another, by name."""
        found = types_between(visit.kind("from_type"), visit.kind("to_type"))
        return answer({"results": [{"id": str(t.id), "name": t.name} for t in found]})

    # What they share.

    def _read(self, visit: Visit, shown: Any) -> Response:
        start, end = visit.kind("from_type"), visit.kind("to_type")
        done, missing = [], []
        for one in visit.inputs(_MOST_READ):
            record = self._find(start, one)
            found = [] if record is None else self._portal.links.of(record, end)
            after = str(one.get("after") or "0")
            found = [f for f in found if f[0] > (int(after) if after.isdecimal() else 0)]
            if not found:
                missing.append(str(one.get("id")))
                continue
            entry: dict[str, Any] = {"from": {"id": str(one["id"])}, "to": shown(found[:_PAGE])}
            if len(found) > _PAGE:
                entry["paging"] = {"next": {"after": str(found[_PAGE - 1][0])}}
            done.append(entry)
        errors = [self._nothing(start, end, number) for number in missing]
        return answer(self._batch(done, errors), 207 if errors else 200)

    def _nothing(self, start: Kind, end: Kind, number: str) -> dict[str, Any]:
        text = f"No {end.singular} is associated with {start.singular} {number}."
        context = {"fromObjectId": [number], "fromObjectType": [start.singular], "toObjectType": [end.singular]}
        return Refused(404, text, "OBJECT_NOT_FOUND", subCategory=_NOTHING, context=context).entry()

    def _start(self, visit: Visit) -> Record:
        number = visit.request.path_params["id"]
        record = self._portal.store.tables[visit.kind().name].find(number)
        if record is None:
            raise not_found(number)
        return record

    def _ends(self, visit: Visit) -> tuple[Record, Record]:
        number = visit.request.path_params["to_id"]
        end = self._portal.store.tables[visit.kind("to_type").name].find(number)
        if end is None:
            raise not_found(number)
        return self._start(visit), end

    def _find(self, kind: Kind, named: Any) -> Record | None:
        if not isinstance(named, dict) or "id" not in named:
            raise invalid('Some required fields were not set: an id is {"id": "…"}')
        return self._portal.store.tables[kind.name].find(str(named["id"]))

    def _pair(self, one: dict[str, Any], start: Kind, end: Kind) -> tuple[Record, Record]:
        first, second = self._find(start, one.get("from")), self._find(end, one.get("to"))
        if first is None or second is None:
            kind, gone = (start, one["from"]) if first is None else (end, one["to"])
            number = str(gone["id"])
            raise invalid(f"No {kind.singular} with ID {number} exists", context={"id": [number]})
        return first, second

    def _labelled(self, start: Record, end: Record) -> dict[str, Any]:
        found = dict(self._portal.links.of(start, end.kind)).get(end.id, [])
        return {
            "fromObjectTypeId": start.kind.type_id,
            "fromObjectId": str(start.id),
            "toObjectTypeId": end.kind.type_id,
            "toObjectId": str(end.id),
            "labels": [t.label for t in found if t.label is not None],
        }

    def _both_ways(self, start: Record, end: Record) -> list[dict[str, Any]]:
        return [
            {
                "from": {"id": str(a.id)},
                "to": {"id": str(b.id)},
                "associationSpec": {
                    "associationCategory": "HUBSPOT_DEFINED",
                    "associationTypeId": _plain(a.kind, b.kind).id,
                },
            }
            for a, b in ((start, end), (end, start))
        ]

    def _portal_shape(self, start: Record, end: Record) -> dict[str, Any]:
        body = written(start, (), self._portal.options)
        return {**body, "associations": associations_of(start, [end.kind], self._portal.links)}

    def _batch(self, done: list[dict[str, Any]], errors: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
        now, told = spelt(self._portal.now_ms()), list(errors)
        body: dict[str, Any] = {"status": "COMPLETE", "results": done, "startedAt": now, "completedAt": now}
        return {**body, "numErrors": len(told), "errors": told} if told else body


def _type_shown(link: LinkType) -> dict[str, Any]:
    return {"category": "HUBSPOT_DEFINED", "typeId": link.id, "label": link.label}


def _shown(number: int, types: list[LinkType]) -> dict[str, Any]:
    return {"toObjectId": str(number), "associationTypes": [_type_shown(t) for t in types]}


def _shown_flat(found: list[tuple[int, list[LinkType]]]) -> list[dict[str, Any]]:
    return [_shown(number, types) for number, types in found]


def _named_flat(found: list[tuple[int, list[LinkType]]]) -> list[dict[str, Any]]:
    return [{"id": str(number), "type": t.name} for number, types in found for t in types]


def _plain(start: Kind, end: Kind) -> LinkType:
    link = plain_between(start, end)
    if link is None:
        raise invalid(f"{start.name} and {end.name} cannot be associated")
    return link


def _types(given: Any, start: Kind, end: Kind) -> list[LinkType]:
    try:
        numbers = [int(one["associationTypeId"]) for one in given]
    except (TypeError, KeyError, ValueError):
        raise invalid("Some required fields were not set: [associationCategory, associationTypeId]") from None
    found = []
    for number in numbers:
        link = TYPES.get(number)
        if link is None or (link.start, link.end) != (start.name, end.name):
            raise invalid(f"Association type {number} does not lead from {start.singular} to {end.singular}")
        found.append(link)
    return found


def _named(name: str, start: Kind, end: Kind) -> LinkType:
    for link in types_between(start, end):
        if name.lower() in (link.name, str(link.id)):
            return link
    raise invalid(f"{name} is not a type of association from {start.singular} to {end.singular}")
