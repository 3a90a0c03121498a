"""The registry's client: what each refusal means for the caller."""

from __future__ import annotations

import httpx
import pytest

from tidelock.errors import Fatal
from tidelock.registry import Registry

TWICE = {"message": "A rule named 'COMPATIBILITY' already exists.", "error_code": 0}


def registry(*answers: httpx.Response) -> Registry:
    """Return a client whose server gives these answers, one after the other."""
    left = iter(answers)
    out = Registry("http://registry")
    out._http.close()
    out._http = httpx.Client(base_url=out.url, transport=httpx.MockTransport(lambda _request: next(left)))
    return out


def test_what_another_worker_has_done_at_the_same_moment_is_asked_for_again() -> None:
    client = registry(httpx.Response(409, json=TWICE), httpx.Response(200, json={"compatibility": "BACKWARD"}))
    client.require_backward()
    client.close()


def test_a_schema_that_does_not_fit_is_fatal_and_says_what_to_do() -> None:
    client = registry(httpx.Response(409, json={"message": "Incompatible", "error_code": 409}))
    with pytest.raises(Fatal, match=r"contact-value(.|\n)*BACKWARD compatible"):
        client.register("contact-value", {"type": "record", "name": "Contact", "fields": []})
    client.close()
