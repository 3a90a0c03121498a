"""The stack's state file: which processes are ours, and which ports they keep."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tidelock.embedded.process import Handle
from tidelock.embedded.service import Record
from tidelock.errors import Fatal

FILE_NAME = "stack.json"


def read_state(folder: Path) -> dict[str, Record]:
    """Read the records by service name; empty when there is no file. Raises Fatal when it cannot be understood."""
    path = folder / FILE_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: _record(entry) for name, entry in entries["services"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Fatal(f"cannot read {path}: {error.strerror}", hint="Run as the user who ran `tidelock up`.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Fatal(
            f"{path} cannot be understood: {error!r}",
            hint="Delete it and run `tidelock up`: servers still running are found again, the data is kept.",
        ) from error


def write_state(folder: Path, records: Mapping[str, Record]) -> None:
    """Write the records in one step, so that a crash leaves the old file or the new one."""
    entries = {
        name: {
            "pid": record.handle.pid if record.handle else None,
            "created": record.handle.created if record.handle else None,
            "ports": record.ports,
        }
        for name, record in records.items()
    }
    path = folder / FILE_NAME
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"services": entries}, indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise Fatal(f"cannot write {path}: {error.strerror}", hint="Free some space or fix its permissions.") from error


def _record(entry: Mapping[str, object]) -> Record:
    pid, created, ports = entry["pid"], entry["created"], entry["ports"]
    if not isinstance(ports, dict):
        raise TypeError("ports is not a mapping")
    handle = Handle(pid, float(created)) if isinstance(pid, int) and isinstance(created, (int, float)) else None
    return Record(handle, {str(name): int(port) for name, port in ports.items()})
