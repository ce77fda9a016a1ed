"""Bands of full rows on planes with channels innermost.

A band with the rows around it is one piece of memory: nothing is packed, no side is padded, and
on its way between host and device it is one copy beside the computing. Statistics are taken of
every band while it is there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bandplan import BandPlan
from .job import Job
from .lanes import HostRows, Lanes, Reader, Writer
from .planes import Plane
from .pull import fetch
from .segments import Segment
from .steps import Shape
from .window import Span


class BandPlane(Plane):
    """A plane ``1 C H W`` with channels innermost, on the device or on the host."""

    def __init__(self, shape: Shape, device: torch.device, lanes: Lanes | None) -> None:
        super().__init__(shape, device)
        self.lanes = lanes
        """Where it rests on the host."""
        self.stored: HostRows | None = None
        self.reader: Reader | None = None
        self.writer: Writer | None = None
        self.window: tuple[Span, Tensor] | None = None
        self.bands = (0, 0)

    def read(self, rows: Span, cols: Span, device: torch.device) -> Tensor:
        """A part, where it is worked on. Never to be written to."""
        if self.lanes is None:
            return super().read(rows, cols, device)
        if self.window is None:
            raise RuntimeError("rows were asked for that nobody has fetched")
        span, tensor = self.window
        return tensor[..., rows.within(span), slice(*cols)]

    def write(self, rows: Span, cols: Span, tile: Tensor) -> None:
        """Put a band in its place and count it in."""
        shape = self.shape
        if self.lanes is not None:
            if self.stored is None:
                size = shape.channels, shape.height, shape.width
                self.stored = HostRows(*size, tile.dtype, self.lanes)
                self.writer = Writer(self.stored, *self.bands)
            assert self.writer is not None
            self.writer.put(rows, tile)
        else:
            if self.tensor is None:
                self.tensor = torch.empty(
                    (1, shape.channels, shape.height, shape.width),
                    dtype=tile.dtype,
                    device=self.home,
                    memory_format=torch.channels_last,
                )
            self.tensor[..., slice(*rows), slice(*cols)].copy_(tile)
        for moments in self.moments.values():
            moments.add(tile)

    def release(self) -> None:
        """Nobody will read it again."""
        if self.stored is not None:
            self.stored.release()
            self.stored = None
        self.tensor = None


def run_bands(job: Job, plan: BandPlan, part: Segment) -> None:
    """Fill the plane of a segment, band by band."""
    plane = job.planes[part.output]
    rows, cols = plan.rows(part), Span(0, job.shapes[part.output].width)
    readers: list[tuple[BandPlane, Reader]] = []
    for value, wants in plan.wants(part, rows).items():
        source = job.planes[value]
        if isinstance(source, BandPlane) and source.stored is not None:
            readers.append((source, Reader(source.stored, wants)))
    if isinstance(plane, BandPlane):
        plane.bands = max(span.size for span in rows), len(rows)
    for number, span in enumerate(rows):
        for source, reader in readers:
            source.window = reader.take(number)
        plane.write(span, cols, fetch(job, part.output, span, cols, target=True))
        for source, reader in readers:
            source.window = None
            reader.done(number)
        job.visit()
    if isinstance(plane, BandPlane) and plane.writer is not None:
        plane.writer.close()
        plane.writer = None
