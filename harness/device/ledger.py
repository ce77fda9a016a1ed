"""Accounting of a simulated accelerator: live and peak bytes, allocations, transfers, work done.

Sizes are rounded up to 512 bytes each, as the CUDA caching allocator does (``kMinBlockSize`` and
``round_size`` in pytorch's ``c10/cuda/CUDACachingAllocator.cpp``). What that allocator does on top
(splitting cached segments, fragmentation) and the scratch memory of cuDNN and cuBLAS are not
modelled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vae_compat.device.meter import Convolution, Reading

ROUNDING = 512
"""Bytes; every allocation takes a multiple of it."""


@dataclass
class Tally:
    """What was counted in one stretch."""

    host_to_device: int = 0
    device_to_host: int = 0
    flops: int = 0
    convolutions: dict[Convolution, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Put what ``other`` counted on top."""
        self.host_to_device += other.host_to_device
        self.device_to_host += other.device_to_host
        self.flops += other.flops
        for convolution, times in other.convolutions.items():
            self.convolutions[convolution] = self.convolutions.get(convolution, 0) + times


class Peak:
    """The highest number of live bytes since some moment."""

    __slots__ = ("high",)

    def __init__(self, high: int) -> None:
        self.high = high


class Block:
    """One allocation, shared by every tensor that views it; gone when the last of them is."""

    __slots__ = ("ledger", "size", "source")

    def __init__(self, ledger: Ledger, size: int, source: torch.Tensor | None = None) -> None:
        self.ledger = ledger
        self.size = size
        self.source = source
        """The tensor on the host whose storage this is: a parameter that was placed."""

    def __del__(self) -> None:
        self.ledger.live -= self.size


class Ledger:
    """The books of one device."""

    def __init__(
        self, capacity: int | None, total: int, refuse: Callable[[Ledger, int], Exception]
    ) -> None:
        self.capacity = capacity
        self.total = total
        """Bytes of memory the device says it has."""
        self.live = 0
        self.allocations = 0
        """Of the device's whole life."""
        self.tally = Tally()
        self.out_of_memory = 0
        """How often an allocation was refused."""
        self.owner: weakref.ref[Any] | None = None
        """The accelerator whose books these are, while it is open."""
        self.client = Peak(0)
        """What ``torch.cuda.max_memory_allocated`` shows, reset by the code under test."""
        self._recent = 0
        self._peaks: list[Peak] = [self.client]
        self._limit: float = float("inf") if capacity is None else capacity
        self._refuse = refuse

    def allocate(self, nbytes: int, source: torch.Tensor | None = None) -> Block:
        """Bytes that stay live until the block dies.

        Raises:
            torch.OutOfMemoryError: where a capacity was set and does not hold them.
        """
        size = (nbytes + 511) & -512
        live = self.live + size
        if live > self._limit:
            self.out_of_memory += 1
            raise self._refuse(self, nbytes)
        self.live = live
        if live > self._recent:
            self._recent = live
        if size:
            self.allocations += 1
        return Block(self, size, source)

    def resize(self, block: Block, nbytes: int) -> None:
        """The storage behind a block was made larger."""
        size = (nbytes + 511) & -512
        if size <= block.size:
            return
        grown = self.allocate(nbytes)
        grown.size, block.size = block.size, grown.size

    def pass_through(self, nbytes: int) -> None:
        """A temporary that is allocated and freed inside one operation."""
        self.allocate(nbytes)

    def settle(self) -> None:
        """Write the recent high into every open peak, and start again from what is live."""
        for peak in self._peaks:
            peak.high = max(peak.high, self._recent)
        self._recent = self.live

    def reset_client_peak(self) -> None:
        """``torch.cuda.reset_peak_memory_stats``; open readings do not feel it."""
        self.settle()
        self.client.high = self.live

    def client_peak(self) -> int:
        """``torch.cuda.max_memory_allocated``."""
        return max(self.client.high, self._recent)

    @contextmanager
    def metered(self) -> Iterator[Reading]:
        """Count what happens inside; may be nested."""
        reading = Reading(live_before=self.live)
        allocations = self.allocations
        self.settle()
        peak = Peak(self.live)
        outer, self.tally = self.tally, Tally()
        self._peaks.append(peak)
        try:
            yield reading
        finally:
            self.settle()
            self._peaks.remove(peak)
            tally, self.tally = self.tally, outer
            outer.add(tally)
            reading.peak_bytes = peak.high
            reading.live_after = self.live
            reading.host_to_device = tally.host_to_device
            reading.device_to_host = tally.device_to_host
            reading.allocations = self.allocations - allocations
            reading.flops = tally.flops
            reading.convolutions = tally.convolutions
