"""What several captured changes of one native record tell together, where each may have left columns out (S6, S7).

A change is kept as long as it tells a column that no later one tells, and of it only those columns: so what is kept tells every column
once, and takes about as much room as one whole row, however many changes have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from tidelock.avro import NULL
from tidelock.change import Change, ChangeWriter, value_position
from tidelock.codec import Codec, schema_id


def told(change: Change) -> list[str]:
    """Return the columns that a change tells, in the order of its row."""
    if change.after is None:
        return []
    return [c.name for c in change.columns if c.name not in change.absent]


class Partials:
    """Join changes and cut them, as wire-format values. All of them have been read before: they fit their schemas."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def read(self, payload: bytes) -> Change:
        """Return a change."""
        return self._codec.change_reader(payload).read(payload)

    def join(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Return what is to be kept of changes, oldest first: the newest as it came, of each other what no later one tells.

        Of two changes at one position, the later in ``payloads`` counts as the newer.
        """
        kept: list[bytes] = []
        known: set[str] = set()
        in_order = sorted(payloads, key=value_position)
        for payload in reversed(in_order):
            change = self.read(payload)
            tells = told(change)
            fresh = [name for name in tells if name not in known]
            if not kept or len(fresh) == len(tells):
                kept.append(payload)
            elif fresh:
                kept.append(self._cut(payload, change, frozenset(fresh)))
            known.update(fresh)
        kept.reverse()
        return kept

    def runs(self, kept: Sequence[bytes]) -> list[bytes]:
        """Return what `join` has kept as few changes, oldest first: one, unless columns came and went or changed their types meanwhile."""
        return [self._fold(list(run)) for _, run in groupby(kept, key=schema_id)]

    def first_sight(self, kept: Sequence[bytes]) -> list[bytes]:
        """Return what `join` has kept as changes for a record that sees its copy for the first time: the whole row at once.

        It stands at the position of the oldest part. The others follow, telling nothing new but up to where each column is known: a
        change that was overtaken, and comes only now, still counts in what they leave out.
        """
        out: list[bytes] = []
        for _, group in groupby(kept, key=schema_id):
            run = list(group)
            out += [self._fold(run, value_position(run[0])), *run[1:]]
        return out

    def _fold(self, run: list[bytes], position: bytes = b"") -> bytes:
        if len(run) == 1:
            return run[0]
        newest = self.read(run[-1])
        assert newest.after is not None
        row, absent = list(newest.after), set(newest.absent)
        for payload in run[:-1]:
            change = self.read(payload)
            assert change.after is not None
            for i, column in enumerate(change.columns):
                if column.name not in change.absent:
                    row[i] = change.after[i]
                    absent.discard(column.name)
        newest.position = position or newest.position
        return self._write(run[-1], newest, row, absent)

    def _cut(self, payload: bytes, change: Change, keep: frozenset[str]) -> bytes:
        assert change.after is not None
        row = [v if c.name in keep else NULL for c, v in zip(change.columns, change.after, strict=True)]
        return self._write(payload, change, row, {c.name for c in change.columns} - keep)

    @staticmethod
    def _write(payload: bytes, change: Change, row: list[bytes], absent: set[str]) -> bytes:
        """Write a change anew with another row; its before-image, which nobody reads, is left out."""
        names = tuple(c.name for c in change.columns if c.name in absent)
        writer = ChangeWriter(schema_id(payload), change.system, change.tenant, change.entity)
        return writer.write(
            change.event_id, change.position, change.op, change.source_time, change.captured_at, change.native_key.encode(),
            row, None, names, change.origin, change.write_id, change.actor,
        )  # fmt: skip
