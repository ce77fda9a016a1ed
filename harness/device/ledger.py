"""Accounting of a simulated accelerator: live and peak bytes, allocations, transfers, work done.

Sizes are rounded up to 512 bytes each, as the CUDA caching allocator does (``kMinBlockSize`` and
``round_size`` in pytorch's ``c10/cuda/CUDACachingAllocator.cpp``). What that allocator does on top
(splitting cached segments, fragmentation) and the scratch memory of cuDNN and cuBLAS are not
modelled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vae_compat.device.hostmemory import Host, Level
from vae_compat.device.meter import Convolution, Product, Reading
from vae_compat.device.order import Order, Use, Uses
from vae_compat.device.summary import summarize
from vae_compat.device.trace import DEFAULT_STREAM, Trace, Waited

ROUNDING = 512
"""Bytes; every allocation takes a multiple of it."""


def taken(nbytes: int) -> int:
    """Bytes that an allocation of this size takes."""
    return -(-nbytes // ROUNDING) * ROUNDING


@dataclass
class Tally:
    """What was counted in one stretch."""

    host_to_device: int = 0
    device_to_host: int = 0
    flops: int = 0
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    products: dict[Product, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Put what ``other`` counted on top."""
        self.host_to_device += other.host_to_device
        self.device_to_host += other.device_to_host
        self.flops += other.flops
        for convolution, times in other.convolutions.items():
            self.convolutions[convolution] = self.convolutions.get(convolution, 0) + times
        for product, times in other.products.items():
            self.products[product] = self.products.get(product, 0) + times

    def told(self, reading: Reading) -> None:
        """Put the work that was counted into a reading."""
        reading.flops = self.flops
        reading.convolutions = self.convolutions
        reading.products = self.products


class Peak:
    """The highest number of live bytes since some moment."""

    __slots__ = ("high",)

    def __init__(self, high: int) -> None:
        self.high = high


class Block:
    """One allocation, shared by every tensor that views it; gone when the last of them is."""

    __slots__ = ("born", "ledger", "size", "source", "uses")

    def __init__(self, ledger: Ledger, size: int, source: torch.Tensor | None = None) -> None:
        self.ledger = ledger
        self.size = size
        self.source = source
        """The tensor on the host whose storage this is: a parameter that was placed."""
        self.born = ledger.allocations
        self.uses: Uses | None = None
        """Pending uses of it, where more than one stream works."""

    def __del__(self) -> None:
        ledger = self.ledger
        if ledger.lock is None:
            ledger.freed(self)
        else:
            with ledger.lock:
                ledger.freed(self)


class Ledger:
    """The accounts of one device."""

    def __init__(
        self, capacity: int | None, total: int, refuse: Callable[[Ledger, int], Exception]
    ) -> None:
        self.capacity = capacity
        self.total = total
        """Bytes of memory the device says it has."""
        self.live = 0
        self.allocations = 0
        """How many allocations were made since the device was opened."""
        self.tally = Tally()
        self.out_of_memory = 0
        """How often an allocation was refused."""
        self.owner: weakref.ref[Any] | None = None
        """The accelerator that these accounts belong to, while it is open."""
        self.client = Peak(0)
        """What ``torch.cuda.max_memory_allocated`` shows, reset by the code under test."""
        self.trace = Trace()
        self.host = Host(self.trace)
        self.order: Order | None = None
        """The order of the streams, once there are several or a non-blocking copy."""
        self.lock: AbstractContextManager[Any] | None = None
        """Held by the thread whose operation runs, once there is more than one thread."""
        self.capture: Any = None
        """The graph that is being captured, if one is."""
        self._accounting = True
        self.last: Reading | None = None
        """The reading that was begun last."""
        self.settled = 0
        """The number of allocations when the host last waited for the device."""
        self._recent = 0
        self._recent_scratch = 0
        self._scratch_peaks: list[Peak] = []
        self._peaks: list[Peak] = [self.client]
        self._limit: float = float("inf") if capacity is None else capacity
        self._refuse = refuse

    def allocate(self, nbytes: int, source: torch.Tensor | None = None) -> Block:
        """Bytes that stay live until the block dies.

        Raises:
            torch.OutOfMemoryError: where a capacity was set and does not hold them.
        """
        size = taken(nbytes) if self._accounting else 0
        live = self.live + size
        if live > self._limit:
            self.out_of_memory += 1
            raise self._refuse(self, nbytes)
        self.live = live
        if live > self._recent:
            self._recent = live
        if size:
            self.allocations += 1
        block = Block(self, size, source)
        if self.order is not None:
            block.uses = self.order.given(self.trace.stream, size)
        return block

    def scratch(self, nbytes: int) -> None:
        """Memory that a kernel takes for itself while it runs."""
        live = self.live + nbytes
        if live > self._recent_scratch:
            self._recent_scratch = live

    @contextmanager
    def unaccounted(self) -> Iterator[None]:
        """Allocations inside take nothing: they are in memory that is accounted already."""
        self._accounting = False
        try:
            yield
        finally:
            self._accounting = True

    def waited(self, cause: str, stream: int = -1, event: int = -1) -> None:
        """The host has waited for a stream, for all there is (-1), or for an event alone.

        Raises:
            RuntimeError: where a graph is being captured, which knows no host.
        """
        if self.capture is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.trace.note(Waited(cause, stream, event))
        if event >= 0:
            return
        if stream <= DEFAULT_STREAM:
            self.settled = self.allocations
        if self.order is not None:
            self.order.settle_stream(stream)

    def watch(self) -> Order:
        """Keep the order of streams from now on."""
        if self.order is None:
            self.order = self.host.order = Order()
        return self.order

    def used(self, block: Block, inner: torch.Tensor, moment: int, writes: bool, what: str) -> None:
        """A kernel or a copy of the current stream reads or writes a tensor of the device."""
        assert self.order is not None
        self.order.used(self.uses(block), inner, self.trace.stream, moment, writes, what)

    def uses(self, block: Block) -> Uses:
        """The uses of an allocation. One made before order was kept is the default stream's."""
        if block.uses is None:
            block.uses = Uses(0)
            if block.born > self.settled:
                block.uses.add(Use(0, 1, True, "what made it", None))
        return block.uses

    def handed_over(self, tensor: torch.Tensor) -> None:
        """A result leaves the device: the default stream, or the host, reads it."""
        order, reading = self.order, self.last
        if order is None or reading is None:
            return
        known = len(order.races)
        block = getattr(tensor, "_block", None)
        if block is None:
            self.host.touched(tensor, "the caller", writes=False)
        else:
            inner: torch.Tensor = tensor._inner  # type: ignore[attr-defined]
            order.used(self.uses(block), inner, DEFAULT_STREAM, 0, False, "the caller")
        reading.races += tuple(order.races[known:])

    def freed(self, block: Block) -> None:
        """Free an allocation whose last tensor is gone."""
        self.live -= block.size
        if block.uses is not None and self.order is not None:
            self.order.gone(block.uses, block.size)

    def resize(self, block: Block, nbytes: int) -> None:
        """The storage behind a block was made larger."""
        size = taken(nbytes)
        if size <= block.size:
            return
        grown = self.allocate(nbytes)
        grown.size, block.size = block.size, grown.size

    def pass_through(self, nbytes: int) -> None:
        """A temporary that is allocated and freed inside one operation."""
        self.allocate(nbytes)

    def settle(self) -> None:
        """Merge the recent high into every open peak, and restart from what is live."""
        for peak in self._peaks:
            peak.high = max(peak.high, self._recent)
        for peak in self._scratch_peaks:
            peak.high = max(peak.high, self._recent, self._recent_scratch)
        self._recent = self._recent_scratch = self.live

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
        reading = self.last = Reading(live_before=self.live)
        allocations = self.allocations
        self.settle()
        peak, scratch, level = Peak(self.live), Peak(self.live), Level()
        outer, self.tally = self.tally, Tally()
        trace = self.trace
        if not trace.on:
            trace.clear()
            self.settled = allocations
        start = len(trace.events)
        races = 0 if self.order is None else len(self.order.races)
        self._peaks.append(peak)
        self._scratch_peaks.append(scratch)
        self.host.levels.append(level)
        trace.on += 1
        try:
            yield reading
        finally:
            trace.on -= 1
            self.settle()
            self._peaks.remove(peak)
            self._scratch_peaks.remove(scratch)
            self.host.levels.remove(level)
            tally, self.tally = self.tally, outer
            outer.add(tally)
            reading.peak_bytes = peak.high
            reading.peak_with_workspaces = scratch.high
            reading.live_after = self.live
            reading.host_to_device = tally.host_to_device
            reading.device_to_host = tally.device_to_host
            reading.allocations = self.allocations - allocations
            tally.told(reading)
            reading.host = level.summary()
            reading.races = () if self.order is None else tuple(self.order.races[races:])
            summarize(reading, trace.since(start))
