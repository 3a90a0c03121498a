"""Bulk ingest: CSV comes in one upload, is loaded beside the requests, and every line has a result."""

from __future__ import annotations

import asyncio
from typing import Any

from simulators.salesforce import bulk_csv
from simulators.salesforce.asking import Ask, Reply
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal
from simulators.salesforce.jobs import Job, Jobs, as_csv, shown
from simulators.salesforce.records import key_field, upserted
from simulators.salesforce.tables import Table
from simulators.salesforce.unit import Unit

_OPERATIONS = frozenset({"insert", "update", "upsert", "delete", "hardDelete"})
_MOST_BYTES = 150 * 1024 * 1024
_PER_BATCH = 10_000
_PER_TRANSACTION = 200


class Ingest:
    """The handlers under ``jobs/ingest``."""

    def __init__(self, context: Context, jobs: Jobs) -> None:
        self._context = context
        self._org = context.org
        self._jobs = jobs
        add = context.router.add
        add("jobs/ingest", GET=jobs.list_, POST=self._create)
        add("jobs/ingest/*", GET=jobs.get, PATCH=self._change, DELETE=jobs.delete)
        add("jobs/ingest/*/batches", PUT=self._upload)
        for name in ("successfulResults", "failedResults", "unprocessedRecords"):
            add(f"jobs/ingest/*/{name}", GET=self._results)

    def _create(self, ask: Ask) -> Reply:
        body = ask.object()
        operation, name = body.get("operation"), str(body.get("object") or "")
        if operation not in _OPERATIONS:
            raise Refusal("INVALIDJOB", f"InvalidJob : Unsupported operation: {operation}")
        table = self._org.find(name)
        if table is None or not table.kind.writable:
            raise Refusal("INVALIDENTITY", f"InvalidEntity : Entity '{name}' is not supported by the Bulk API.")
        key = body.get("externalIdFieldName")
        if operation == "upsert":
            if not key:
                raise Refusal("INVALIDJOB", "InvalidJob : The externalIdFieldName is required for upsert")
            described = table.kind.find(str(key))
            if described is None or not (described.external or described.lookup):
                raise Refusal(
                    "INVALIDJOB",
                    f"InvalidJob : Field name provided, {key} does not match an External ID, Salesforce Id, or indexed field for {name}",
                )
        job = self._jobs.new(ask, "ingest", body, str(operation), table.kind.name)
        job.key = str(key) if operation == "upsert" else None
        return Reply(200, shown(job))

    def _change(self, ask: Ask) -> Reply:
        job, state = self._jobs.find(ask), ask.object().get("state")
        allowed = {"UploadComplete": {"Open"}, "Aborted": {"Open", "UploadComplete", "InProgress"}}
        if job.state not in allowed.get(str(state), set()):
            raise Refusal("INVALIDJOBSTATE", f"InvalidJobState : Invalid job state transition: {job.state} to {state}")
        if state == "UploadComplete" and job.data is None:
            raise Refusal("INVALIDJOBSTATE", "InvalidJobState : There is no data for the job to process")
        self._jobs.to(job, str(state))
        if state == "UploadComplete":
            self._context.running(self._ingest(job))
        return Reply(data=shown(job))

    def _upload(self, ask: Ask) -> Reply:
        job = self._jobs.find(ask)
        if job.state != "Open" or job.data is not None:
            raise Refusal(
                "INVALIDJOBSTATE",
                f"InvalidJobState : data can be uploaded once, to an Open job; the job is {job.state}",
            )
        if not ask.headers.get("content-type", "").lower().startswith("text/csv"):
            raise Refusal("UNSUPPORTED_MEDIA_TYPE", "The content type of a job's data is text/csv", 415)
        if len(ask.raw) > _MOST_BYTES:
            raise Refusal("REQUEST_TOO_LARGE", "the data of a job is at most 150 MB", 413)
        job.data = ask.raw
        return Reply(201)

    async def _ingest(self, job: Job) -> None:
        clock, delay_s = self._org.clock, self._context.options.bulk_delay_s
        await clock.until(clock.now() + delay_s)
        if job.state != "UploadComplete":
            return
        self._jobs.to(job, "InProgress")
        begun = clock.now()
        try:
            lines = list(bulk_csv.rows(job.data or b"", job.delimiter))
            job.header = [name.strip() for name in lines[0]] if lines else []
            self._check_header(job)
        except Refusal as refusal:
            job.error = refusal.message
            self._jobs.to(job, "Failed")
            return
        records = lines[1:]
        batches = -(-len(records) // _PER_BATCH)
        if self._jobs.used()[0] + batches > self._context.options.bulk_batches:
            job.unprocessed, job.error = records, "ExceededQuota : ApiBatchItems Limit exceeded."
            self._jobs.to(job, "Failed")
            return
        self._jobs.batches.append((begun, batches))
        fails = self._org.faults.take("bulk_fail", "PUT", f"/jobs/ingest/{job.id}")
        for start in range(0, len(records), _PER_TRANSACTION):
            if job.state != "InProgress" or (fails is not None and start >= int(fails.more.get("after", 0))):
                job.unprocessed = records[start:]
                break
            self._load(job, records[start : start + _PER_TRANSACTION])
            await asyncio.sleep(0)
        await clock.until(clock.now() + delay_s)
        job.took_ms = int((clock.now() - begun) * 1000)
        if job.state == "InProgress":
            if fails is not None:
                job.error = "InternalServerError : Unable to process the batches of the job: too many retries"
            self._jobs.to(job, "Failed" if fails is not None else "JobComplete")

    def _check_header(self, job: Job) -> None:
        kind = self._org.tables[job.object].kind
        if not job.header:
            raise Refusal("InvalidBatch", "InvalidBatch : the data has no header")
        for name in job.header:
            relation, dot, _ = name.partition(".")
            known = kind.relations.get(relation.lower()) if dot else kind.find(name)
            if known is None:
                raise Refusal("InvalidBatch", f"InvalidBatch : Field name not found : {name}")
        if job.operation in {"delete", "hardDelete"} and [n.lower() for n in job.header] != ["id"]:
            raise Refusal(
                "InvalidBatch", f"InvalidBatch : Invalid CSV header: a {job.operation} has the column Id alone"
            )

    def _load(self, job: Job, lines: list[list[str]]) -> None:
        """Load some lines in one transaction, each on its own."""
        org, table = self._org, self._org.tables[job.object]
        job.actor.method, job.actor.path = "PUT", f"/services/data/v{job.version}/jobs/ingest/{job.id}"
        unit = Unit(org, job.actor)
        for line in lines:
            mark = unit.savepoint()
            job.processed += 1
            id_ = ""
            try:
                if (fault := org.faults.take("partial", "PUT", job.actor.path)) is not None:
                    code = str(fault.more.get("code", "FIELD_CUSTOM_VALIDATION_EXCEPTION"))
                    raise Refusal(
                        code, str(fault.more.get("message", "a validation rule of the simulator says no")), fields=[]
                    )
                given = bulk_csv.record(job.header, line)
                id_ = next((str(v) for k, v in given.items() if k.lower() == "id" and v), "")
                id_, created = self._apply(job, unit, table, given, id_)
                job.successes.append([id_, "true" if created else "false", *line])
            except Refusal as refusal:
                unit.rollback(mark)
                job.failed += 1
                job.failures.append([id_, refusal.cell(), *line])
        unit.commit()

    def _apply(self, job: Job, unit: Unit, table: Table, given: dict[str, Any], id_: str) -> tuple[str, bool]:
        if job.operation == "insert":
            return unit.create(table, given), True
        if job.operation == "upsert":
            return upserted(unit, table, key_field(table, job.key or "Id"), given)
        if not id_:
            raise Refusal("MISSING_ARGUMENT", "Id not specified", fields=["Id"])
        try:
            known: str = unit.existing(table, id_)["Id"]
        except Refusal as refusal:
            if refusal.code == "NOT_FOUND":
                raise Refusal("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", fields=[]) from None
            raise
        if job.operation == "update":
            unit.update(table, known, given)
        else:
            unit.delete(table, known, hard=job.operation == "hardDelete")
        return known, False

    def _results(self, ask: Ask) -> Reply:
        job, which = self._jobs.find(ask), ask.parts[3].lower()
        if job.state not in {"JobComplete", "Failed", "Aborted"}:
            raise Refusal(
                "INVALIDJOBSTATE",
                f"InvalidJobState : the results of a job are there when it is done; it is {job.state}",
            )
        if which == "unprocessedrecords":
            header, lines = job.header, job.unprocessed
        elif which == "failedresults":
            header, lines = ["sf__Id", "sf__Error", *job.header], job.failures
        else:
            header, lines = ["sf__Id", "sf__Created", *job.header], job.successes
        return as_csv(job, header, lines)
