"""How APIs are reached: one client with tokens, limits and repetition, and what a connector tells of its vendor."""

from __future__ import annotations
