"""The CSV of bulk jobs: delimiters, line endings, ``#N/A`` and columns that name a parent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from simulators.salesforce.errors import Refusal

DELIMITERS = {"BACKQUOTE": "`", "CARET": "^", "COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "TAB": "\t"}
ENDINGS = {"LF": "\n", "CRLF": "\r\n"}
_LONGEST_FIELD = 32_000
_MOST_FIELDS = 5_000
_LONGEST_RECORD = 400_000
NULL = "#N/A"

csv.field_size_limit(200 * 1024 * 1024)


def rows(data: bytes, delimiter: str) -> Iterator[list[str]]:
    """Yield the lines, the first with the names of the columns. Raises Refusal (InvalidBatch)."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal("InvalidBatch", "InvalidBatch : the data is not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[delimiter], strict=True)
    try:
        for line in reader:
            if line:
                yield line
    except csv.Error as error:
        raise Refusal("InvalidBatch", f"InvalidBatch : Failed to parse CSV. {error}") from None


def record(header: Sequence[str], line: Sequence[str]) -> dict[str, Any]:
    """Return a line as a record: empty cells are left out, ``#N/A`` is null. Raises Refusal."""
    if len(line) != len(header):
        raise Refusal(
            "INVALID_INPUT", f"The number of columns ({len(line)}) is not that of the header ({len(header)})", fields=[]
        )
    if len(line) > _MOST_FIELDS or sum(map(len, line)) > _LONGEST_RECORD:
        raise Refusal("INVALID_INPUT", "record is too big", fields=[])
    out: dict[str, Any] = {}
    for name, value in zip(header, line, strict=True):
        if value == "":
            continue
        if len(value) > _LONGEST_FIELD:
            raise Refusal(
                "STRING_TOO_LONG", f"{name}: data value too large (max length={_LONGEST_FIELD})", fields=[name]
            )
        given = None if value == NULL else value
        parent, dot, field = name.partition(".")
        if dot:
            out[parent] = {field: given}
        else:
            out[name] = given
    return out


def written(header: Sequence[str], lines: Iterable[Sequence[str]], delimiter: str, ending: str) -> bytes:
    """Return lines as CSV with every cell in quotes, as results come."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=DELIMITERS[delimiter], lineterminator=ENDINGS[ending], quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows(lines)
    return out.getvalue().encode()


def cell(value: Any) -> str:
    """Return a value as results spell it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and len(value) == 28 and value.endswith("+0000"):
        return f"{value[:-5]}Z"
    return str(value)
