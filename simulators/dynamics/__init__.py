"""Dynamics 365 / Dataverse: the Web API 9.2 and the directory that issues its tokens."""

from __future__ import annotations

from simulators.dynamics.simulator import DynamicsSimulator

__all__ = ["DynamicsSimulator"]
