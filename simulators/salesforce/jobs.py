"""Jobs of the Bulk API 2.0: what they are told at first, where they stand, and the daily limits on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simulators.salesforce import bulk_csv, ids
from simulators.salesforce.asking import Ask, Reply
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal, not_found
from simulators.salesforce.selection import Selected
from simulators.salesforce.times import stamp
from simulators.salesforce.unit import Actor

_KEPT_S = 7 * 86400.0
_DAY_S = 86400.0


@dataclass(slots=True)
class Job:
    """One job with its data and results."""

    id: str
    kind: str
    operation: str
    object: str
    version: str
    user: str
    made: float
    delimiter: str
    ending: str
    actor: Actor
    key: str | None = None
    query: str = ""
    state: str = "Open"
    modified: float = 0.0
    data: bytes | None = None
    error: str | None = None
    processed: int = 0
    failed: int = 0
    header: list[str] = field(default_factory=list)
    successes: list[list[str]] = field(default_factory=list)
    failures: list[list[str]] = field(default_factory=list)
    unprocessed: list[list[str]] = field(default_factory=list)
    found: Selected | None = None
    took_ms: int = 0


class Jobs:
    """The jobs of the org, and the handlers that both kinds share."""

    def __init__(self, context: Context) -> None:
        self._org = context.org
        self._jobs: dict[str, Job] = {}
        self.batches: list[tuple[float, int]] = []
        self._number = 0

    def reset(self) -> None:
        """Forget all jobs."""
        self._jobs.clear()
        self.batches.clear()

    def used(self) -> tuple[int, int]:
        """Return how many batches and query jobs were begun within the last day."""
        since = self._org.clock.now() - _DAY_S
        self.batches = [b for b in self.batches if b[0] > since]
        queries = sum(1 for j in self._jobs.values() if j.kind == "query" and j.made > since)
        return sum(n for _, n in self.batches), queries

    def new(self, ask: Ask, kind: str, body: dict[str, Any], operation: str, object_: str) -> Job:
        """Begin a job. Raises Refusal (INVALIDJOB)."""
        delimiter = str(body.get("columnDelimiter") or "COMMA").upper()
        ending = str(body.get("lineEnding") or "LF").upper()
        if delimiter not in bulk_csv.DELIMITERS:
            raise Refusal("INVALIDJOB", f"InvalidJob : Unsupported column delimiter: {delimiter}")
        if ending not in bulk_csv.ENDINGS:
            raise Refusal("INVALIDJOB", f"InvalidJob : Unsupported line ending: {ending}")
        if str(body.get("contentType") or "CSV") != "CSV":
            raise Refusal("INVALIDJOB", f"InvalidJob : Unsupported content type: {body['contentType']}")
        self._number += 1
        now = self._org.clock.now()
        ask.api = "bulkapi"
        actor = ask.actor()
        actor.text = True
        job = Job(
            ids.make("750", self._org.pod, self._number),
            kind,
            operation,
            object_,
            ask.version,
            ask.session.user,
            now,
            delimiter,
            ending,
            actor,
            modified=now,
        )
        self._jobs[job.id] = job
        return job

    def find(self, ask: Ask) -> Job:
        """Return the job that a path names. Raises Refusal (404)."""
        known = ids.normal(ask.parts[2])
        job = self._jobs.get(known or "")
        if job is None or job.kind != ask.parts[1].lower() or self._org.clock.now() - job.made > _KEPT_S:
            raise not_found()
        return job

    def get(self, ask: Ask) -> Reply:
        """Answer how a job stands."""
        return Reply(data=shown(self.find(ask), progress=True))

    def list_(self, ask: Ask) -> Reply:
        """Answer which jobs there are, the newest first."""
        kind = ask.parts[1].lower()
        jobs = [shown(j, progress=True) for j in self._jobs.values() if j.kind == kind]
        return Reply(data={"done": True, "records": jobs[::-1][:1000], "nextRecordsUrl": None})

    def delete(self, ask: Ask) -> Reply:
        """Forget a job that is not being worked on."""
        job = self.find(ask)
        if job.state not in {"JobComplete", "Aborted", "Failed", "UploadComplete"}:
            raise Refusal("INVALIDJOBSTATE", f"InvalidJobState : a job cannot be deleted while it is {job.state}")
        del self._jobs[job.id]
        return Reply(204)

    def to(self, job: Job, state: str) -> None:
        """Put a job into a state."""
        job.state, job.modified = state, self._org.clock.now()


def shown(job: Job, *, progress: bool = False) -> dict[str, Any]:
    """Return a job as answers show it; with ``progress``, how far it is."""
    out: dict[str, Any] = {
        "id": job.id,
        "operation": job.operation,
        "object": job.object,
        "createdById": job.user,
        "createdDate": stamp(job.made),
        "systemModstamp": stamp(job.modified),
        "state": job.state,
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": float(job.version),
        "lineEnding": job.ending,
        "columnDelimiter": job.delimiter,
    }
    if job.kind == "ingest":
        out |= {"contentUrl": f"services/data/v{job.version}/jobs/ingest/{job.id}/batches"}
        if job.key is not None:
            out["externalIdFieldName"] = job.key
    if progress:
        out |= {
            "jobType": "V2Ingest" if job.kind == "ingest" else "V2Query",
            "retries": 0,
            "totalProcessingTime": job.took_ms,
        }
        out |= {"numberRecordsProcessed": job.processed}
        if job.kind == "ingest":
            out |= {
                "numberRecordsFailed": job.failed,
                "apiActiveProcessingTime": job.took_ms,
                "apexProcessingTime": 0,
            }
        if job.error is not None:
            out["errorMessage"] = job.error
    return out


def as_csv(job: Job, header: Sequence[str], lines: Sequence[Sequence[str]]) -> Reply:
    """Answer with results in the form that the job wants."""
    return Reply(200, bulk_csv.written(header, lines, job.delimiter, job.ending), media="text/csv")
