"""Bulk API 2.0: jobs that load a CSV, and jobs that answer a query as CSV, page by page."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tidelock.apis.salesforce import Row, Salesforce
from tidelock.errors import Fatal, Lost, Reject, Retry
from tidelock.limits import Limits

NULL = "#N/A"
PER_BATCH = 10_000
"""Records of what the vendor counts as one batch of the day."""
BATCHES = 15_000
MOST_BYTES = 90_000_000  # the vendor takes 150 MB after encoding, and advises 100 MB
_PAUSES_S = (0.1, 5.0)
_ENDED = ("JobComplete", "Failed", "Aborted")

csv.field_size_limit(1_000_000)


class Ingest:
    """Load records by a job. ``patience_s`` bounds how long one is waited for in one go.

    A job that takes longer, or whose start may or may not have been heard, stays ``pending``: `settle` has to pass before anything else is
    looked at or written, lest what it still does is overlooked.
    """

    def __init__(self, org: Salesforce, stop: threading.Event, limits: Limits, patience_s: float) -> None:
        self._org = org
        self._stop = stop
        self._limits = limits
        self._patience_s = patience_s
        self.pending: str | None = None

    def settle(self) -> None:
        """Return when no job of ours is under way. Raises Lost if one is; one that has not been started is given up."""
        if self.pending is None:
            return
        state = self._org.get("GET", f"jobs/ingest/{self.pending}", name="bulk look")["state"]
        if state == "Open":
            self._org.send("PATCH", f"jobs/ingest/{self.pending}", json={"state": "Aborted"}, name="bulk stop")
        else:
            self._ended(self.pending)
        self.pending = None

    def run(self, name: str, operation: str, key: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Carry out one operation on records that ``key`` tells apart, and answer one result each, as collections do.

        Raises Lost if the job does not end in time, and Retry if it was broken off: what it has done is seen when it is tried again,
        which has to begin with `settle`.
        """
        out: list[dict[str, Any]] = []
        header = list(dict.fromkeys([key, *(n for r in records for n in r)]))
        for data, part in _pieces(header, records):
            with self._limits.acquire(-(-len(part) // PER_BATCH)):
                pass  # the vendor counts batches of the day apart from calls
            job = self._begun(name, operation, key, data)
            state = self._ended(job)
            said = str(state.get("errorMessage") or "")
            if said.startswith("InvalidBatch"):
                raise _refused(self._org, said)
            found = self._results(job, key)
            missing = [r for r in part if str(r[key]) not in found]
            if missing or state["state"] != "JobComplete":
                raise Retry(
                    f"{self._org.tenant.path}: bulk job {job} ended as {state['state']} before {len(missing)} of {len(part)} records"
                    f"{': ' + said if said else ''}",
                    hint="what was done is seen, and the rest tried again by itself; Setup → Bulk Data Load Jobs shows the job",
                )
            out += [found[str(r[key])] for r in part]
        return out

    def _begun(self, name: str, operation: str, key: str, data: bytes) -> str:
        body = {"object": name, "operation": operation, "contentType": "CSV", "lineEnding": "LF"}
        if operation == "upsert":
            body["externalIdFieldName"] = key
        try:
            made = self._org.get("POST", "jobs/ingest", json=body, repeat=True, name="bulk job")
        except Reject as error:
            raise _refused(self._org, error.message) from error
        job = self.pending = str(made["id"])
        headers = {"Content-Type": "text/csv; charset=UTF-8"}
        path = f"jobs/ingest/{job}/batches"  # takes data once: a second time is refused
        self._org.send("PUT", path, content=data, headers=headers, repeat=False, name="bulk data")
        self._org.send("PATCH", f"jobs/ingest/{job}", json={"state": "UploadComplete"}, name="bulk start")
        return job

    def _ended(self, job: str) -> Mapping[str, Any]:
        end, pause_s = time.monotonic() + self._patience_s, _PAUSES_S[0]
        while True:
            state: Mapping[str, Any] = self._org.get("GET", f"jobs/ingest/{job}", name="bulk look")
            if state["state"] in _ENDED:
                self.pending = None
                return state
            if time.monotonic() > end or self._stop.wait(pause_s):
                raise self._slow(job, state["state"])
            pause_s = min(pause_s * 1.5, _PAUSES_S[1])

    def _slow(self, job: str, state: str) -> Lost:
        return Lost(
            f"{self._org.tenant.path}: bulk job {job} is still {state}",
            hint="writing goes on when it has ended; Setup → Bulk Data Load Jobs shows it, and can abort it",
            retry_after_s=_PAUSES_S[1],
        )

    def _results(self, job: str, key: str) -> dict[str, dict[str, Any]]:
        """Return results by the key's value: their order is not that of what was sent."""
        out: dict[str, dict[str, Any]] = {}
        for row in self._csv(f"jobs/ingest/{job}/successfulResults"):
            done = {"id": row["sf__Id"], "success": True, "created": row["sf__Created"] == "true", "errors": []}
            out[row[key]] = done
        for row in self._csv(f"jobs/ingest/{job}/failedResults"):
            out[row[key]] = {"success": False, "errors": [_error(row["sf__Error"])]}
        return out

    def _csv(self, path: str) -> Iterable[Row]:
        return table(self._org.send("GET", path, name="bulk results").content)


def _refused(org: Salesforce, said: str) -> Fatal:
    """Say that a job as such is refused: that is no fault of a record."""
    return Fatal(
        f"{org.tenant.path}: the Bulk API refuses the job: {said}",
        hint="correct `canonical_id` and the mapping, or set `bulk_above` so high that it is not used",
    )


def _pieces(
    header: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> Iterable[tuple[bytes, list[Mapping[str, Any]]]]:
    """Spell records as CSV, in pieces that the vendor takes; what a record does not have is left alone there."""
    out, part = io.StringIO(), list[Mapping[str, Any]]()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for record in records:
        writer.writerow([cell(record[n]) if n in record else "" for n in header])
        part.append(record)
        if out.tell() > MOST_BYTES // 2:  # characters; they are of two bytes on an average at most
            yield out.getvalue().encode(), part
            out, part = io.StringIO(), []
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(header)
    if part:
        yield out.getvalue().encode(), part


def cell(value: Any) -> str:
    """Spell a JSON value as a cell: an empty one would leave the field alone."""
    if value is None or value == "":
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def table(content: bytes) -> list[Row]:
    """Read CSV as rows; an empty cell is null."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    return [{name: value if value != "" else None for name, value in row.items()} for row in rows]


def _error(text: str | None) -> dict[str, Any]:
    """Take apart ``CODE:message:fields--``."""
    code, _, rest = (text or "").partition(":")
    message, _, fields = rest.removesuffix("--").rpartition(":")
    return {"statusCode": code, "message": message or rest, "fields": [f for f in fields.split(",") if f]}


# ------------------------------------------------------------------------------------------------------- queries


def begin_query(org: Salesforce, soql: str) -> str:
    """Begin a query job and return its id."""
    body = {"operation": "query", "query": soql}
    return str(org.get("POST", "jobs/query", json=body, repeat=True, name="bulk query")["id"])


def query_state(org: Salesforce, job: str) -> str | None:
    """Return how a query job stands; None if it is forgotten, as jobs are after seven days. Raises Retry if it has failed."""
    looked = org.send("GET", f"jobs/query/{job}", ok=(404,), name="bulk query look")
    if looked.status == 404:
        return None
    answer = looked.json()
    if answer["state"] in ("Failed", "Aborted"):
        raise Retry(
            f"{org.tenant.path}: bulk query {job} ended as {answer['state']}: {answer.get('errorMessage') or 'no reason given'}",
            hint="it is begun again by itself; `load: soql` reads without the Bulk API",
        )
    return str(answer["state"])


def query_page(org: Salesforce, job: str, locator: str | None, most: int) -> tuple[list[Row], str | None]:
    """Return a page of a query job's answer, and where the next begins; None if it was the last."""
    params = {"maxRecords": most, **({"locator": locator} if locator else {})}
    answer = org.send("GET", f"jobs/query/{job}/results", params=params, name="bulk query page")
    following = answer.headers.get("Sforce-Locator")
    return table(answer.content), following if following and following != "null" else None
