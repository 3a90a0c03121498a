"""What every worker is given: configuration, clients, names, counters. Built once per process by the CLI or a test."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tidelock.activity import Activity
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.kafka import KafkaClients
from tidelock.topics import Topics
from tidelock.tracing import Tracing

if TYPE_CHECKING:
    from tidelock.apis.access import Access


@dataclass
class Context:
    """One worker's surroundings. ``slot`` is the number of this worker within its role; ``stop`` ends its loop."""

    config: Config
    kafka: KafkaClients
    codec: Codec
    role: str
    slot: int = 0
    activity: Activity = field(init=False)
    topics: Topics = field(init=False)
    tracing: Tracing = field(init=False)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.topics = Topics(self.config.prefix)
        self.tracing = Tracing(self.config.tracing, self.role)
        self.activity = Activity(self.name, self.role)

    @property
    def name(self) -> str:
        """Return the stable name of this worker: role and slot."""
        return f"{self.config.prefix}{self.role}-{self.slot}"

    @property
    def data(self) -> Path:
        """Return the folder of this worker's local state; it may be lost at any time."""
        return self.config.data / "state" / f"{self.role}-{self.slot}"

    @cached_property
    def access(self) -> Access:
        """Return what reaches the tenants of systems behind APIs; made at the first use, closed by `close_access`."""
        from tidelock.apis.access import Access  # late: most workers reach no API

        return Access.of(self)

    def close_access(self) -> None:
        """Close what `access` has opened, if anything; it may be used again."""
        made: Access | None = vars(self).pop("access", None)
        if made is not None:
            made.close()
