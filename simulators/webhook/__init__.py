"""The simulator of a system that speaks in webhooks."""

from __future__ import annotations

from simulators.webhook.simulator import WebhookSimulator

__all__ = ["WebhookSimulator"]
