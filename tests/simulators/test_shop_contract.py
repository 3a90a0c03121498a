"""The shop does what its OpenAPI document says: schemathesis writes the calls and judges the answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis.config import SchemathesisConfig

from simulators.shop.contract import contract, written
from tests.simulators.shopping import Shop, customer, order
from tests.simulators.shopping import shop as serving

FILE = Path(__file__).parents[2] / "docs" / "openapi" / "shop.yaml"
