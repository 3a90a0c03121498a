"""Fixtures live in plugin files by subject; this file names them, and takes the clock out of Hypothesis."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fix_stack", "tests.fix_installation", "tests.integration.pgsource"]

# An example that takes long tells of the machine, not of the code.
settings.register_profile("tidelock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidelock")
