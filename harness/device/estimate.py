"""Estimates how long a run would take on a GPU, by replaying its trace on simulated clocks.

There is a clock for the host and one for each stream and copy engine. A kernel starts when the host
has launched it and its stream is free, and takes the longer of its FLOPs over the rate and its
bytes over the bandwidth (the roofline of ``torch.utils._runtime_estimation``), with the exceptions
that ``vae_compat.device.launches`` knows. Copies of pinned memory run beside kernels of other
streams; those of pageable memory hold the host. The time is the same on every machine. It is meant
for ratios between runs, not as a prediction.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vae_compat.device.meter import Estimate, Reading
from vae_compat.device.trace import (
    CacheCleared,
    Collected,
    Copied,
    HostAllocation,
    HostWork,
    Kernels,
    Kind,
    Ordered,
    Part,
    Recorded,
    Stretch,
    Waited,
)
from vae_compat.errors import UsageError

TABLE = Path(__file__).with_name("gpus.toml")
DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU with its host, in bytes, FLOPs and numbers per second; times in seconds."""

    name: str
    source: str
    """``measured`` or ``datasheet``."""
    multiprocessors: int
    memory: float
    bfloat16: float
    float16: float
    float32: float
    float64: float
    pinned_in: float
    pinned_out: float
    pageable_in: float
    pageable_out: float
    packed_share: float
    convolution_share: float
    attention_share: float
    transpose_share: float
    relayout_share: float
    block_halves: float
    block_floats: float
    smallest_kernel: float
    kernel_gap: float
    launch: float
    host_operation: float
    copy_latency: float
    wait_latency: float
    host_memory: float
    fresh_pages: float
    fresh_pages_shared: float
    collection: float
    cache_clear: float

    def rate(self, dtype: str) -> float:
        """FLOPs per second of large matrix products in a dtype."""
        return float(getattr(self, dtype)) if dtype in DTYPES else self.float32

    def block_rate(self, dtype: str) -> float:
        """Numbers that one thread block takes into its moments per second."""
        return self.block_halves if dtype in ("bfloat16", "float16") else self.block_floats

    def seconds(self, part: Part) -> float:
        """How long one kernel runs."""
        moving = part.nbytes / self.memory
        match part.work:
            case "transpose":
                taken = moving / self.transpose_share
            case "convolution":
                taken = max(moving, part.flops / (self.rate(part.dtype) * self.convolution_share))
            case "attention":
                taken = max(moving, part.flops / (self.rate(part.dtype) * self.attention_share))
            case "relayout":
                taken = moving / self.relayout_share
            case "statistics":
                taken = max(moving, part.elements / (part.blocks * self.block_rate(part.dtype)))
            case _:
                taken = max(moving, part.flops / self.rate(part.dtype))
        return max(taken, self.smallest_kernel)


@cache
def gpus() -> Mapping[str, Gpu]:
    """The GPUs that are known, by the names that profiles use."""
    table: dict[str, dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    common = table.pop("common")
    return {key: Gpu(**(common | rates)) for key, rates in table.items()}


def gpu_named(name: str) -> Gpu:
    """A GPU by its name.

    Raises:
        UsageError: for one that is not in the table.
    """
    known = gpus()
    if name not in known:
        raise UsageError(f"no rates are known for the GPU {name!r}: choose of {', '.join(known)}")
    return known[name]


def estimate(run: Reading | Stretch, gpu: str = "h200") -> Estimate:
    """The time that a metered run would take on a GPU.

    Raises:
        UsageError: for an unknown GPU, or a reading of a device that keeps no trace.
    """
    trace = run.trace if isinstance(run, Reading) else run
    if trace is None:
        raise UsageError("only the device 'sim' keeps the trace that a time is estimated from")
    return _Clocks(gpu_named(gpu)).play(trace)


class _Clocks:
    """Where host and streams stand, in seconds since the start, and who was waited for."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.host = 0.0
        self.streams: dict[int, float] = {}
        self.engines = {"host_to_device": 0.0, "device_to_host": 0.0}
        self.events: dict[int, float] = {}
        self.device: defaultdict[str, float] = defaultdict(float)
        """Seconds of work on the device, by cause."""
        self.blocked: defaultdict[str, float] = defaultdict(float)
        """Seconds of the host's own work, by cause."""
        self._kernels: dict[Kernels, tuple[float, tuple[tuple[str, float], ...]]] = {}

    def play(self, trace: Stretch) -> Estimate:
        steps: dict[type[Any], Callable[[Any], None]] = {
            Kernels: self._launch,
            Copied: self._copy,
            Waited: self._wait,
            Recorded: self._record,
            Ordered: self._order,
            HostWork: self._work,
            HostAllocation: self._touch,
            Collected: self._collect,
            CacheCleared: self._clear,
        }
        prepared = [(steps[type(kind)], kind) for kind in trace.kinds]
        for code in trace.events:
            step, kind = prepared[code]
            step(kind)
        end = max([self.host, *self.streams.values(), *self.engines.values()])
        return Estimate(self.gpu.name, end, self._shares(end))

    def _shares(self, end: float) -> dict[str, float]:
        """Host and device by cause; what neither explains goes into launching kernels."""
        causes = defaultdict(float, self.blocked)
        for cause, seconds in self.device.items():
            causes[cause] += seconds
        total = sum(causes.values())
        if end > total:
            causes["launching"] += end - total
        total = sum(causes.values()) or 1.0
        ordered = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
        return {cause: seconds / total for cause, seconds in ordered if seconds > 0}

    # -- steps ----------------------------------------------------------------------------------

    def _launch(self, kind: Kernels) -> None:
        known = self._kernels.get(kind)
        gpu = self.gpu
        if known is None:
            pairs = tuple((part.work, gpu.seconds(part)) for part in kind.parts)
            known = sum(taken for _, taken in pairs), pairs
            self._kernels[kind] = known
        seconds, times = known
        self.host += gpu.host_operation
        start = max(self.host + gpu.launch, self.streams.get(kind.stream, 0.0))
        self.streams[kind.stream] = start + seconds + len(times) * gpu.kernel_gap
        for work, taken in times:
            self.device[work] += taken

    def _copy(self, kind: Copied) -> None:
        gpu = self.gpu
        inward = kind.direction == "host_to_device"
        if kind.pinned:
            rate = gpu.pinned_in if inward else gpu.pinned_out
        else:
            rate = gpu.pageable_in if inward else gpu.pageable_out
            rate *= gpu.packed_share if inward and kind.strided else 1.0
        seconds = kind.nbytes / rate + gpu.copy_latency
        self.host += gpu.host_operation
        ready = max(self.streams.get(kind.stream, 0.0), self.engines[kind.direction], self.host)
        done = ready + seconds
        self.streams[kind.stream] = self.engines[kind.direction] = done
        self.device["pinned copies" if kind.pinned else "pageable copies"] += seconds
        if kind.blocking or not kind.pinned:
            self.host = done

    def _wait(self, kind: Waited) -> None:
        if kind.event >= 0:
            until = self.events.get(kind.event, 0.0)
        elif kind.stream >= 0:
            until = self.streams.get(kind.stream, 0.0)
        else:
            until = max([0.0, *self.streams.values(), *self.engines.values()])
        self.host = max(self.host, until) + self.gpu.wait_latency
        self.blocked["waits"] += self.gpu.wait_latency

    def _record(self, kind: Recorded) -> None:
        self.events[kind.event] = max(self.streams.get(kind.stream, 0.0), self.host)

    def _order(self, kind: Ordered) -> None:
        until = self.events.get(kind.event, 0.0)
        self.streams[kind.stream] = max(self.streams.get(kind.stream, 0.0), until)

    def _busy(self, cause: str, seconds: float) -> None:
        self.host += seconds
        self.blocked[cause] += seconds

    def _work(self, kind: HostWork) -> None:
        self._busy("work of the host", kind.nbytes / self.gpu.host_memory)

    def _touch(self, kind: HostAllocation) -> None:
        gpu = self.gpu
        rate = gpu.fresh_pages_shared if kind.shared else gpu.fresh_pages
        self._busy("fresh host memory", kind.nbytes / rate)

    def _collect(self, _: Collected) -> None:
        self._busy("gc.collect", self.gpu.collection)

    def _clear(self, _: CacheCleared) -> None:
        self._wait(Waited("synchronize", -1))
        self._busy("empty_cache", 2 * self.gpu.cache_clear)


__all__ = ["Estimate", "Gpu", "Kind", "estimate", "gpu_named", "gpus"]
