"""A client of a Confluent-compatible schema registry: register, read, set compatibility. Ids are cached for ever: they never change.

API: Confluent Schema Registry REST reference, as Apicurio serves it under ``/apis/ccompat/v7``.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import stamina

from tidelock.errors import Fatal, Reject, Retry, TidelockError

_JSON = {"Content-Type": "application/vnd.schemaregistry.v1+json"}


class Registry:
    """Register and look up schemas at ``url``. Raises Retry when it cannot be reached, Fatal when it refuses."""

    def __init__(self, url: str, *, auth: tuple[str, str] | None = None, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, auth=auth, headers=_JSON)
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, dict[str, Any]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        """Return the id of a schema under a subject, registering it (BACKWARD compatible) if it is new.

        Raises Fatal if it is not compatible with what the subject holds.
        """
        text = json.dumps(schema, sort_keys=True)
        known = self._ids.get((subject, text))
        if known is not None:
            return known
        answer = self._call(
            "POST", f"/subjects/{subject}/versions", {"schema": text, "schemaType": "AVRO"}, subject=subject
        )
        number = int(answer["id"])
        self._ids[subject, text] = number
        self._schemas[number] = schema
        return number

    def schema(self, number: int) -> dict[str, Any]:
        """Return the schema of an id. Raises Reject (kind ``unknown_schema``) if the registry has none."""
        known = self._schemas.get(number)
        if known is None:
            known = json.loads(
                self._call("GET", f"/schemas/ids/{number}", None, subject=f"schema id {number}")["schema"]
            )
            self._schemas[number] = known
        return known

    def require_backward(self) -> None:
        """Make BACKWARD the registry's compatibility level."""
        self._call("PUT", "/config", {"compatibility": "BACKWARD"}, subject="the compatibility level")

    def _call(self, method: str, path: str, body: dict[str, Any] | None, *, subject: str) -> dict[str, Any]:
        for attempt in stamina.retry_context(on=Retry, attempts=6, timeout=60.0, wait_initial=0.2, wait_max=5.0):
            with attempt:
                return self._once(method, path, body, subject)
        raise AssertionError("retry_context always raises or returns")

    def _once(self, method: str, path: str, body: dict[str, Any] | None, subject: str) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Retry(
                f"the schema registry at {self.url} did not answer ({type(error).__name__}: {error})",
                hint="check `registry.url` and that it is running (`tidelock status`)",
            ) from error
        if answer.status_code < 300:
            return dict(answer.json())
        raise _refusal(answer, self.url, subject)


def _refusal(answer: httpx.Response, url: str, subject: str) -> TidelockError:
    text = answer.text[:500]
    if answer.status_code == 404:
        return Reject(f"the schema registry at {url} knows nothing of {subject}", kind="unknown_schema")
    if (
        answer.status_code == 409 and "already exists" in text
    ):  # two workers at the same moment; asked again, it is there
        return Retry(f"the schema registry at {url} was just given {subject} by somebody else: {text}")
    if answer.status_code in (409, 422):
        return Fatal(
            f"the schema registry at {url} refuses the schema of {subject}: {text}",
            hint="the change is not BACKWARD compatible; rename the column or start a new subject (another `prefix`)",
        )
    if answer.status_code in (401, 403):
        return Fatal(f"the schema registry at {url} refuses our credentials: {text}", hint="check `registry.auth`")
    return Retry(f"the schema registry at {url} answered {answer.status_code} to {subject}: {text}")
