"""The counters of a reading, added up from its trace."""

from __future__ import annotations

from collections import Counter

from vae_compat.device.meter import Copies, Reading, Waits
from vae_compat.device.trace import (
    CacheCleared,
    Collected,
    Copied,
    Kernels,
    Stretch,
    Waited,
)


def summarize(reading: Reading, trace: Stretch) -> None:
    """Fill in kernels, bytes, copies, waits and calls."""
    kernels = read = written = collections = clears = 0
    waits: Counter[str] = Counter()
    counts: Counter[tuple[str, bool, bool, bool]] = Counter()
    sizes: Counter[tuple[str, bool, bool, bool]] = Counter()
    for kind, times in trace.counts():
        match kind:
            case Kernels():
                kernels += times * len(kind.parts)
                read += times * kind.read
                written += times * kind.written
            case Copied():
                way = (kind.direction, kind.pinned, kind.blocking, kind.strided)
                counts[way] += times
                sizes[way] += times * kind.nbytes
                waits["copy"] += times * kind.blocking
            case Waited():
                waits[kind.cause] += times
            case Collected():
                collections += times
            case CacheCleared():
                clears += times
    reading.kernels = kernels
    reading.bytes_read = read
    reading.bytes_written = written
    reading.copies = tuple(sorted(Copies(*way, counts[way], sizes[way]) for way in counts))
    reading.waits = Waits(**waits)
    reading.collections = collections
    reading.cache_clears = clears
    reading.trace = trace
