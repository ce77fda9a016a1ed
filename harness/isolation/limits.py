"""What a runner may take, and how it is watched from outside: by CPU time, not by the clock.

How busy the machine is changes nothing: CPU time is what the runner itself has used, all threads
and children together. The clock counts only while the runner uses no CPU and nothing of it waits
for one: then it waits for something that does not come.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

DEFAULT_SECONDS = 120.0
"""CPU seconds that any call of a hook may take, however quick untiled is."""
TIMES_UNTILED = 30.0
"""A call may take this many times the CPU time of untiled, on the same device in the same dtype:
tiles of a pixel with wide overlaps, the dearest that was seen, take 20."""
LOADING = 120.0
"""CPU seconds that importing a hook may take: torch and diffusers take five."""
IDLE = 60.0
"""Seconds of the clock after which a runner that uses no CPU is ended."""
LATE = 2.0
"""The runner cuts a call short itself; one that is stuck in C, where it cannot, is ended when it
has used this many times what it may take, and `GRACE` more."""
GRACE = 10.0
"""CPU seconds."""
SHARE = 0.8
"""Part of the free memory that the runners of all workers may take together."""
EVERY = 0.25
"""Seconds between two looks at a runner."""

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds_for(least: float, untiled: float) -> float:
    """CPU seconds that a call may take, where untiled takes so many."""
    return max(least, TIMES_UNTILED * untiled)


def memory_share(workers: int) -> int:
    """Bytes that the runner of one worker may take beyond what it has at its start."""
    return int(psutil.virtual_memory().available * SHARE / workers)


def limit_memory(share: int) -> None:
    """Let this process take so many bytes more, and no more; shared mappings count as well.

    An allocation beyond it fails inside the hook, which is then the hook's failure.
    """
    held = _own_size()
    for limit, now in ((resource.RLIMIT_AS, held[0]), (resource.RLIMIT_DATA, held[1])):
        _, hard = resource.getrlimit(limit)
        wanted = now + share
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (most, most))


def _own_size() -> tuple[int, int]:
    """Bytes of address space and of data of this process."""
    memory = psutil.Process().memory_info()
    return int(memory.vms), int(memory.data)


@dataclass
class Watch:
    """Looks at a runner from outside, stretch by stretch."""

    process: int
    idle: float = IDLE
    most_memory: int = 0
    """Bytes in memory at which it is ended, 0 for no limit; a hook may have lifted its own."""
    _allowed: float = LATE * LOADING + GRACE
    _from: float = 0.0
    _last: float = -1.0
    _moved: float = field(default_factory=time.monotonic)

    def begin(self, seconds: float) -> None:
        """A stretch begins that may take so many CPU seconds; 0 for the harness's own work."""
        self._allowed = LATE * (seconds or LOADING) + GRACE
        self._from = self._last = self.used()
        self._moved = time.monotonic()

    def used(self) -> float:
        """CPU seconds so far, of the runner and of its children."""
        return sum(map(_cpu, (self.process, *_descendants(self.process))))

    def verdict(self) -> str | None:
        """Why the runner is to be ended now; ``None`` while it is not."""
        family = (self.process, *_descendants(self.process))
        used = sum(map(_cpu, family))
        if used - self._from > self._allowed:
            return (
                f"still running after {used - self._from:.0f} s of CPU time, stuck where it could "
                "not be interrupted"
            )
        now = time.monotonic()
        if used > self._last or any(map(_is_busy, family)):
            self._last, self._moved = used, now
        elif now - self._moved > self.idle:
            return f"waiting for {self.idle:g} s without using the CPU"
        if self.most_memory and (taken := sum(map(_resident, family))) > self.most_memory:
            return f"taking {taken / 2**30:.1f} GiB of memory"
        return None


def _stat(process: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; none where the process is gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cpu(process: int) -> float:
    """Seconds of a process and of those of its children that have ended."""
    fields = _stat(process)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _is_busy(process: int) -> bool:
    """Whether a thread runs, waits for a CPU, or for the disk."""
    try:
        threads = [entry.name for entry in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return False
    return any(_state(process, thread) in ("R", "D") for thread in threads)


def _state(process: int, thread: str) -> str:
    try:
        text = Path(f"/proc/{process}/task/{thread}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def _resident(process: int) -> int:
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        return 0


def _descendants(process: int) -> list[int]:
    """Children and theirs, as the kernel lists them: far cheaper than a look at every process."""
    found: list[int] = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in listed.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found
