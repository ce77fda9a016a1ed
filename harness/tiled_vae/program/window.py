"""One axis of a local operation: which input pixels an output pixel depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Pixels ``start`` to ``stop`` (exclusive) along one axis."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.stop - self.start

    def within(self, outer: Span) -> slice:
        """This span as a slice of a tensor that covers ``outer``."""
        return slice(self.start - outer.start, self.stop - outer.start)


class Reach(NamedTuple):
    """What has to be read to compute a span of outputs."""

    source: Span
    """Input pixels, clipped to the plane."""
    crop: Span
    """The part that the kernel sees, after upsampling, counted from the first pixel read."""
    zeros: tuple[int, int]
    """Padding before and after: only where the kernel leaves the plane."""


@dataclass(frozen=True)
class Window:
    """Nearest upsampling by ``up``, then a kernel with a stride and padding."""

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    up: int = 1
    wrap: bool = False
    """Whether the padding is circular: taken from the other side of the plane."""

    @property
    def local(self) -> bool:
        """Whether an output pixel depends on the input pixel at its place alone."""
        return self.kernel == 1 and self.stride == 1

    def length(self, size: int) -> int:
        """Outputs along a plane of ``size`` inputs."""
        return (size * self.up + self.before + self.after - self.kernel) // self.stride + 1

    def reach(self, out: Span, size: int) -> Reach:
        """What ``out`` depends on, on a plane of ``size`` inputs."""
        first = out.start * self.stride - self.before
        last = (out.stop - 1) * self.stride - self.before + self.kernel
        low, high = max(first, 0), min(last, size * self.up)
        source = Span(low // self.up, -(-high // self.up))
        crop = Span(low - source.start * self.up, high - source.start * self.up)
        return Reach(source, crop, (low - first, last - high))

    def seen(self, out: Span, size: int) -> list[Span]:
        """The spans of the upsampled plane that ``out`` depends on, in the order of the kernel.

        One, clipped to the plane; where the padding is circular, one for each crossing of a border.
        """
        whole = size * self.up
        first = out.start * self.stride - self.before
        last = (out.stop - 1) * self.stride - self.before + self.kernel
        if not self.wrap:
            return [Span(max(first, 0), min(last, whole))]
        spans = []
        while first < last:
            turn = first // whole * whole
            stop = min(last, turn + whole)
            spans.append(Span(first - turn, stop - turn))
            first = stop
        return spans

    def ready(self, have: int, size: int) -> int:
        """How many outputs the first ``have`` inputs determine."""
        if have >= size:
            return self.length(size)
        count = (have * self.up + self.before - self.kernel) // self.stride + 1
        return min(max(count, 0), self.length(size))

    def demand(self, stop: int, size: int) -> int:
        """How many inputs the first ``stop`` outputs need."""
        if stop <= 0:
            return 0
        if stop >= self.length(size):
            return size
        return self.reach(Span(stop - 1, stop), size).source.stop

    def oldest(self, start: int, size: int) -> int:
        """The first input that outputs from ``start`` on still need."""
        return min(max(start * self.stride - self.before, 0) // self.up, size)


POINT = Window()
