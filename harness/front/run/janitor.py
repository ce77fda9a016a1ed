"""Cleans up after a run, however it ends. Run by path, without any package.

Its standard input is a pipe that only the run holds open. When that closes, every process whose
environment names the run is killed, and the run's folder is removed.
"""

import os
import shutil
import signal
import sys
import time

VARIABLE = "VAE_COMPAT_RUN"
"""Environment variable with the tokens of the runs that a process belongs to, ``:`` between."""
PATIENCE = 60.0
"""Seconds after which a process that cannot be killed is left to the system."""


def main() -> None:
    """Wait for the end of the run and clean up."""
    token, folder = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    until = time.monotonic() + PATIENCE
    while kill_all(token.encode()) and time.monotonic() < until:
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(token: bytes) -> int:
    """Kill every process of the run; returns how many there were."""
    killed = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and belongs(name, token):
            try:
                os.kill(int(name), signal.SIGKILL)
                killed += 1
            except (ProcessLookupError, PermissionError):
                pass
    return killed


def belongs(name: str, token: bytes) -> bool:
    """Whether the process with this id was started by the run."""
    try:
        with open(f"/proc/{name}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return False
    prefix = VARIABLE.encode() + b"="
    return any(
        entry.startswith(prefix) and token in entry[len(prefix) :].split(b":") for entry in entries
    )


if __name__ == "__main__":
    main()
