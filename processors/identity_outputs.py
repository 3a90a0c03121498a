"""Decisions of identify as Kafka records: journal entries, links, creates, dead letters, alerts. Bytes are joined by hand."""

from __future__ import annotations

import json
from collections import defaultdict

from processors.identity_rows import Sight, encode_strings
from processors.stage import Headers, Row
from tidelock.avro import decode_long, encode_bytes, encode_long, encode_string
from tidelock.codec import Codec
from tidelock.envelopes import Entry
from tidelock.kafka import murmur2_partition
from tidelock.topics import Topics

AMBIGUOUS, UNLINKED, CONFLICT = "ambiguous_match", "unlinked", "match_conflict"
_LINKED = encode_string("linked")


class Outputs:
    """Collect the rows of a batch of one entity (`processors.identity_core.Decisions`).

    ``headers`` are those of the message at hand; they go on with its change, for tracing.
    """

    def __init__(self, entity: str, topics: Topics, codec: Codec, places: tuple[str, ...], partitions: int) -> None:
        self.rows: list[Row] = []
        self.headers: Headers | None = None
        self.counts: dict[tuple[str, str], int] = defaultdict(int)  # (name, system)
        self._entity = entity
        self._topics = topics
        self._codec = codec
        self._partitions = partitions
        self._journal = topics.journal(entity)
        self._links = topics.links(entity)
        self._identity = topics.identity(entity)
        self._alerts = topics.ops("alerts")
        self._signals = topics.ops("signals")
        self._sync = {p: topics.sync(p.partition("/")[0], entity) for p in places}
        self._entry = codec.header("entry")
        self._linked = self._entry + _LINKED
        self._link = codec.header("link")
        self._names = {p: _names(p) for p in places}
        self._grants: dict[tuple[str, ...], bytes] = {}

    def linked(self, cid: str, sight: Sight, grants: tuple[str, ...]) -> None:
        """See `Decisions`."""
        granted = self._grants.get(grants)
        if granted is None:
            granted = self._grants[grants] = encode_strings(grants)
        key = cid.encode()
        value = b"".join(
            (
                self._linked,
                encode_bytes(key),
                self._names[sight.place],
                encode_bytes(sight.native.encode()),
                sight.position,
                encode_long(sight.partition),
                encode_long(sight.offset),
                granted,
                encode_bytes(sight.payload),
            )
        )
        self.rows.append((self._journal, key, value, -1, self.headers))
        self.counts["linked", sight.place] += 1

    def change(self, cid: str, sight: Sight) -> None:
        """See `Decisions`."""
        self.rows.append((self._journal, cid.encode(), sight.payload, -1, self.headers))

    def link(self, place: str, native: str, partition: int, cid: str, through: int) -> None:
        """See `Decisions`."""
        name = native.encode()
        value = b"".join(
            (self._link, encode_bytes(cid.encode()), self._names[place], encode_bytes(name), encode_long(through))
        )
        if partition < 0:
            partition = self._partition(place, native)
        self.rows.append((self._links, place.encode() + b"/" + name, value, partition, None))

    def no_link(self, place: str, native: str, partition: int) -> None:
        """See `Decisions`."""
        if partition < 0:
            partition = self._partition(place, native)
        self.rows.append((self._links, f"{place}/{native}".encode(), None, partition, None))

    def _partition(self, place: str, native: str) -> int:
        """Return the partition in which capture writes this native's changes."""
        return murmur2_partition(f"{place.partition('/')[2]}/{native}".encode(), self._partitions)

    def note(self, kind: str, cid: str, place: str, native: str, reason: str, payload: bytes) -> None:
        """See `Decisions`."""
        system, _, tenant = place.partition("/")
        entry = Entry(kind, cid, system, tenant, native, keys=(reason,) if reason else (), payload=payload)
        self.rows.append((self._journal, cid.encode(), self._entry + entry.encode(), -1, None))

    def receipts(self, cid: str, payload: bytes) -> None:
        """See `Decisions`."""
        self.rows.append((self._journal, cid.encode(), payload, -1, None))

    def write(self, cid: str, place: str, payload: bytes) -> None:
        """See `Decisions`."""
        self.rows.append((self._sync[place], cid.encode(), payload, -1, self.headers))

    def held(self, sight: Sight, rivals: tuple[str, ...], reason: str) -> None:
        """See `Decisions`."""
        if rivals:
            kind, severity = AMBIGUOUS, "warning"
            text = f"{sight.place}/{sight.native} could be {self._entity} {' or '.join(rivals)}: {reason}"
            hint = (
                "correct the match key in one of the systems, or link it or split it off by hand; it is looked at again "
                "whenever its key, the record or its rival moves"
            )
        else:
            kind, severity = UNLINKED, "info"
            text = f"{sight.place}/{sight.native} takes part in no {self._entity} record: {reason}"
            hint = "link it, or split it off into a record of its own, to have it synchronised again"
        self.counts["parked", sight.place] += 1
        system, _, tenant = sight.place.partition("/")
        headers = [
            *(self.headers or ()),
            ("dlq.stage", b"identify"),
            ("dlq.kind", kind.encode()),
            ("dlq.message", text.encode()),
        ]
        if rivals:
            headers.append(("dlq.canonical_id", rivals[0].encode()))
        topic = self._topics.dlq("identify", system, self._entity)
        self.rows.append((topic, f"{tenant}/{sight.native}".encode(), sight.payload, -1, headers))
        self._alert(kind, severity, sight, text, hint)

    def conflict(self, sight: Sight, chosen: str, other: str) -> None:
        """See `Decisions`."""
        text = (
            f"match keys of {sight.place}/{sight.native} find {self._entity} {chosen} and {other};"
            f" {chosen} was chosen, because the key that finds it stands first"
        )
        self._alert(CONFLICT, "warning", sight, text, "correct the key that is wrong, or merge the two records by hand")

    def _alert(self, kind: str, severity: str, sight: Sight, message: str, hint: str) -> None:
        fingerprint = f"{kind}/{self._entity}/{sight.place}/{sight.native}"
        value = {
            "fingerprint": fingerprint,
            "kind": kind,
            "severity": severity,
            "system": sight.place.partition("/")[0],
            "entity": self._entity,
            "subject": sight.native,
            "message": message,
            "hint": hint,
            "at": captured_at(sight.payload),
        }
        self.rows.append((self._alerts, fingerprint.encode(), self._codec.encode("alert", value), -1, None))

    def waiting(self, place: str, creates: int) -> None:
        """See `Decisions`; `tidelock.waiting` reads it."""
        system, _, tenant = place.partition("/")
        body = {"kind": "waiting", "system": system, "tenant": tenant, "entity": self._entity, "creates": creates}
        value = json.dumps(body).encode() if creates else None
        self.rows.append((self._signals, f"waiting/{self._entity}/{place}".encode(), value, -1, None))

    def drain(self, place: str) -> None:
        """See `Decisions`."""
        system, _, tenant = place.partition("/")
        entry = Entry("drain", system=system, tenant=tenant)
        self.rows.append((self._identity, None, self._entry + entry.encode(), 0, None))

    def barrier(self, system: str, partition: int, token: str) -> None:
        """Answer route's barrier: everything sent before it has been looked at."""
        value = b"".join((self._link, encode_string(token), encode_string(system), b"\x00\x00", encode_long(-1)))
        self.rows.append((self._links, f"barrier/{system}/{partition}".encode(), value, partition, None))


def captured_at(change: bytes) -> int:
    """Read when a wire-format change was captured, in microseconds: no decision may read a clock."""
    return decode_long(change, decode_long(change, 38)[1])[0]


def _names(place: str) -> bytes:
    system, _, tenant = place.partition("/")
    return encode_string(system) + encode_string(tenant)
