"""What a runner may take, and how it is watched from outside: by CPU time, not by the clock.

How busy the machine is changes nothing: CPU time is what the runner itself has used, all threads
and children together. The clock counts only while the runner uses no CPU and nothing of it waits
for one: then it waits for something that does not come.
"""

from __future__ import annotations

import resource

import psutil

TIMES_UNTILED = 30.0
"""A call may take this many times the CPU time of untiled, on the same device in the same dtype:
tiles of one pixel with wide overlaps, the most expensive seen, take 20 times."""
LOADING = 120.0
"""CPU seconds that importing a hook may take: torch and diffusers take five."""
IDLE = 60.0
"""Seconds of the clock after which a runner that uses no CPU is ended."""
LATE = 2.0
"""The runner interrupts a call itself. One that is stuck in C, where it cannot, is ended when it
has used this many times its limit, plus `GRACE`."""
GRACE = 10.0
"""CPU seconds."""
SHARE = 0.8
"""Part of the free memory that the runners of all workers may take together."""
EVERY = 0.25
"""Seconds between two looks at a runner."""
LITTLE = 0.1
"""Share of one CPU below which a runner with no running thread counts as waiting: polling for an
event that does not come uses a little."""
REGAINED = 5.0
"""Seconds of waiting that one second of work makes up for."""
MOST_STRETCHES = 40
"""Attempts of a case that may each use their full limit: the longest sequence has some dozens.
"""


def seconds_for(least: float, untiled: float) -> float:
    """CPU seconds that a call may take, where untiled takes so many."""
    return max(least, TIMES_UNTILED * untiled)


def memory_share(workers: int) -> int:
    """Bytes that the runner of one worker may take beyond what it has at its start."""
    return int(psutil.virtual_memory().available * SHARE / workers)


def limit_memory(share: int) -> None:
    """Let this process take so many bytes more, and no more; shared mappings count as well.

    An allocation beyond it fails inside the hook, which is then the hook's failure. So does
    writing a file that is larger: it may be one in memory. CUDA maps far
    more than it uses, so on a GPU only the process that watches this one sets a limit.
    """
    import torch

    if torch.cuda.is_available():
        return
    space, data = _own_size()
    for limit, now in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        wanted = now + share
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (most, most))


def _own_size() -> tuple[int, int]:
    """Bytes of address space and of data of this process."""
    memory = psutil.Process().memory_info()
    return int(memory.vms), int(memory.data)
