"""From a captured row to what identify looks at: its match keys, and our own id if the system keeps it."""

from __future__ import annotations

from processors.identity_rows import Sight
from processors.plan import EntityPlan, RowReader
from tidelock.avro import NULL, decode_slice
from tidelock.change import DELETE, Change, Column
from tidelock.codec import Codec, schema_id
from tidelock.errors import Reject


class _Layout:
    """How rows of one schema id are read: only the bindings that match keys need."""

    def __init__(self, plan: EntityPlan, system: str, columns: tuple[Column, ...]) -> None:
        source = plan.systems[system]
        self.reader: RowReader = source.reader(columns)
        wanted = {plan.field_index[f] for key in plan.spec.match for f in key}
        positions = self.reader.positions
        self.bindings = [
            (b.index, b.fields, tuple(positions[c] for c in b.columns), self.reader.identity[b.index])
            for b in source.bindings
            if b.reads and not wanted.isdisjoint(b.fields) and all(positions[c] >= 0 for c in b.columns)
        ]
        name = source.external_id
        self.ext = next((i for i, c in enumerate(columns) if c.name == name), -1) if name else -1


class Spotter:
    """Read changes of one entity as `Sight`."""

    def __init__(self, plan: EntityPlan, codec: Codec) -> None:
        self._plan = plan
        self._codec = codec
        self._blank = [NULL] * len(plan.fields)
        self._layouts: dict[int, _Layout] = {}

    def read(self, place: str, native: str, payload: bytes, partition: int, offset: int) -> Sight:
        """Return what a change shows. Raises Reject if it is not a change that its schema fits."""
        change_reader = self._codec.change_reader(payload)
        try:
            change = change_reader.read(payload)
        except (IndexError, ValueError) as error:
            raise Reject(f"the change does not fit its schema: {error!r}", kind="bad_avro") from error
        if change.op == DELETE or change.after is None:
            return Sight(place, native, change.position, (), None, True, partition, offset, payload)
        number = schema_id(payload)
        layout = self._layouts.get(number)
        if layout is None:
            layout = self._layouts[number] = _Layout(self._plan, change.system, change.columns)
        keys = self._keys(layout, change, change.after)
        ext = None
        if layout.ext >= 0 and change.columns[layout.ext].name not in change.absent:
            value = decode_slice(change.columns[layout.ext].type, change.after[layout.ext])
            ext = "" if value is None else str(value).lower()
        return Sight(place, native, change.position, keys, ext, False, partition, offset, payload)

    def _keys(self, layout: _Layout, change: Change, row: list[bytes]) -> tuple[str, ...]:
        golden = self._blank.copy()
        for index, fields, columns, identity in layout.bindings:
            if change.absent and any(change.columns[c].name in change.absent for c in columns):
                continue
            raws = tuple([row[c] for c in columns])
            if not identity:
                try:
                    raws = tuple(layout.reader.read(index, raws))
                except Reject:  # merge flags the value; it matches nothing
                    continue
            for f, value in zip(fields, raws, strict=True):
                golden[f] = value
        return tuple([key for key in self._plan.match_keys(golden) if key])
