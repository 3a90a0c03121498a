"""Several calls in one: composite with references, graphs of them, batches, and trees of records."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from simulators.salesforce.asking import Ask, Reply, parameters, split
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal
from simulators.salesforce.unit import Unit

_REFERENCE = re.compile(r"@\{([^}]+)\}")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MOST, _MOST_HEAVY, _MOST_GRAPH, _MOST_TREE = 25, 5, 500, 200
_PATH = re.compile(r"/services/data/v(\d\d)\.0/(.+)\Z")


class Composite:
    """The handlers under ``composite`` that are not collections."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._org = context.org
        add = context.router.add
        add("composite", GET=self._index, POST=self._composite)
        add("composite/batch", POST=self._batch)
        add("composite/graph", POST=self._graph)
        add("composite/tree/*", POST=self._tree)

    def _index(self, ask: Ask) -> Reply:
        base = f"/services/data/v{ask.version}/composite"
        return Reply(data={name: f"{base}/{name}" for name in ("tree", "batch", "sobjects", "graph")})

    # Composite.

    async def _composite(self, ask: Ask) -> Reply:
        body = ask.object()
        calls = _calls(body, "compositeRequest")
        if len(calls) > _MOST:
            raise Refusal("BAD_REQUEST", f"Limit of {_MOST} subrequests exceeded: {len(calls)} were given")
        heavy = sum(_heavy(str(c.get("url", ""))) for c in calls)
        if heavy > _MOST_HEAVY:
            raise Refusal(
                "BAD_REQUEST", f"Limit of {_MOST_HEAVY} query and collections subrequests exceeded: {heavy} were given"
            )
        results, _ = await self._sequence(ask, calls, bool(body.get("allOrNone", False)))
        return Reply(data={"compositeResponse": results})

    async def _graph(self, ask: Ask) -> Reply:
        graphs = ask.object().get("graphs")
        if not isinstance(graphs, list):
            raise Refusal("JSON_PARSER_ERROR", "The graphs of the request must be an array of objects")
        out = []
        for graph in graphs:
            calls = _calls(graph, "compositeRequest")
            if len(calls) > _MOST_GRAPH:
                raise Refusal(
                    "BAD_REQUEST", f"Limit of {_MOST_GRAPH} nodes of a graph exceeded: {len(calls)} were given"
                )
            results, done = await self._sequence(ask, calls, True)
            out.append(
                {"graphId": graph.get("graphId"), "graphResponse": {"compositeResponse": results}, "isSuccessful": done}
            )
        return Reply(data={"graphs": out})

    async def _sequence(
        self, ask: Ask, calls: list[dict[str, Any]], all_or_none: bool
    ) -> tuple[list[dict[str, Any]], bool]:
        """Carry out calls one after the other, what one answers being known to the next."""
        unit = Unit(self._org, ask.actor()) if all_or_none else None
        known: dict[str, Any] = {}
        failed: set[str] = set()
        replies: list[tuple[str, Reply]] = []
        for call in calls:
            name = str(call.get("referenceId", ""))
            if not re.fullmatch(r"\w+", name) or name in known or name in failed:
                raise Refusal(
                    "BAD_REQUEST",
                    f"Provided referenceId ('{name}') must be unique and consist of letters, digits and underscores",
                )
            reply = await self._one(ask, call, known, failed, unit)
            replies.append((name, reply))
            if reply.status >= 400:
                failed.add(name)
                if all_or_none:
                    break
            else:
                known[name] = reply.data
        done = not failed
        if unit is not None:
            if failed:
                unit.rollback()
                replies = self._halted(calls, replies)
            else:
                unit.commit()
        return [
            {"body": r.data, "httpHeaders": r.headers, "httpStatusCode": r.status, "referenceId": n} for n, r in replies
        ], done

    async def _one(
        self, ask: Ask, call: dict[str, Any], known: dict[str, Any], failed: set[str], unit: Unit | None
    ) -> Reply:
        try:
            url, body = _resolved(call.get("url", ""), known, failed), _resolved(call.get("body"), known, failed)
            inner = _inner(ask, str(call.get("method", "GET")), str(url), body, call.get("httpHeaders"))
        except Refusal as refusal:
            return Reply(refusal.status, refusal.body())
        inner.unit = unit
        return await self._context.run(inner)

    def _halted(self, calls: list[dict[str, Any]], replies: list[tuple[str, Reply]]) -> list[tuple[str, Reply]]:
        halted = Refusal(
            "PROCESSING_HALTED",
            "The transaction was rolled back since another operation in the same transaction failed.",
        )
        by_name = dict(replies)
        out = []
        for call in calls:
            name = str(call.get("referenceId", ""))
            reply = by_name.get(name)
            out.append((name, reply if reply is not None and reply.status >= 400 else Reply(400, halted.body())))
        return out

    # Batch.

    async def _batch(self, ask: Ask) -> Reply:
        body = ask.object()
        calls = _calls(body, "batchRequests")
        if len(calls) > _MOST:
            raise Refusal("BAD_REQUEST", f"Limit of {_MOST} subrequests exceeded: {len(calls)} were given")
        results, halted = list[dict[str, Any]](), False
        for call in calls:
            if halted:
                stop = Refusal("BATCH_PROCESSING_HALTED", "Batch processing halted per request", 412)
                results.append({"statusCode": 412, "result": stop.body()})
                continue
            url = str(call.get("url", ""))
            url = url if url.startswith("/services/") else f"/services/data/{url.lstrip('/')}"
            try:
                inner = _inner(ask, str(call.get("method", "GET")), url, call.get("richInput"), None)
                reply = await self._context.run(inner)
            except Refusal as refusal:
                reply = Reply(refusal.status, refusal.body())
            results.append({"statusCode": reply.status, "result": reply.data})
            halted = reply.status >= 400 and bool(body.get("haltOnError", False))
        return Reply(data={"hasErrors": any(r["statusCode"] >= 400 for r in results), "results": results})

    # Tree.

    def _tree(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[2])
        records = _calls(ask.object(), "records")
        unit = ask.unit if ask.unit is not None else Unit(self._org, ask.actor())
        begun, results, errors = unit.savepoint(), list[dict[str, Any]](), list[dict[str, Any]]()
        count = _count(records)
        if count > _MOST_TREE:
            raise Refusal(
                "INVALID_INPUT", f"Cannot create more than {_MOST_TREE} records in a tree: {count} were given"
            )

        def plant(of: Any, record: dict[str, Any], parent: dict[str, Any]) -> None:
            attributes = record.get("attributes") or {}
            reference = attributes.get("referenceId")
            nested = {
                k: v["records"] for k, v in record.items() if isinstance(v, dict) and isinstance(v.get("records"), list)
            }
            plain = {k: v for k, v in record.items() if k not in nested}
            try:
                id_ = unit.create(of, {**plain, **parent})
            except Refusal as refusal:
                errors.append({"referenceId": reference, "errors": [refusal.item()]})
                return
            results.append({"referenceId": reference, "id": id_})
            for name, children in nested.items():
                for child in children:
                    type_ = str((child.get("attributes") or {}).get("type", ""))
                    inner = self._org.typed(type_)
                    field = next(
                        (f for f in inner.kind.fields.values() if (f.children or "").lower() == name.lower()), None
                    )
                    if field is None:
                        raise Refusal("INVALID_FIELD", f"No such relationship '{name}' on {of.kind.name}")
                    plant(inner, child, {field.name: id_})

        try:
            for record in records:
                plant(table, record, {})
        except Refusal:
            unit.rollback(begun)
            raise
        if errors:
            unit.rollback(begun)
            return Reply(400, {"hasErrors": True, "results": errors})
        if ask.unit is None:
            unit.commit()
        return Reply(201, {"hasErrors": False, "results": results})


def _calls(body: Any, name: str) -> list[dict[str, Any]]:
    calls = body.get(name) if isinstance(body, dict) else None
    if not isinstance(calls, list) or not all(isinstance(c, dict) for c in calls):
        raise Refusal("JSON_PARSER_ERROR", f"The {name} of the request must be an array of objects")
    return calls


def _count(records: list[Any]) -> int:
    count = 0
    for record in records:
        count += 1
        if isinstance(record, dict):
            count += sum(
                _count(v["records"])
                for v in record.values()
                if isinstance(v, dict) and isinstance(v.get("records"), list)
            )
    return count


def _heavy(url: str) -> bool:
    path = urlsplit(url).path
    return bool(re.search(r"/v\d\d\.0/(query|queryAll|composite/sobjects)(/|\Z)", path))


def _inner(ask: Ask, method: str, url: str, body: Any, headers: Any) -> Ask:
    """Return the call inside another one. Raises Refusal if its URL is none of the API's."""
    parsed = urlsplit(url)
    match = _PATH.match(parsed.path)
    if match is None:
        raise Refusal("NOT_FOUND", "The requested resource does not exist", 404)
    own = {str(k).lower(): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}
    parts = split(match[2])
    if (parts[:1] == ("composite",) and len(parts) > 1 and parts[1] in {"batch", "graph"}) or parts == ("composite",):
        raise Refusal("BAD_REQUEST", "a composite request cannot hold another one")
    return replace(
        ask,
        method=method.upper(),
        version=f"{match[1]}.0",
        parts=parts,
        query=parameters(parsed.query),
        headers={**ask.headers, **own},
        raw=b"",
        body=body,
        unit=None,
    )


def _resolved(value: Any, known: dict[str, Any], failed: set[str]) -> Any:
    """Return a value with its references to earlier answers filled in. Raises Refusal (PROCESSING_HALTED)."""
    if isinstance(value, dict):
        return {k: _resolved(v, known, failed) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, known, failed) for v in value]
    if not isinstance(value, str) or "@{" not in value:
        return value
    alone = _REFERENCE.fullmatch(value)
    if alone is not None:
        return _looked_up(alone[1], known, failed)
    return _REFERENCE.sub(lambda m: str(_looked_up(m[1], known, failed)), value)


def _looked_up(path: str, known: dict[str, Any], failed: set[str]) -> Any:
    steps = [(m[1], m[2]) for m in _STEP.finditer(path)]
    name = steps[0][0] if steps else ""
    if name in failed:
        raise Refusal("PROCESSING_HALTED", f"Invalid reference specified. No value for {path} found in {name}")
    if name not in known:
        raise Refusal("PROCESSING_HALTED", f"Invalid reference specified. No value for {path} found in {name}")
    value = known[name]
    for word, index in steps[1:]:
        try:
            value = value[int(index)] if index else value[word]
        except (KeyError, IndexError, TypeError):
            raise Refusal(
                "PROCESSING_HALTED",
                f"Invalid reference specified. No value for {path} found in {name}. Provided referenceId ('{name}') may not be "
                "correct.",
            ) from None
    return value
