"""How a record's key in its own system is spelt as one text: capture spells it, sinks take it apart.

One key column: its text as it is. Several: their texts joined by ``|``, with ``|`` and ``\\`` in them escaped by ``\\``.
"""

from __future__ import annotations

from collections.abc import Sequence


def native_key(parts: Sequence[str]) -> str:
    """Spell a key from the texts of its columns, in the order of `TableSpec.key`."""
    if len(parts) == 1:
        return parts[0]
    return "|".join([part.replace("\\", "\\\\").replace("|", "\\|") for part in parts])


def split_native_key(text: str, columns: int) -> list[str]:
    """Take a key apart into the texts of its ``columns``. Raises ValueError if it has another number of parts."""
    if columns == 1:
        return [text]
    parts, part, escaped = [], [], False
    for ch in text:
        if escaped:
            part.append(ch)
            escaped = False
        elif ch == "\\":
            escaped = True
        elif ch == "|":
            parts.append("".join(part))
            part = []
        else:
            part.append(ch)
    parts.append("".join(part))
    if escaped or len(parts) != columns:
        raise ValueError(f"the native key {text!r} does not have {columns} parts")
    return parts
