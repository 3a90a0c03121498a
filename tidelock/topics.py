"""The only place where topic names are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topics:
    """Make the topic names of one installation; ``prefix`` stands before each (for example ``"acme."``)."""

    prefix: str = ""

    def cdc(self, system: str, entity: str) -> str:
        return f"{self.prefix}cdc.{system}.{entity}"

    def journal(self, entity: str) -> str:
        return f"{self.prefix}journal.{entity}"

    def identity(self, entity: str) -> str:
        return f"{self.prefix}identity.{entity}"

    def hub(self, entity: str) -> str:
        return f"{self.prefix}hub.{entity}"

    def sync(self, system: str, entity: str) -> str:
        return f"{self.prefix}sync.{system}.{entity}"

    def links(self, entity: str) -> str:
        return f"{self.prefix}links.{entity}"

    def dlq(self, stage: str, system: str, entity: str) -> str:
        return f"{self.prefix}dlq.{stage}.{system}.{entity}"

    def state(self, stage: str, entity: str) -> str:
        return f"{self.prefix}state.{stage}.{entity}"

    def jobs(self, lane: str, system: str) -> str:
        """Name the jobs of one system's capture: ``increments`` or ``loads``."""
        return f"{self.prefix}jobs.{lane}.{system}"

    def ops(self, what: str) -> str:
        """Name one of ``activity``, ``audit``, ``conflicts``, ``alerts``, ``runs``, ``signals``."""
        return f"{self.prefix}ops.{what}"
