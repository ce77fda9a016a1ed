"""Everything a run did on a device, in order: kernels, copies, waits, and host work.

A trace is a row of small numbers. Each stands for one kind of event (the same kernel on the same
shapes, the same copy), of which a run has few, however long it is; so a million kernels take
4 MiB, and counting them is one pass over the row. ``vae_compat.device.estimate`` plays a trace on
the clocks of a GPU.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import NamedTuple

DEFAULT_STREAM = 0


class Part(NamedTuple):
    """One kernel of an operation: what a GPU pays for it."""

    work: str
    """``memory`` (every element once), ``transpose`` (tiles of cuDNN into another layout, rows
    into one piece), ``relayout`` (PyTorch's element-wise copy into another layout),
    ``convolution``, ``matmul``, ``attention``, or ``statistics`` (one block per item and
    group)."""
    nbytes: int
    """Bytes read and written."""
    flops: int = 0
    dtype: str = ""
    """Dtype of the numbers that are multiplied or added up; empty where none are."""
    blocks: int = 0
    """Thread blocks, where they are so few that they bound the time; else 0."""
    elements: int = 0
    """Numbers that these blocks read."""


class Kernels(NamedTuple):
    """What one operation ran on the device."""

    name: str
    stream: int
    read: int
    """Bytes of its inputs, scratch included."""
    written: int
    parts: tuple[Part, ...]


class Copied(NamedTuple):
    """Bytes that crossed between host and device."""

    direction: str
    """``host_to_device`` or ``device_to_host``."""
    stream: int
    nbytes: int
    pinned: bool
    """Whether the memory on the host that the copy engine sees is pinned."""
    blocking: bool
    """Whether the host waits for it: ``non_blocking`` was not asked for."""
    strided: bool
    """Whether either side had to be packed first, or converted."""


class HostWork(NamedTuple):
    """The CPU computed or packed; bytes read and written."""

    nbytes: int


class HostAllocation(NamedTuple):
    """Memory of the host was written whose pages had not been touched before."""

    nbytes: int
    shared: bool
    """Whether the host's cores did it together; else the one thread of the driver."""


class Waited(NamedTuple):
    """The host stood still until the device had come so far."""

    cause: str
    """``read`` (one number, as ``.item()`` or ``if``), ``nonzero``, ``synchronize``."""
    stream: int
    """-1 for the whole device."""
    event: int = -1
    """The event waited for, where it was one."""


class Recorded(NamedTuple):
    """An event was recorded in a stream."""

    stream: int
    event: int


class Ordered(NamedTuple):
    """A stream was told to wait for an event."""

    stream: int
    event: int


class Collected(NamedTuple):
    """``gc.collect()``."""


class CacheCleared(NamedTuple):
    """``torch.cuda.empty_cache()``."""


Kind = (
    Kernels
    | Copied
    | HostWork
    | HostAllocation
    | Waited
    | Recorded
    | Ordered
    | Collected
    | CacheCleared
)


class Trace:
    """The events of one device while it is metered."""

    def __init__(self) -> None:
        self.on = 0
        """How many readings are open; nothing is recorded while there is none."""
        self.stream = DEFAULT_STREAM
        """The current stream of the thread that runs now."""
        self.kinds: list[Kind] = []
        self.codes: dict[Hashable, int] = {}
        self.events = array("I")

    def intern(self, key: Hashable, kind: Kind) -> int:
        """The number that stands for a kind of event."""
        code = self.codes.get(key)
        if code is None:
            code = self.codes[key] = len(self.kinds)
            self.kinds.append(kind)
        return code

    def note(self, kind: Kind) -> None:
        """Write an event down."""
        if self.on:
            self.events.append(self.intern((type(kind), kind), kind))

    def clear(self) -> None:
        """Forget all events; the numbers that stand for them stay."""
        del self.events[:]

    def since(self, start: int) -> Stretch:
        """What was written down from an index on."""
        return Stretch(self.kinds, self.events[start:])


class Stretch:
    """The events of one reading."""

    def __init__(self, kinds: list[Kind], events: array[int]) -> None:
        self.kinds = kinds
        self.events = events

    def __iter__(self) -> Iterator[Kind]:
        kinds = self.kinds
        return (kinds[code] for code in self.events)

    def __len__(self) -> int:
        return len(self.events)

    def counts(self) -> list[tuple[Kind, int]]:
        """Every kind of event there was, and how often."""
        kinds = self.kinds
        return [(kinds[code], times) for code, times in sorted(Counter(self.events).items())]
