"""Ports on 127.0.0.1 that stay the same over restarts."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from tidelock.errors import Fatal

HOST = "127.0.0.1"
_LOWEST = 15_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not hinder a server
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Return whether something accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=timeout_s):
        return True
    return False


def free_port(taken: set[int]) -> int:
    """Return a free port that is not in `taken`, below the range from which the kernel serves outgoing connections.

    A client that keeps dialling a dead server could else be given the server's own port, and hold it.
    """
    top = 32_768
    with contextlib.suppress(OSError, ValueError):
        top = int(_RANGE_FILE.read_text(encoding="ascii").split()[0])
    low, high = (_LOWEST, top) if top > _LOWEST + 1_000 else (_LOWEST, 65_536)
    for _ in range(2_000):
        port = random.randrange(low, high)
        if port not in taken and is_free(port):
            return port
    raise Fatal(f"no free port between {low} and {high} on {HOST}", hint="Stop what holds them: `ss -ltn` lists it.")
