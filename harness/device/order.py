"""The order in which streams work, and memory that two of them use without one.

Work in one stream runs in order; between streams, and between a stream and the host, order comes
from events and waits alone. Every stream has a vector clock: how far it knows the others to be
(Lamport's happens-before). A use of memory that is not ordered after an earlier use of the same
bytes, where either writes, is a race: it may go right a hundred times, and is found here each time.

The rules of memory are those of PyTorch's caching allocators: memory of the device goes back to
the stream it was allocated in and may be given out there at once, whatever other streams do with
it (``record_stream`` makes it wait for them), and another stream that is to use it must wait for
what ran there before; pinned memory waits for its copies.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vae_compat.device.places import calling_place

MOST_RACES = 20
"""At most this many races are described; an unordered loop has one at every place."""
SMALL_POOL = 2**20
"""Bytes; allocations up to this size have memory of their own (``kSmallSize``)."""

Clock = dict[int, int]


class Region(NamedTuple):
    """Where a tensor lies in its storage, in elements."""

    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    low: int
    """First byte."""
    high: int
    """Byte after the last."""

    def meets(self, other: Region) -> bool:
        """Whether two regions of one storage share a byte: exact, slow where they interleave."""
        if self.high <= other.low or other.high <= self.low:
            return False
        low = min(self.low, other.low)
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            marks = torch.zeros(max(self.high, other.high) - low, dtype=torch.bool)
            self._bytes(marks, low).fill_(True)
            return bool(other._bytes(marks, low).any())

    def _bytes(self, marks: Tensor, low: int) -> Tensor:
        strides = [s * self.itemsize for s in self.strides]
        return marks.as_strided((*self.shape, self.itemsize), (*strides, 1), self.low - low)


Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""What a tensor says of where it lies: size of an element, offset, shape and strides."""
Kept = tuple[int, bool, Place | None]
"""Stream, whether it writes, and what; of equal ones the latest counts."""


@functools.lru_cache(maxsize=2**14)
def _region(place: Place) -> Region:
    """The region of elements at non-negative strides; tiles come back to the same ones."""
    itemsize, offset, shape, strides = place
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if 0 not in shape else -1
    low = offset * itemsize
    return Region(itemsize, shape, strides, low, low + (reach + 1) * itemsize)


class Use(NamedTuple):
    """A read or write of a region by a stream, at a moment of that stream's count."""

    stream: int
    moment: int
    writes: bool
    what: str
    place: Place | None
    """``None``: all of it."""


class Uses:
    """The uses of one piece of memory that may not be over."""

    __slots__ = ("alone", "home", "latest", "recorded", "settled")

    def __init__(self, home: int, settled: int = -1) -> None:
        self.home = home
        """The stream it was allocated in."""
        self.latest: dict[Kept, tuple[int, str]] = {}
        """The moment of each, and what it is."""
        self.recorded: set[int] = set()
        """Streams named to ``record_stream``."""
        self.alone: int | None = home
        """The stream that all of them are in, if it is one."""
        self.settled = settled
        """What `Order.settled` was when those that are over were last looked for."""

    def add(self, use: Use) -> None:
        """One more; of its stream, or of another."""
        self.latest[use.stream, use.writes, use.place] = use.moment, use.what
        if use.stream != self.alone:
            self.alone = None


@dataclass
class Order:
    """Clocks of the streams of one device, and the races found."""

    clocks: dict[int, Clock] = field(default_factory=lambda: {0: {0: 1}})
    done: Clock = field(default_factory=dict)
    """How far the host knows each stream to be: all later work comes after that."""
    settled: int = 0
    """How often the host has learned of it."""
    races: list[str] = field(default_factory=list)
    freed: list[tuple[int, int, list[Use]]] = field(default_factory=list)
    """Home stream, size and uses of memory that went back while another stream used it."""
    behind: dict[tuple[int, bool], tuple[int, int]] = field(default_factory=dict)
    """Of memory that went back, by its home stream and by whether it is of the small pool: the
    largest size, and the latest moment at which the home stream used any of it."""

    # -- what gives order -----------------------------------------------------------------------

    def tick(self, stream: int) -> int:
        """Work is put into a stream; the moment in its count."""
        clock = self.clocks.setdefault(stream, {})
        clock[stream] = moment = clock.get(stream, 0) + 1
        return moment

    def snapshot(self, stream: int) -> Clock:
        """What an event in a stream stands for: all that is before it."""
        return dict(self.clocks.setdefault(stream, {}))

    def join(self, stream: int, clock: Clock) -> None:
        """A stream waits for all that a clock knows."""
        _join(self.clocks.setdefault(stream, {}), clock)

    def settle(self, clock: Clock) -> None:
        """The host has waited for what a clock knows."""
        self.settled += 1
        _join(self.done, clock)

    def settle_stream(self, stream: int) -> None:
        """The host has waited for a stream, or for all of them (-1)."""
        self.settled += 1
        for name, clock in self.clocks.items():
            if stream in (-1, name):
                _join(self.done, clock)
        if stream == -1:
            self.freed.clear()

    def precedes(self, use: Use, stream: int) -> bool:
        """Whether a use is over before anything that a stream (-1: the host) does from now on."""
        if self.done.get(use.stream, 0) >= use.moment:
            return True
        return stream >= 0 and self.clocks.get(stream, {}).get(use.stream, 0) >= use.moment

    # -- what needs it --------------------------------------------------------------------------

    def used(
        self, uses: Uses, tensor: Tensor, stream: int, moment: int, writes: bool, what: str
    ) -> None:
        """A stream (-1: the host) reads or writes a tensor on some memory."""
        offset = int(tensor.storage_offset())
        place = (tensor.element_size(), offset, tensor.shape, tensor.stride())
        # A stream's own work is in order: nothing to look for among it, until some may be over.
        if uses.alone != stream or uses.settled != self.settled:
            self._check(uses, place, stream, writes, what)
        if stream >= 0:
            uses.latest[stream, writes, place] = moment, what

    def _check(self, uses: Uses, place: Place, stream: int, writes: bool, what: str) -> None:
        over = []
        for key, (moment, earlier) in uses.latest.items():
            of, wrote, where = key
            if self.done.get(of, 0) >= moment:
                over.append(key)
            elif of != stream and (writes or wrote):
                use = Use(of, moment, wrote, earlier, where)
                if not self.precedes(use, stream) and (
                    where is None or _region(place).meets(_region(where))
                ):
                    self._found(use, stream, writes, what)
        for key in over:
            del uses.latest[key]
        others = any(of != stream for of, _, _ in uses.latest)
        uses.alone, uses.settled = None if others else stream, self.settled

    def _found(self, use: Use, stream: int, writes: bool, what: str) -> None:
        now = "writes to" if writes else "reads"
        then = "write to" if use.writes else "read"
        words = (
            f"{_name(stream)} ({what}) {now} memory that {_name(use.stream)} ({use.what}) may "
            f"still {then}: no event or wait puts one after the other{calling_place()}"
        )
        if words not in self.races and len(self.races) < MOST_RACES:
            self.races.append(words)

    def gone(self, uses: Uses, size: int) -> None:
        """Memory goes back to the allocator."""
        if not size:
            return
        left, own = [], 0
        for (stream, writes, place), (moment, what) in uses.latest.items():
            if stream == uses.home:
                own = max(own, moment)
            elif stream not in uses.recorded:
                use = Use(stream, moment, writes, what, place)
                if not self.precedes(use, uses.home):
                    left.append(use)
        if left:
            self.freed.append((uses.home, size, left))
        if own:
            pool = uses.home, size <= SMALL_POOL
            largest, moment = self.behind.get(pool, (0, 0))
            self.behind[pool] = max(largest, size), max(moment, own)

    def given(self, home: int, size: int) -> Uses:
        """Memory is given out in a stream: it may be what another stream still uses."""
        uses = Uses(home, self.settled)
        if self.freed:
            self._reuse(uses, size)
        # Its home stream uses it in order; any other stream must wait for what ran there before.
        largest, moment = self.behind.get((home, size <= SMALL_POOL), (0, 0))
        if largest >= size and self.done.get(home, 0) < moment:
            what = "earlier work, memory since freed and given out again"
            uses.add(Use(home, moment, True, what, None))
        return uses

    def _reuse(self, uses: Uses, size: int) -> None:
        """Take over what other streams still do with memory that may be given out now."""
        home, kept = uses.home, []
        for of, large, left in self.freed:
            left = [use for use in left if not self.precedes(use, of)]
            if not left:
                continue
            same_pool = (large <= SMALL_POOL) == (size <= SMALL_POOL)
            if of == home and same_pool and large >= size:
                for use in left:
                    what = f"{use.what}, memory since freed and given out again"
                    uses.add(use._replace(what=what, place=None))
            else:
                kept.append((of, large, left))
        self.freed[:] = kept


def _join(clock: Clock, other: Clock) -> None:
    for stream, moment in other.items():
        if clock.get(stream, 0) < moment:
            clock[stream] = moment


def _name(stream: int) -> str:
    if stream < 0:
        return "the host"
    return f"stream {stream}" if stream else "the default stream"
