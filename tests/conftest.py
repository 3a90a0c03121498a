"""Fixtures live in plugin files by subject; this file only names them."""

pytest_plugins = ["tests.fix_stack", "tests.fix_installation", "tests.integration.pgsource"]
