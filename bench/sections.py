"""What is measured of this project alone, by the name it has on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import apis, recovery, state, tenants, two_way
from bench.contestant import Say
from tidelock.embedded import Stack

# name → function(servers, folder, how many, say) → what is added to the results
Section = Callable[[Stack, Path, int, Say], dict[str, Any]]
SECTIONS: dict[str, Section] = {
    "two_way": two_way.measure,
    "recovery": recovery.measure,
    "state": state.measure,
    "tenants": tenants.measure,
    "apis": apis.measure,
}
