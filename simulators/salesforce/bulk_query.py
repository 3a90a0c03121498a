"""Bulk queries: carried out beside the requests, answered page by page as CSV."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from simulators.salesforce import bulk_csv
from simulators.salesforce.asking import Ask, Reply
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal
from simulators.salesforce.jobs import Job, Jobs, as_csv, shown
from simulators.salesforce.schema import Kind
from simulators.salesforce.selection import check, select
from simulators.salesforce.soql import Call, Group, Path, Query, parse

MOST_QUERIES = 10_000
_PAGE = 50_000


class BulkQuery:
    """The handlers under ``jobs/query``."""

    def __init__(self, context: Context, jobs: Jobs) -> None:
        self._context = context
        self._org = context.org
        self._jobs = jobs
        add = context.router.add
        add("jobs/query", GET=jobs.list_, POST=self._create)
        add("jobs/query/*", GET=jobs.get, PATCH=self._abort, DELETE=jobs.delete)
        add("jobs/query/*/results", GET=self._answers)

    def _create(self, ask: Ask) -> Reply:
        body = ask.object()
        operation, text = body.get("operation"), str(body.get("query") or "")
        if operation not in {"query", "queryAll"}:
            raise Refusal("INVALIDJOB", f"InvalidJob : Unsupported operation: {operation}")
        if self._jobs.used()[1] >= MOST_QUERIES:
            raise Refusal("API_ERROR", "ExceededQuota : too many query jobs within 24 hours", 403)
        try:
            query = parse(text)
        except Refusal as refusal:
            raise Refusal("API_ERROR", f"{refusal.code}: {refusal.message}") from None
        table = self._org.find(query.source)
        if table is None:
            raise Refusal("INVALIDENTITY", f"{query.source} is not supported by the Bulk API")
        _bulkable(query, table.kind)
        check(self._org, text, ask.version)
        job = self._jobs.new(ask, "query", body, str(operation), table.kind.name)
        job.query, job.state = text, "UploadComplete"
        self._context.running(self._answer(job))
        return Reply(200, shown(job))

    def _abort(self, ask: Ask) -> Reply:
        job, state = self._jobs.find(ask), ask.object().get("state")
        if state != "Aborted" or job.state not in {"UploadComplete", "InProgress"}:
            raise Refusal("INVALIDJOBSTATE", f"InvalidJobState : Invalid job state transition: {job.state} to {state}")
        self._jobs.to(job, "Aborted")
        return Reply(data=shown(job))

    async def _answer(self, job: Job) -> None:
        clock, delay_s = self._org.clock, self._context.options.bulk_delay_s
        await clock.until(clock.now() + delay_s)
        if job.state != "UploadComplete":
            return
        self._jobs.to(job, "InProgress")
        begun = clock.now()
        try:
            found = select(self._org, job.query, job.version, deleted=job.operation == "queryAll")
        except Refusal as refusal:
            job.error = f"{refusal.code}: {refusal.message}"
            self._jobs.to(job, "Failed")
            return
        await clock.until(clock.now() + delay_s)
        if job.state != "InProgress":
            return
        job.found, job.processed, job.took_ms = found, len(found.rows), int((clock.now() - begun) * 1000)
        self._jobs.to(job, "JobComplete")

    def _answers(self, ask: Ask) -> Reply:
        job = self._jobs.find(ask)
        if job.found is None:
            raise Refusal(
                "INVALIDJOBSTATE",
                f"InvalidJobState : the results of a job are there when it is done; it is {job.state}",
            )
        start = _located(ask.query.get("locator", ""))
        most = ask.query.get("maxRecords", "")
        count = int(most) if most.isdigit() and int(most) > 0 else _PAGE
        rows = job.found.rows[start : start + count]
        end = start + len(rows)
        lines = [_line(job.found.show(row), job.found.columns) for row in rows]
        reply = as_csv(job, [".".join(c) for c in job.found.columns], lines)
        more = end < len(job.found.rows)
        reply.headers["Sforce-Locator"] = (
            base64.urlsafe_b64encode(str(end).encode()).decode().rstrip("=") if more else "null"
        )
        reply.headers["Sforce-NumberOfRecords"] = str(len(rows))
        return reply


def _located(locator: str) -> int:
    if not locator or locator == "null":
        return 0
    try:
        return int(base64.urlsafe_b64decode(locator + "=" * (-len(locator) % 4)))
    except ValueError:
        raise Refusal("INVALID_QUERY_LOCATOR", f"invalid query locator: {locator}") from None


def _line(shown: dict[str, Any], columns: Sequence[tuple[str, ...]]) -> list[str]:
    out = []
    for names in columns:
        value: Any = shown
        for name in names:
            if value is None:
                break
            value = (
                value[name] if name in value else next((v for k, v in value.items() if k.lower() == name.lower()), None)
            )
        out.append(bulk_csv.cell(value))
    return out


def _bulkable(query: Query, kind: Kind) -> None:
    """Refuse what bulk queries cannot do."""
    if query.aggregated or any(isinstance(f, Call) and f.name == "count" for f in query.fields):
        raise Refusal("API_ERROR", "FeatureNotEnabled : Aggregate Relationships not supported in Bulk Query")
    if any(isinstance(f, Query) for f in query.fields):
        raise Refusal("API_ERROR", "FeatureNotEnabled : Child relationships are not supported in Bulk Query")
    if query.offset:
        raise Refusal("API_ERROR", "FeatureNotEnabled : OFFSET is not supported in Bulk Query")
    if any(isinstance(f, Group) for f in query.fields):
        raise Refusal("API_ERROR", "FeatureNotEnabled : FIELDS is not supported in Bulk Query")
    for chosen in query.fields:
        described = kind.find(chosen.names[0]) if isinstance(chosen, Path) and len(chosen.names) == 1 else None
        if described is not None and described.compound:
            raise Refusal("API_ERROR", "FeatureNotEnabled : Selecting compound data not supported in Bulk Query")
