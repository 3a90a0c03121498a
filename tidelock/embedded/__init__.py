"""The embedded stack: real Kafka, schema registry and PostgreSQL without Docker, in one data folder."""

from __future__ import annotations

from tidelock.embedded.service import ServiceStatus
from tidelock.embedded.stack import Endpoints, Stack

__all__ = ["Endpoints", "ServiceStatus", "Stack"]
