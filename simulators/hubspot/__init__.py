"""The HubSpot simulator: one portal with its CRM objects, apps, limits and webhooks."""

from __future__ import annotations

from simulators.hubspot.simulator import HubSpotSimulator

__all__ = ["HubSpotSimulator"]
