"""The shop does what its OpenAPI document says: schemathesis writes the calls and judges the answers."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "openapi" / "shop.yaml"
