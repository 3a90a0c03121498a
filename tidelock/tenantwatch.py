"""Notice, while an installation runs, that tenants have come, gone or changed what the hub's plans know of them."""

from __future__ import annotations

import threading

import structlog

from tidelock.central import Central
from tidelock.config import Config
from tidelock.errors import TidelockError
from tidelock.tenants import Tenants, with_tenants

EVERY_S = 3.0

log = structlog.get_logger()


class TenantWatch:
    """Look every few seconds, in a thread of its own: a database that hangs must not keep anybody from restarting workers.

    ``config`` is the configuration with the tenants of the moment it was made. Raises Retry or Fatal if they cannot be read then.
    """

    def __init__(self, config: Config, central: Central, every_s: float = EVERY_S) -> None:
        self._base = config
        self._central = central
        self._tenants = Tenants(config, central)
        self._every_s = every_s
        self._stop = threading.Event()
        self._version = self._tenants.version()
        self.config = self._told = with_tenants(config, central)
        self._thread = threading.Thread(target=self._run, name="tenant watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._central.close()

    def changed(self) -> Config | None:
        """Return the configuration as it is to be now, if that is news since the last time."""
        found = self.config  # looked at once: the thread may put the next one there at any moment
        if found is self._told:
            return None
        self._told = found
        return found

    def _run(self) -> None:
        reachable = True
        while not self._stop.wait(self._every_s):
            try:
                self._look()
                reachable = True
            except TidelockError as error:
                if reachable:
                    log.warning(str(error), action="tenants_unknown")
                reachable = False

    def _look(self) -> None:
        version = self._tenants.version()
        if version != self._version:
            found = with_tenants(self._base, self._central)
            self._version = version
            if found != self.config:
                self.config = found
