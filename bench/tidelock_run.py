"""This project as a contestant: its own command, its own configuration file, one process per role, tracing and audit as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import psutil
import yaml

from bench.contestant import Contestant, Program, Scene
from bench.machine import Memory, cpu_s, memory
from tidelock.supervisor import read_status

_TYPES: dict[str, dict[str, Any]] = {
    "id": {"type": "integer"},
    **{name: {"type": "string"} for name in ("first_name", "last_name", "email", "phone", "city", "country", "status")},
    "balance": {"type": "decimal", "scale": 2},
    "updated_at": {"type": "timestamp"},
}


class Tidelock(Contestant):
    """`tidelock run` with a configuration of one entity."""

    name: ClassVar[str] = "tidelock"

    def __init__(self, scene: Scene, *, two_way: bool = False, partitions: int = 4) -> None:
        super().__init__(scene)
        self.config = scene.folder / "tidelock.yaml"
        self.data = scene.folder / "data"
        self.programs: dict[str, Program] = {}
        self._two_way = two_way
        self._partitions = partitions

    def start(self) -> None:
        """Write the configuration and start every worker."""
        self.configure()
        self.run("workers")

    def configure(self) -> dict[str, Any]:
        """Write the configuration file; return what it holds."""
        self.scene.folder.mkdir(parents=True, exist_ok=True)
        body = configuration(self.scene, self.data, two_way=self._two_way, partitions=self._partitions)
        self.config.touch(mode=0o600)
        self.config.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
        return body

    def run(self, title: str, *arguments: str) -> None:
        """Start `tidelock run` with these arguments; `title` names it here and its log."""
        program = Program(f"tidelock run ({title})", self.scene.folder / f"{title}.log")
        program.start(
            [sys.executable, "-m", "tidelock", "run", "--config", str(self.config), *arguments], self.scene.folder
        )
        self.programs[title] = program

    def stop(self) -> None:
        """Stop all that was started."""
        for program in self.programs.values():
            program.stop()
        self.programs.clear()

    def check(self) -> None:
        """Raise Fatal if a supervisor has died; it starts its workers again by itself."""
        for program in self.programs.values():
            program.check()

    def cpu_s(self) -> float:
        """Return the CPU seconds of all our processes: supervisors, their fork servers, workers."""
        return cpu_s(program.pid for program in self.programs.values())

    def workers(self) -> dict[str, int]:
        """Return process ids by role and slot."""
        found = {str(name): int(pid) for name, pid in read_status(self.data).get("workers", {}).items()}
        return {name: pid for name, pid in found.items() if psutil.pid_exists(pid)}

    def memory(self) -> dict[str, Memory]:
        """Return the memory of each worker."""
        return {name: found for name, pid in self.workers().items() if (found := memory(pid)) is not None}

    def about(self) -> dict[str, Any]:
        """Return which processes run."""
        return {"workers": sorted(self.workers()), "partitions": self._partitions}


def configuration(scene: Scene, data: Path, *, two_way: bool = False, partitions: int = 4) -> dict[str, Any]:
    """Return the configuration: contact from `source` to `target`, or both ways with both captured."""

    def system(dsn: str, capture: str) -> dict[str, Any]:
        table = {
            "table": "contact",
            "key": ["id"],
            "key_from": "id",
            "map": [{"column": name, "field": name} for name in _TYPES],
        }
        return {"kind": "postgres", "capture": capture, "dsn": dsn, "entities": {"contact": table}}

    flows = [{"entity": "contact", "from": "source", "to": "target"}]
    if two_way:
        flows.append({"entity": "contact", "from": "target", "to": "source"})
    return {
        "prefix": f"{scene.name}.",
        "partitions": partitions,
        "data": str(data),
        "kafka": {"bootstrap": scene.endpoints.kafka},
        "registry": {"url": scene.endpoints.registry},
        "systems": {
            "source": system(scene.source, "replication"),
            "target": system(scene.target, "replication" if two_way else "none"),
        },
        "entities": {"contact": {"fields": _TYPES, "match": [["id"]]}},
        "flows": flows,
    }


def log_end(contestant: Tidelock) -> str:
    """Return a short account of what the workers' log says of trouble, for messages."""
    lines: list[str] = []
    for program in contestant.programs.values():
        for line in program.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("level") in ("warning", "error"):
                lines.append(str(entry.get("event", line)))
    return "\n".join(lines[-10:])
