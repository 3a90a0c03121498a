"""From a captured row, or what several of them tell together, to what identify looks at: its match keys, and our own id."""

from __future__ import annotations

from dataclasses import replace

from processors.identity_rows import Sight
from processors.partials import Partials, told
from processors.plan import EntityPlan, Given, RowReader
from tidelock.avro import NULL, decode_bytes, decode_long, decode_slice
from tidelock.change import DELETE, Change, Column, value_position
from tidelock.codec import Codec, schema_id
from tidelock.errors import Reject


class _Layout:
    """How rows of one schema id are read: only the bindings that match keys need."""

    def __init__(self, plan: EntityPlan, system: str, columns: tuple[Column, ...]) -> None:
        source = plan.systems[system]
        self.reader: RowReader = source.reader(columns)
        wanted = plan.match_fields
        positions = self.reader.positions
        self.bindings = [
            (b.index, b.fields, tuple(positions[c] for c in b.columns), self.reader.identity[b.index])
            for b in source.bindings
            if b.reads and not wanted.isdisjoint(b.fields) and all(positions[c] >= 0 for c in b.columns)
        ]
        name = source.external_id
        self.tracked = frozenset(c.name for i, c in enumerate(columns) if i in positions)
        self.ext = next((i for i, c in enumerate(columns) if c.name == name), -1) if name else -1


class Spotter:
    """Read changes of one entity as `Sight`."""

    def __init__(self, plan: EntityPlan, codec: Codec) -> None:
        self._plan = plan
        self._codec = codec
        self._partials = Partials(codec)
        self._blank = [NULL] * len(plan.fields)
        self._given = {place: self._begun(p.given) for place, p in plan.places.items() if p.given}
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
        layout = self._layouts.get(schema_id(payload)) or self._layout(payload, change)
        keys = self._keys(layout, change, change.after, self._given.get(place, self._blank).copy())
        ext = None if layout.ext < 0 else self._ext(layout, change, change.after)
        return Sight(place, native, change.position, keys, ext, False, partition, offset, payload)

    def join(self, older: Sight, newer: Sight, /) -> Sight:
        """See `processors.identity_rules.Joiner`."""
        *earlier, payload = self._partials.join((*older.earlier, older.payload, *newer.earlier, newer.payload))
        newest = newer if newer.position >= older.position else older
        golden, keys, ext = self._given.get(newest.place, self._blank).copy(), newest.keys, newest.ext
        if earlier:
            ext = None
            for part in self._partials.runs((*earlier, payload)):
                change = self._partials.read(part)
                layout = self._layout(part, change)
                row = change.after or []
                keys = self._keys(layout, change, row, golden)  # golden goes on from one to the next
                shown = self._ext(layout, change, row)
                ext = ext if shown is None else shown
        return replace(newest, keys=keys, ext=ext, payload=payload, earlier=tuple(earlier))

    def version(self, write: bytes, /) -> int:
        """See `processors.identity_rules.Joiner`."""
        try:
            return decode_long(write, decode_bytes(write, 5)[1])[0]
        except IndexError:
            return 0

    def partial(self, sight: Sight, /) -> bool:
        """See `processors.identity_rules.Joiner`."""
        change = self._partials.read(sight.payload)
        absent = change.absent & self._layout(sight.payload, change).tracked if change.absent else change.absent
        return bool(absent) and not absent <= {c for p in sight.earlier for c in told(self._partials.read(p))}

    def parts(self, sight: Sight, /, *, linked: bool) -> list[Sight]:
        """See `processors.identity_rules.Joiner`."""
        kept = [*sight.earlier, sight.payload]
        parts = self._partials.first_sight(kept) if linked else kept
        return [replace(sight, position=value_position(p), payload=p, earlier=()) for p in parts]

    def _begun(self, given: Given) -> list[bytes]:
        """Return golden values that hold what every record of a tenant has, and nothing else yet."""
        values = self._blank.copy()
        for f, value in given:
            values[f] = value
        return values

    def _layout(self, payload: bytes, change: Change) -> _Layout:
        number = schema_id(payload)
        layout = self._layouts.get(number)
        if layout is None:
            layout = self._layouts[number] = _Layout(self._plan, change.system, change.columns)
        return layout

    @staticmethod
    def _ext(layout: _Layout, change: Change, row: list[bytes]) -> str | None:
        if layout.ext < 0 or change.columns[layout.ext].name in change.absent:
            return None
        value = decode_slice(change.columns[layout.ext].type, row[layout.ext])
        return "" if value is None else str(value).lower()

    def _keys(self, layout: _Layout, change: Change, row: list[bytes], golden: list[bytes]) -> tuple[str, ...]:
        """Put what a row says into golden values, and return the match keys that they give."""
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
