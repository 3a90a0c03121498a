"""Records one at a time: list, read, create, update, archive, merge, privacy deletion."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import Refused, invalid, not_found
from simulators.hubspot.gate import Gate, Visit
from simulators.hubspot.kinds import Kind, kind_named
from simulators.hubspot.paths import objects
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Record
from simulators.hubspot.shapes import Shape, associations_of, history_of, names_asked, properties_of, shape, written
from simulators.hubspot.writer import Writer

_MOST_MERGES = 250


class Objects:
    """Handlers of single records."""

    def __init__(self, portal: Portal, writer: Writer) -> None:
        self._portal = portal
        self._writer = writer

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths, in both families."""
        return [
            *objects("/{type}", gate(self.page, "read"), "GET"),
            *objects("/{type}", gate(self.create, "write"), "POST"),
            *objects("/{type}/merge", gate(self.merge, "write"), "POST"),
            *objects("/{type}/gdpr-delete", gate(self.erase, "write"), "POST"),
            *objects("/{type}/{id}", gate(self.read, "read"), "GET"),
            *objects("/{type}/{id}", gate(self.update, "write"), "PATCH"),
            *objects("/{type}/{id}", gate(self.archive, "write"), "DELETE"),
        ]

    def show(
        self, record: Record, asked: Sequence[str], histories: Sequence[str] = (), ends: Sequence[Kind] = ()
    ) -> Shape:
        """Return a record as a reading call shows it."""
        portal, kind = self._portal, record.kind
        known = portal.schema.of(kind)
        names = names_asked(kind, [*asked, *histories] if asked or histories else ())
        body = shape(record, properties_of(record.values, names, portal.options, known), portal.options)
        if histories:
            body["propertiesWithHistory"] = history_of(record, [n for n in histories if n in known])
        if ends and (found := associations_of(record, ends, portal.links)):
            body["associations"] = found
        return body

    def page(self, visit: Visit) -> Response:
        """Answer a page of records in order of their ids."""
        kind, query = visit.kind(), visit.request.query_params
        histories, archived = visit.listed("propertiesWithHistory"), visit.flag("archived")
        limit = page_size(query.get("limit"), 50 if histories else 100)
        table = self._portal.store.tables[kind.name]
        ids = table.archived if archived else table.live
        after = query.get("after")
        if after is not None and not after.isdecimal():
            raise invalid(f"The cursor {after} is not valid: use paging.next.after of the page before")
        start = 0 if after is None else bisect_right(ids, int(after))
        chosen = ids[start : start + limit]
        ends = ends_named(visit.listed("associations"))
        asked = visit.listed("properties")
        body: dict[str, Any] = {"results": [self.show(table.records[n], asked, histories, ends) for n in chosen]}
        if start + limit < len(ids):
            more = [(n, v) for n, v in query.multi_items() if n not in ("after", "hapikey")] + [
                ("after", str(chosen[-1]))
            ]
            link = f"{visit.request.url.replace(query='')}?{urlencode(more)}"
            body["paging"] = {"next": {"after": str(chosen[-1]), "link": link}}
        return answer(body)

    def read(self, visit: Visit) -> Response:
        """Answer one record."""
        query = visit.request.query_params
        record = self._writer.found(
            visit.kind(), visit.request.path_params["id"], query.get("idProperty"), archived=visit.flag("archived")
        )
        ends = ends_named(visit.listed("associations"))
        return answer(self.show(record, visit.listed("properties"), visit.listed("propertiesWithHistory"), ends))

    def create(self, visit: Visit) -> Response:
        """Make one record."""
        kind, sent = visit.kind(), visit.body()
        values = self._writer.checked(kind, sent.get("properties"), None)
        self._writer.claimed(kind, values, None)
        record = self._writer.create(kind, values, self._writer.links(kind, sent.get("associations")), visit.origin)
        self._portal.wrote("create", record, values, visit.grant)
        return answer(self._traced(written(record, record.values, self._portal.options), sent), 201)

    def update(self, visit: Visit) -> Response:
        """Change one record."""
        kind, sent = visit.kind(), visit.body()
        spelt = visit.request.path_params["id"]
        record = self._writer.found(kind, spelt, visit.request.query_params.get("idProperty"))
        values = self._writer.checked(kind, sent.get("properties"), record)
        self._writer.claimed(kind, values, record)
        changed = self._portal.store.update(record, values, visit.origin)
        self._portal.wrote("update", record, changed, visit.grant)
        return answer(self._traced(written(record, values, self._portal.options), sent))

    def archive(self, visit: Visit) -> Response:
        """Put one record into the bin; one that is not there is as good as archived."""
        record = self._writer.find(visit.kind(), visit.request.path_params["id"], None)
        if record is not None:
            self._portal.store.archive(record, visit.origin)
            self._portal.wrote("archive", record, None, visit.grant)
        return Response(status_code=204)

    def merge(self, visit: Visit) -> Response:
        """Make one record of two."""
        kind, sent, store = visit.kind(), visit.body(), self._portal.store
        if "primaryObjectId" not in sent or "objectIdToMerge" not in sent:
            raise invalid("Some required fields were not set: [primaryObjectId, objectIdToMerge]")
        primary = self._writer.found(kind, str(sent["primaryObjectId"]), None)
        other = self._writer.found(kind, str(sent["objectIdToMerge"]), None)
        if primary is other:
            raise invalid("An object cannot be merged with itself: the ids name the same record")
        if store.merges(primary) + store.merges(other) >= _MOST_MERGES:
            raise Refused(414, f"Cannot have more than {_MOST_MERGES} identities on a profile", "VALIDATION_ERROR")
        left = store.merge(primary, other, visit.origin, keep_id=self._portal.options.merge_keeps_id)
        self._portal.wrote("merge", left, {"merged": f"{primary.id};{other.id}"}, visit.grant)
        return answer(written(left, left.values, self._portal.options))

    def erase(self, visit: Visit) -> Response:
        """Destroy a record for good, by id or by e-mail address."""
        kind, sent = visit.kind(), visit.body()
        if not sent.get("objectId"):
            raise invalid("Some required fields were not set: [objectId]")
        by = sent.get("idProperty")
        record = self._writer.find(kind, str(sent["objectId"]), by)
        if record is None and by is None:
            raise not_found(str(sent["objectId"]))
        if record is not None:
            self._portal.store.archive(record, visit.origin, erase=True)
            self._portal.wrote("erase", record, None, visit.grant)
        return Response(status_code=204)

    def _traced(self, body: Shape, sent: dict[str, Any]) -> Shape:
        if trace := sent.get("objectWriteTraceId"):
            body["objectWriteTraceId"] = trace
        return body


def page_size(text: str | None, most: int, usual: int = 10) -> int:
    """Return how many results a page has. Raises Refused (400)."""
    if text is None:
        return usual
    try:
        limit = int(text)
    except ValueError:
        raise invalid(f"limit must be a number, not {text}") from None
    if not 0 < limit <= most:
        raise invalid(f"limit must be from 1 to {most}, not {limit}")
    return limit


def ends_named(names: Sequence[str]) -> list[Kind]:
    """Return the kinds whose associations are asked for. Raises Refused (400)."""
    found = []
    for name in names:
        kind = kind_named(name)
        if kind is None:
            raise invalid(f"Unable to infer object type from: {name}")
        found.append(kind)
    return found
