"""Become another program: new session, other user, signal on the parent's death. Run as a script; imports only the library.

    python launch.py '{"uid": null, "gid": null, "parent": 123, "signal": 15, "cwd": "/", "umask": 63}' program argument…

Python's own `preexec_fn` is not safe in a process with threads, and the signal must be asked for after the user changes,
because that change clears it. `parent` is null for services that are to outlive their starter.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Apply the options of the first argument, then run the rest in place of this process."""
    options = json.loads(sys.argv[1])
    os.setsid()
    os.umask(options["umask"])
    if options["uid"] is not None:
        os.setgroups([])
        os.setgid(options["gid"])
        os.setuid(options["uid"])
    os.chdir(options["cwd"])
    if options["parent"] is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, options["signal"], 0, 0, 0)
        if os.getppid() != options["parent"]:
            sys.exit("the starting process ended before the service began")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - starting a program without a shell is the point


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[2]}: {error}")
