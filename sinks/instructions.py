"""Writes as sinks read them: with every value's type, which the destination needs to know.

`tidelock.envelopes.Write.decode` gives slices, which forget the branch of the generic value they came from; here ``columns`` hold the
encoded generic values themselves (first byte: the branch). The rest of the object is the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tidelock.avro import NULL, decode_bytes, decode_long, encode_string
from tidelock.envelopes import DELETE_OP, UPDATE_OP, WRITE_OPS, Write

_UPDATE, _DELETE = WRITE_OPS[UPDATE_OP], WRITE_OPS[DELETE_OP]
_names: dict[bytes, str] = {}
_MOST_NAMES = 10_000


def decode_write(data: bytes, at: int = 5) -> Write:
    """Read a write whose body starts at ``at``. Raises IndexError, ValueError or UnicodeDecodeError on malformed bytes."""
    raw, at = decode_bytes(data, at)
    canonical_id = raw.decode()
    version, at = decode_long(data, at)
    op = WRITE_OPS[data[at] >> 1]
    at += 1
    native_key = None
    if data[at] == 0:
        at += 1
    else:
        raw, at = decode_bytes(data, at + 1)
        native_key = raw.decode()
    source, at = _name(data, at)
    source_time, at = decode_long(data, at)
    event = data[at : at + 16]
    at += 16
    actor = None
    if data[at] == 0:
        at += 1
    else:
        raw, at = decode_bytes(data, at + 1)
        actor = raw.decode()
    head, texts = _last_head
    if head and data.startswith(head, at):  # rule, system, tenant and entity: nearly always those of the write before
        rule, system, tenant, entity = texts
        at += len(head)
    else:
        start = at
        rule, at = _name(data, at)
        system, at = _name(data, at)
        tenant, at = _name(data, at)
        entity, at = _name(data, at)
        head = data[start:at]
        if len(head) == at - start:  # else the bytes end here, and it must not be taken for a head
            _last_head[:] = [head, (rule, system, tenant, entity)]
    columns: dict[str, tuple[bytes, bytes]] = {}
    names = _names
    while True:
        count = data[at]
        at += 1
        if count == 0:
            break
        if count > 0x7F or count & 1:
            count, at = decode_long(data, at - 1)
            if count < 0:
                count = -count << 1
                _, at = decode_long(data, at)
            else:
                count <<= 1
        for _ in range(count >> 1):
            n = data[at]
            if n < 0x80:
                at += 1
                end = at + (n >> 1)
                raw = data[at:end]
            else:
                raw, end = decode_bytes(data, at)
            name = names.get(raw)
            if name is None:
                name = _remember(raw)
            # Short texts and null, by far the most, are cut right here.
            if data[end] == 2 and data[end + 1] < 0x80:
                middle = end + 2 + (data[end + 1] >> 1)
            else:
                middle = _end(data, end)
            if data[middle] == 0:
                at = middle + 1
                columns[name] = (data[end:middle], NULL)
            else:
                at = _end(data, middle)
                columns[name] = (data[end:middle], data[middle:at])
    if at > len(data) or len(event) != 16:
        raise ValueError("the write ends before its content")
    return Write(
        canonical_id, version, op, native_key, source, source_time, event, actor, rule, system, tenant, entity, columns
    )


_last_head: list[Any] = [b"", ()]


def _end(data: bytes, at: int) -> int:
    """Return the index behind the generic value at ``at``."""
    tag = data[at]
    at += 1
    if tag in (2, 10):
        n = data[at]
        if n < 0x80:
            return at + 1 + (n >> 1)
        n, at = decode_long(data, at)
        return at + n
    if tag == 0:
        return at
    if tag == 4:
        while data[at] > 0x7F:
            at += 1
        return at + 1
    if tag == 6:
        return at + 8
    if tag == 8:
        return at + 1
    raise ValueError(f"branch {tag >> 1} is none of a generic value")


def _name(data: bytes, at: int) -> tuple[str, int]:
    raw, at = decode_bytes(data, at)
    name = _names.get(raw)
    return (_remember(raw) if name is None else name), at


def _remember(raw: bytes) -> str:
    """Decode a name that comes again and again."""
    if len(_names) > _MOST_NAMES:
        _names.clear()
    name = _names[raw] = raw.decode()
    return name


def text_value(text: str) -> bytes:
    """Make the generic value of a text."""
    return b"\x02" + encode_string(text)


def fold(earlier: Write, later: Write) -> Write | None:
    """Make one write of two to the same record: the later value of each column, made on the earlier base.

    None if they cannot be one: then they are written one after the other.
    """
    if later.op != _UPDATE or earlier.op == _DELETE:
        return None
    columns = dict(earlier.columns)
    for name, (value, base) in later.columns.items():
        before = columns.get(name)
        columns[name] = (value, base if before is None else before[1])
    return dataclasses.replace(later, op=earlier.op, native_key=earlier.native_key, columns=columns)
