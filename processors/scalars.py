"""One column (or piece of text) and one field: every option of a binding compiled into a reader per column type and a speller.

Order on reading: `trim` and `case`, value map, format (e-mail, telephone, country, currency), type, then validation (`values`,
`max_length`, `required`). Writing goes the other way. Blank text is null, except in plain strings, where it is kept as it is.

Decisions where the configuration leaves a choice:

* The key ``""`` of a value map stands for null and blank text, and is written as null. Of several spellings of one value the first
  is written. With `country` the map only adds spellings; writing follows `country`.
* `case` and `trim` hold in both directions.
* `overflow: reject` keeps the value back (Reject, ``too_long``), `truncate` cuts it to `size` characters, `flag` writes it whole,
  because the destination may know better than the configuration, and reports it (`BindingPlan.warn`).
* Thousands marks are accepted only where `decimal_separator` is stated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from processors import formats
from processors.plan import Identity
from processors.transforms import (
    SAME,
    SOURCES,
    TEXT,
    TEXTS,
    Convert,
    Parse,
    at_path,
    cast,
    cents_reader,
    date_parser,
    date_speller,
    decimal_reader,
    decimal_text,
    json_slice,
    literal,
    load_json,
    minor_reader,
    minor_units,
    number_text,
    parser,
    reject,
    string_of,
)
from tidelock.avro import NULL, FieldType, some_bytes, some_long
from tidelock.config import Binding, FieldSpec
from tidelock.errors import Reject

_NUMERIC = frozenset({FieldType.INTEGER, FieldType.NUMBER, FieldType.DECIMAL})
_MOMENTS = frozenset({FieldType.DATE, FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP})
_LOWER_EMAIL = re.compile(rb"[a-z0-9!#$%&'*+/=?^_`{|}~.-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+").fullmatch
_BOOLEAN_WORDS = {"true": ("true", "t", "1", "yes", "y"), "false": ("false", "f", "0", "no", "n")}


class Scalar:
    """How a column holds a field. ``whole=False``: one piece of a split column, which has no value map and no format of its own."""

    def __init__(self, name: str, spec: FieldSpec, binding: Binding, *, whole: bool = True) -> None:
        self.name, self.spec, self.binding = name, spec, binding
        self.type = spec.type
        self._mapped = binding.values if whole else None
        self._date_format = binding.date_format if whole and self.type in _MOMENTS else None
        self._separator = binding.decimal_separator if self.type in _NUMERIC else "."
        self._grouped = "decimal_separator" in binding.model_fields_set
        self._minor = formats.minor_digits(binding.currency) if whole and binding.minor_units else None
        self._format = spec.format or ("country" if binding.country else None)
        self._keeps_blank = self.type is FieldType.STRING and self._format is None
        self._touches_text = binding.trim or binding.case is not None
        self._path = tuple(binding.path.split(".")) if whole and binding.path else None
        self._check: Convert | None = None
        self._check = self._checks()
        self._map: dict[str, bytes] | None = None
        if self._mapped is not None:
            meaning = self._meaning(FieldType.STRING, configured=True)
            self._map = {self._shape(k): self._constant(v, meaning) for k, v in self._mapped.items()}
        self._strict = self._map is not None and binding.country is None
        self._null = (self._map or {}).get("", NULL)
        self._required = spec.required and binding.blank != "unknown" and self._null == NULL
        self.spell, self.write_type = self._speller(whole)
        self.plain = self._is_plain()

    @property
    def verbatim(self) -> bool:
        """Tell whether what is written is the canonical slice itself."""
        cut = self.binding.size is not None and self.binding.overflow == "truncate"
        return self._bare is _itself and not self._strict and self._path is None and not cut

    def _is_plain(self) -> bool:
        shaped = self._map is not None or self._touches_text or self._format is not None
        return self.verbatim and not shaped and bool(SAME[self.type])

    # ------------------------------------------------------------------------------------------------ reading

    def reader(self, kind: FieldType) -> tuple[Convert, Identity]:
        """Return the conversion of raw slices of a column type, and whether it changes anything."""
        same = kind in SAME[self.type]
        plain = self.plain and same
        identity = plain and self._check is None and not self._required
        if identity:
            return _itself, (True, True)
        return self._guarded(self._by_path(kind) if self._wants_path(kind) else self._converter(kind)), (False, plain)

    def parse(self, text: str) -> bytes:
        """Return the canonical slice of a text. Raises Reject."""
        try:
            return self._parser(FieldType.STRING)(text)
        except Reject as error:
            error.field = error.field or self.name
            raise

    def absent(self) -> bytes:
        """Return what a null means. Raises Reject if the field is required."""
        if self._required:
            raise Reject("the column is blank, and the field is required", kind="required", field=self.name)
        return self._null

    def _guarded(self, convert: Convert) -> Convert:
        absent, null, name = self.absent, None if self._required else self._null, self.name

        def read(raw: bytes) -> bytes:
            if raw[0] == 0:
                return absent() if null is None else null
            try:
                return convert(raw)
            except Reject as error:
                error.field = error.field or name
                raise

        return read

    def _wants_path(self, kind: FieldType) -> bool:
        unwrap = kind is FieldType.JSON and self.type not in (FieldType.JSON, FieldType.STRING)
        return self._path is not None or (unwrap and self._map is None)

    def _by_path(self, kind: FieldType) -> Convert:
        path = self._path or ()
        if kind not in (FieldType.JSON, FieldType.STRING):
            return self._impossible(kind)
        inner: dict[FieldType, Convert] = {}

        def convert(raw: bytes) -> bytes:
            found, value = json_slice(at_path(load_json(string_of(raw)), path))
            if value == NULL:
                return self.absent()
            known = inner.get(found)
            if known is None:
                known = inner[found] = self._converter(found)
            return known(value)

        return convert

    def _converter(self, kind: FieldType) -> Convert:
        """Return the conversion of non-null raw slices of a column type, the fastest there is."""
        if self._map is not None:
            return self._by_map(kind, self._map)
        numbered = self._date_format is not None and kind is FieldType.INTEGER  # 20241231
        if kind not in SOURCES[self.type] and not numbered:
            return self._impossible(kind)
        direct: Convert | None = None
        if not self._touches_text and self._format is None and self._minor is None:
            if kind in SAME[self.type]:
                direct = self._whole_text if self._required and kind in TEXTS else _itself
            elif self.type is kind is FieldType.DECIMAL:
                direct = decimal_reader(self.spec.scale)
            else:
                direct = cast(kind, self.type)
        elif self._minor is not None and kind is FieldType.INTEGER and self.type is FieldType.DECIMAL:
            direct = cents_reader(self._minor, self.spec.scale)
        if direct is not None:
            check = self._check
            if check is None:
                return direct
            if direct is _itself:
                return check
            convert, checked = direct, check
            return lambda raw: checked(convert(raw))
        parse = self._parser(kind)
        if self._format == "email" and kind in TEXTS and not self._touches_text and self._check is None:
            return lambda raw: raw if raw[1] < 0x80 and _LOWER_EMAIL(raw, 2) else parse(string_of(raw))
        text = TEXT[kind]
        return lambda raw: parse(text(raw))

    def _whole_text(self, raw: bytes) -> bytes:
        if len(raw) < 32 and not string_of(raw).strip():  # longer blanks are as blank, but nobody types them
            return self.absent()
        return raw

    def _by_map(self, kind: FieldType, known: dict[str, bytes]) -> Convert:
        parse, text = self._parser(kind), TEXT[kind]
        if kind is FieldType.STRING and not self._required:
            exact = {some_bytes(k.encode()): v for k, v in known.items()}

            def look_up(raw: bytes) -> bytes:
                found = exact.get(raw)
                return parse(string_of(raw)) if found is None else found

            return look_up
        if kind is FieldType.BOOLEAN:

            def word(raw: bytes) -> bytes:
                here = text(raw)
                return parse(next((w for w in _BOOLEAN_WORDS[here] if w in known), here))

            return word
        if kind is FieldType.DECIMAL:
            return lambda raw: parse(decimal_text(text(raw), None))
        return lambda raw: parse(text(raw))

    def _parser(self, kind: FieldType) -> Parse:
        """Return the parser of a text that a column of this type gave: map, format, type, validation."""
        known, strict = self._map, self._strict
        meaning, check = self._meaning(kind), self._check or _itself
        keeps_blank, required, absent = self._keeps_blank, self._required, self.absent
        shape: Callable[[str], str] = self._shape if self._touches_text else str

        def parse(text: str) -> bytes:
            text = shape(text)
            if known is not None:
                found = known.get(text)
                if found is None:
                    found = known.get(text.strip())
                if found is not None:
                    return absent() if found == NULL and required else found
                if strict:
                    if not text.strip():
                        return absent()
                    raise self._unmapped(text)
            if keeps_blank:
                return absent() if required and not text.strip() else check(meaning(text))
            text = text.strip()
            return check(meaning(text)) if text else absent()

        return parse

    def _unmapped(self, text: str) -> Reject:
        error = reject("unmapped_value", text, f"is not in the value map ({', '.join(self._map or ())})")
        error.hint = "add the spelling to `values` of the binding, or correct it in the system"
        return error

    def _shape(self, text: str) -> str:
        if self.binding.trim:
            text = text.strip()
        if self.binding.case is not None:
            text = text.upper() if self.binding.case == "upper" else text.lower()
        return text

    def _meaning(self, kind: FieldType, *, configured: bool = False) -> Parse:
        """Return the parser of text that is not blank: format and type only. ``configured``: as the configuration spells values."""
        if self._format is not None:
            return self._formatted(self._format)
        if self._date_format is not None and kind not in _MOMENTS and not configured:
            return date_parser(self.type, self._date_format)
        parse = parser(self.type, self.spec.scale)
        if self.type not in _NUMERIC:
            return parse
        typed = kind not in _NUMERIC and not configured
        separator, grouped = (self._separator, self._grouped) if typed else (".", False)
        if self._minor is not None and not configured:
            return minor_reader(parse, self._minor, grouped, separator)
        return (lambda text: parse(number_text(text, separator, grouped))) if typed else parse

    def _formatted(self, wanted: str) -> Parse:
        region = self.binding.region
        find: dict[str, tuple[Callable[[str], str | None], str, str]] = {
            "email": (formats.normal_email, "bad_email", "is not an e-mail address"),
            "phone": (
                lambda text: formats.normal_phone(text, region),
                "bad_phone",
                f"is not a telephone number in {region}" if region else "is not a telephone number with country code",
            ),
            "country": (formats.normal_country, "unknown_country", "is not a spelling of a country we know"),
            "currency": (formats.normal_currency, "unknown_currency", "is not an ISO 4217 currency code"),
        }
        normal, kind, what = find[wanted]

        def parse(text: str) -> bytes:
            found = normal(text)
            if found is None:
                raise reject(kind, text, what)
            return some_bytes(found.encode())

        return parse

    def _constant(self, value: Any, meaning: Parse) -> bytes:
        if value is None:
            return NULL
        kind, raw = literal(value)
        text = TEXT[kind](raw)
        return (self._check or _itself)(meaning(text))

    def _checks(self) -> Convert | None:
        name, limit = self.name, self.spec.max_length
        allowed: frozenset[bytes] | None = None
        if self.spec.values is not None:
            meaning = self._meaning(FieldType.STRING, configured=True)
            allowed = frozenset(meaning(v) for v in self.spec.values)
        listed = ", ".join(self.spec.values or ())
        kind = self.type
        if kind not in TEXTS:
            limit = None
        if allowed is None and limit is None:
            return None

        def check(value: bytes) -> bytes:
            if allowed is not None and value not in allowed and value != NULL:
                raise reject("not_allowed", TEXT[kind](value), f"is not one of {listed}")
            if limit is not None and len(value) - 2 > limit and len(string_of(value)) > limit:
                raise reject("too_long", string_of(value), f"has more than the {limit} characters that {name} may have")
            return value

        return check

    def _impossible(self, kind: FieldType) -> Convert:
        def convert(_raw: bytes) -> bytes:
            raise Reject(
                f"a column of type {kind.value} cannot be read into a field of type {self.type.value} without guessing",
                kind="no_conversion",
                field=self.name,
                hint="give the binding a `values` map or a `date_format`, or change the field's type",
            )

        return convert

    # ------------------------------------------------------------------------------------------------ writing

    def _speller(self, whole: bool) -> tuple[Convert, FieldType]:
        bare, kind = self._bare_speller()
        self._bare, null = bare, NULL
        if self._map is not None and self._strict:
            spelt = [k for k, v in self._map.items() if v == NULL and k]
            null = some_bytes(spelt[0].encode()) if spelt else NULL
        name, cut = self.name, self._cut if whole and kind in TEXTS and self.binding.size is not None else _itself

        def spell(value: bytes) -> bytes:
            if value == NULL:
                return null
            try:
                return cut(bare(value))
            except Reject as error:
                error.field = error.field or name
                raise

        return spell, kind

    def _bare_speller(self) -> tuple[Convert, FieldType]:
        if self._map is not None and self._strict:
            return self._inverse(self._map), FieldType.STRING
        if self._format == "country" and self.binding.country not in (None, "alpha_3"):
            names = formats.country_spellings(str(self.binding.country))
            spelt = {some_bytes(k.encode()): some_bytes(v.encode()) for k, v in names.items()}

            def country(value: bytes) -> bytes:
                found = spelt.get(value)
                if found is None:
                    raise reject("unknown_country", string_of(value), "is not an ISO 3166 alpha-3 code")
                return found

            return country, FieldType.STRING
        if self._date_format is not None:
            return date_speller(self.type, self._date_format), FieldType.STRING
        text = TEXT[self.type]
        if self._minor is not None:
            digits = self._minor
            return lambda value: some_long(minor_units(text(value), digits)), FieldType.INTEGER
        if self._separator == ",":
            return lambda value: some_bytes(text(value).replace(".", ",").encode()), FieldType.STRING
        if self._touches_text and self.type is FieldType.STRING:
            return lambda value: some_bytes(self._shape(string_of(value)).encode()), FieldType.STRING
        return _itself, self.type

    def _inverse(self, known: dict[str, bytes]) -> Convert:
        spelt: dict[bytes, bytes] = {}
        for text, value in known.items():
            if text:
                spelt.setdefault(value, some_bytes(text.encode()))
        if "" in known:
            spelt.setdefault(known[""], NULL)
        text_of = TEXT[self.type]

        def spell(value: bytes) -> bytes:
            found = spelt.get(value)
            if found is None:
                error = reject("unmapped_value", text_of(value), "has no spelling in the value map of this column")
                error.hint = "add the value to `values` of the binding"
                raise error
            return found

        return spell

    def _cut(self, raw: bytes) -> bytes:
        size = self.binding.size
        if size is None or len(raw) - 2 <= size or self.binding.overflow == "flag":
            return raw
        text = string_of(raw)
        if len(text) <= size:
            return raw
        if self.binding.overflow == "truncate":
            return some_bytes(text[:size].encode())
        raise reject("too_long", text, f"has more than the {size} characters that the column holds")

    def excess(self, raw: bytes) -> str | None:
        """Say what is wrong with a slice that is longer than the column's size; None if it fits."""
        size = self.binding.size
        if size is None or len(raw) - 2 <= size or len(text := string_of(raw)) <= size:
            return None
        return f"{text[:40]!r}... has {len(text)} characters; the column holds {size}; it is written whole"


def _itself(raw: bytes) -> bytes:
    return raw
