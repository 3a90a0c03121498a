"""The simulator of the ERP web shop."""

from __future__ import annotations

from simulators.shop.simulator import ShopSimulator

__all__ = ["ShopSimulator"]
