"""Keeps a hook that exhausts memory from taking the machine down with it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

SHARE = 0.8
"""Part of the free memory that the hooks of all processes may take together."""


@contextmanager
def limited_memory(processes: int) -> Iterator[None]:
    """Let this process take its share of what is free now, and no more.

    Beyond it an allocation fails inside the hook, which is then the hook's failure; without the
    limit the system would kill a process of its choice.
    """
    share = int(psutil.virtual_memory().available * SHARE / processes)
    held = int(psutil.Process().memory_info().data)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + share if hard == resource.RLIM_INFINITY else min(held + share, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
