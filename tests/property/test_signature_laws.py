"""Laws of signatures: what was signed is good, and whatever byte of it is altered, it is not."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelock.signatures import Call, Refused, scheme_of

NOW = 1_790_000_000.0
URL = "https://hooks.example/hooks/shop"
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
CASES: list[tuple[Any, str]] = [
    ("standard", WHSEC),
    ("standard", "whsk_" + base64.b64encode(bytes(range(32))).decode()),
    ("shopify", "shpss_secret"),
    ("stripe", "whsec_text"),
    ("github", "secret"),
    ("hubspot", "secret"),
    ({"header": "X-A", "timestamp_header": "X-B", "id_header": "X-C", "content": "{id}:{timestamp}:{body}"}, "secret"),
]


@given(case=st.sampled_from(CASES), body=st.binary(max_size=200), data=st.data())
def test_every_altered_byte_is_refused(case: tuple[Any, str], body: bytes, data: st.DataObject) -> None:
    option, secret = case
    scheme = scheme_of(option, "scheme")
    headers = scheme.sign([secret], number="n-1", timestamp=NOW, method="POST", url=URL, body=body)
    scheme.verify(Call("POST", URL, headers, body), [secret], NOW)
    what = data.draw(st.sampled_from(["body", *(n for n in headers if covered(scheme.content, n))]))
    if what == "body":
        altered = bytearray(body or b"\0")
        at = data.draw(st.integers(0, len(altered) - 1))
        altered[at] ^= data.draw(st.integers(1, 255))
        call = Call("POST", URL, headers, bytes(altered) if body else b"\0")
    else:
        text = headers[what]
        at = data.draw(st.integers(0, len(text) - 1))
        other = data.draw(
            st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c.lower() != text[at].lower())
        )
        call = Call("POST", URL, {**headers, what: text[:at] + other + text[at + 1 :]}, body)
    with pytest.raises(Refused) as found:
        scheme.verify(call, [secret], NOW)
    assert found.value.status in (400, 401)


def covered(content: str, header: str) -> bool:
    """Return whether a header is the signature, or is signed; the number of a delivery need not be."""
    return "{id}" in content or not header.endswith(("-id", "-delivery"))


@given(case=st.sampled_from(CASES), body=st.binary(max_size=50), off=st.integers(-1000, 1000))
def test_age_alone_decides_what_is_signed_well(case: tuple[Any, str], body: bytes, off: int) -> None:
    option, secret = case
    scheme = scheme_of(option, "scheme")
    headers = scheme.sign([secret], number="n-1", timestamp=NOW, method="POST", url=URL, body=body)
    call = Call("POST", URL, headers, body)
    if abs(off) <= 300 or "{timestamp}" not in scheme.content:
        scheme.verify(call, [secret], NOW + off)
    else:
        with pytest.raises(Refused):
            scheme.verify(call, [secret], NOW + off)
