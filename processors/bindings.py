"""One binding of the configuration as closures: how columns are read as fields, and fields written as columns.

Shapes of a binding: one column and one field; several columns joined into one field; one column split into several fields; a
reference; a constant. Decisions where the configuration leaves a choice:

* Splitting is from the left, and the last part takes what is left over. Parts are trimmed; missing ones are null.
* A `path` into a JSON column is read. It is written only if the binding states its `direction` and nothing else uses the column:
  then the column is ours, and a write replaces it whole. Otherwise a write would erase what stands beside the path.
* A `sensitive` column never holds the field's own value: ``drop`` is not read, ``mask`` and ``hash`` are read as they are, and none is
  written unless the binding says `direction: write`.
* The value of a field with `references` is ``system:native key`` as the system that was read has it; the sink resolves it. Where the
  system has several tenants it is ``system/tenant:native key``: each has keys of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

from processors.plan import BindingPlan, Identity, MakeRead, Read, Slices
from processors.scalars import Scalar
from processors.transforms import TEXT, TEXTS, literal
from tidelock.avro import NULL, FieldType, some_bytes
from tidelock.config import Binding, EntitySpec, FieldSpec, Sensitive
from tidelock.errors import Reject
from tidelock.nativekey import native_key

_DIFFERENT: Identity = (False, False)


def compile_binding(
    binding: Binding,
    number: int,
    system: str,
    spec: EntitySpec,
    index: dict[str, int],
    columns: dict[str, int],
    used: Counter[str],
    captured: bool,
) -> BindingPlan | None:
    """Return the plan of a binding; None if it only names a sensitive column.

    ``columns`` takes what is tracked, by name; ``used`` counts how many bindings name a column. Raises Reject or ValueError.
    """
    names, fields = binding.column_names, () if binding.constant is not None else binding.field_names
    reads, writes = _directions(binding, used)
    if (not fields and binding.constant is None) or not (reads or writes):
        return None
    warn: Callable[[Sequence[bytes]], str | None] | None = None
    plain, make_read = False, _NO_READ
    if binding.constant is not None:
        kind, raw = literal(binding.constant)
        write_types: tuple[FieldType, ...] = (kind,) * len(names)
        write = fixed((raw,) * len(names))
    elif len(fields) == 1 and spec.fields[fields[0]].references is not None:
        write_types = (FieldType.STRING,) * len(names)
        write, make_read = _repeated(len(names)), reference(system)
    elif len(fields) > 1:
        parts = [Scalar(f, spec.fields[f], binding, whole=False) for f in fields]
        write_types = (FieldType.STRING,)
        write, make_read = _join_fields(parts, binding), _split_column(parts, binding.separator)
    else:
        scalar = Scalar(fields[0], spec.fields[fields[0]], binding)
        if len(names) == 1:
            write_types, plain = (scalar.write_type,), scalar.plain if captured else scalar.verbatim
            write, make_read = _single_write(scalar, binding), _single_read(scalar)
            if binding.size is not None and binding.overflow == "flag" and scalar.write_type in TEXTS:
                warn = _warning(write, scalar)
        else:
            write_types = (FieldType.STRING,) * len(names)
            write = _split_field(scalar, binding.separator, len(names))
            make_read = _join_columns(scalar, binding.separator)
    places = tuple(columns.setdefault(c, len(columns)) for c in names)
    return BindingPlan(
        number,
        places,
        tuple(index[f] for f in fields),
        reads,
        writes,
        binding.blank == "unknown",
        binding.enforced,
        binding.constant is not None,
        plain,
        write_types,
        write,
        make_read,
        warn,
    )


def _directions(binding: Binding, used: Counter[str]) -> tuple[bool, bool]:
    reads = binding.direction != "write" and binding.constant is None
    writes = binding.direction != "read"
    stated = "direction" in binding.model_fields_set
    if binding.sensitive is not None:
        reads = reads and binding.sensitive is not Sensitive.DROP
        writes = binding.direction == "write"
    if binding.path is not None:
        writes = writes and stated and all(used[c] == 1 for c in binding.column_names)
    return reads, writes


def no_read(_kinds: tuple[FieldType, ...]) -> tuple[Read, Identity]:
    def read(_raw: Sequence[bytes]) -> Slices:
        raise Reject("this column is written, never read", kind="not_readable")

    return read, _DIFFERENT


_NO_READ: MakeRead = no_read


def fixed(raws: Slices) -> Callable[[Sequence[bytes]], Slices]:
    return lambda _values: raws


def _repeated(times: int) -> Callable[[Sequence[bytes]], Slices]:
    return lambda values: (values[0],) * times


def _single_read(scalar: Scalar) -> MakeRead:
    def make(kinds: tuple[FieldType, ...]) -> tuple[Read, Identity]:
        convert, identity = scalar.reader(kinds[0])
        return (lambda raw: (convert(raw[0]),)), identity

    return make


def _single_write(scalar: Scalar, binding: Binding) -> Callable[[Sequence[bytes]], Slices]:
    spell = scalar.spell
    if binding.path is None:
        return lambda values: (spell(values[0]),)
    # The column is ours: an object with nothing but this value in it. Strings and JSON need quoting, other types have JSON's spelling.
    head = "".join(f'{{"{name}":' for name in binding.path.split("."))
    tail = "}" * (binding.path.count(".") + 1)
    bare = (FieldType.INTEGER, FieldType.NUMBER, FieldType.DECIMAL, FieldType.BOOLEAN, FieldType.JSON)
    text = TEXT[scalar.write_type]

    def write(values: Sequence[bytes]) -> Slices:
        raw = spell(values[0])
        if raw == NULL:
            return (NULL,)
        inner = text(raw) if scalar.write_type in bare else json.dumps(text(raw), ensure_ascii=False)
        return (some_bytes(f"{head}{inner}{tail}".encode()),)

    return write


def _warning(write: Callable[[Sequence[bytes]], Slices], scalar: Scalar) -> Callable[[Sequence[bytes]], str | None]:
    return lambda values: scalar.excess(write(values)[0])


def reference(origin: str) -> MakeRead:
    head = f"{origin}:"

    def make(kinds: tuple[FieldType, ...]) -> tuple[Read, Identity]:
        texts = tuple(TEXT[k] for k in kinds)

        def read(raw: Sequence[bytes]) -> Slices:
            parts = [text(r) if r[0] else "" for text, r in zip(texts, raw, strict=True)]
            if not all(p.strip() for p in parts):
                return (NULL,)
            return (some_bytes((head + native_key(parts)).encode()),)

        return read, _DIFFERENT

    return make


def _join_columns(scalar: Scalar, separator: str) -> MakeRead:
    def make(kinds: tuple[FieldType, ...]) -> tuple[Read, Identity]:
        texts = tuple(TEXT[k] for k in kinds)

        def read(raw: Sequence[bytes]) -> Slices:
            parts = [text(r).strip() for text, r in zip(texts, raw, strict=True) if r[0]]
            joined = separator.join([p for p in parts if p])
            return (scalar.parse(joined) if joined else scalar.absent(),)

        return read, _DIFFERENT

    return make


def _split_field(scalar: Scalar, separator: str, width: int) -> Callable[[Sequence[bytes]], Slices]:
    text_of = TEXT[scalar.write_type]

    def write(values: Sequence[bytes]) -> Slices:
        raw = scalar.spell(values[0])
        parts = _parts(text_of(raw), separator, width) if raw != NULL else []
        return tuple([some_bytes(p.encode()) if p else NULL for p in parts] + [NULL] * (width - len(parts)))

    return write


def _split_column(parts: list[Scalar], separator: str) -> MakeRead:
    width = len(parts)

    def make(kinds: tuple[FieldType, ...]) -> tuple[Read, Identity]:
        text_of = TEXT[kinds[0]]

        def read(raw: Sequence[bytes]) -> Slices:
            texts = _parts(text_of(raw[0]), separator, width) if raw[0][0] else []
            texts += [""] * (width - len(texts))
            return tuple([part.parse(t) if t else part.absent() for part, t in zip(parts, texts, strict=True)])

        return read, _DIFFERENT

    return make


def _join_fields(parts: list[Scalar], binding: Binding) -> Callable[[Sequence[bytes]], Slices]:
    texts = [TEXT[p.write_type] for p in parts]
    own = {"column": binding.column_names[0], "field": "text", "size": binding.size, "overflow": binding.overflow}
    whole = Scalar("", FieldSpec(), Binding.model_validate(own))

    def write(values: Sequence[bytes]) -> Slices:
        spelt = [p.spell(v) for p, v in zip(parts, values, strict=True)]
        words = [text(raw).strip() for text, raw in zip(texts, spelt, strict=True) if raw != NULL]
        joined = binding.separator.join([w for w in words if w])
        return (whole.spell(some_bytes(joined.encode())) if joined else NULL,)

    return write


def _parts(text: str, separator: str, width: int) -> list[str]:
    """Cut a text from the left into at most ``width`` trimmed parts, blank ones at the front left out."""
    out: list[str] = []
    rest = text.strip()
    while rest and len(out) < width - 1:
        part, found, rest = rest.partition(separator)
        part, rest = part.strip(), rest.strip()
        if part:
            out.append(part)
        if not found:
            break
    if rest:
        out.append(rest)
    return out
