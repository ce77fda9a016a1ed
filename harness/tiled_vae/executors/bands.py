"""Bands of full rows on planes with channels innermost.

A band with the rows around it is one piece of memory: nothing is packed, no side is padded, and on
its way between host and device it is one copy beside the computing. Statistics are taken of every
band while it is there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..fusion.segments import Segment
from ..planner.bandplan import BandPlan
from ..program.steps import Attend, Shape
from ..program.window import Span
from ..runtime.arena import Arena, OffloadedRows, Reader, Writer
from ..runtime.planes import Plane
from ..runtime.statistics import Moments
from .attention import attend
from .job import Job
from .recompute import fetch
from .run import measure_input, wanted_groups


class BandPlane(Plane):
    """A plane ``1 C H W`` with channels innermost, resident on the device or offloaded."""

    def __init__(
        self, shape: Shape, device: torch.device, arena: Arena | None, spare: int = 0
    ) -> None:
        super().__init__(shape, device)
        self.arena = arena
        """Where it is stored on the host."""
        self.spare = spare
        """Rows of memory above it, for one that is written over it while it is read."""
        self.memory: Tensor | None = None
        self.stored: OffloadedRows | None = None
        self.window: tuple[Span, Tensor] | None = None
        """The rows of an offloaded plane that are on the device."""
        self.writer: Writer | None = None
        self.row: Tensor | None = None
        """A band of an offloaded plane that is put together from tiles."""

    def take_over(self, other: Plane) -> None:
        """Lie in the memory of another plane, which is overwritten band by band."""
        self.tensor = other.tensor
        if isinstance(other, BandPlane):
            self.stored = other.stored

    def lie_above(self, other: Plane) -> None:
        """Lie a row further up in the memory of another plane, which is read meanwhile."""
        assert isinstance(other, BandPlane)
        assert other.memory is not None
        self.tensor = other.memory[..., : self.shape.height, :]

    def read(self, rows: Span, cols: Span, device: torch.device) -> Tensor:
        """A part, where it is worked on. Callers must not write to it."""
        if self.arena is None:
            return super().read(rows, cols, device)
        if self.window is None:
            raise RuntimeError("rows of an offloaded plane were read before they were fetched")
        span, tensor = self.window
        return tensor[..., rows.within(span), slice(*cols)]

    def write(self, rows: Span, cols: Span, tile: Tensor) -> None:
        """Store a tile and add it to the statistics."""
        if self.arena is not None:
            self.send(self.arena, rows, cols, tile)
        elif self.tensor is None and not self.spare and self.covers(rows, cols) and innermost(tile):
            self.tensor = tile
        else:
            if self.tensor is None or self.tensor.dtype != tile.dtype:
                height = self.shape.height + self.spare
                self.memory = empty(self.shape, height, self.shape.width, tile)
                self.tensor = self.memory[..., self.spare :, :]
            self.tensor[..., slice(*rows), slice(*cols)].copy_(tile)
        for moments in self.moments.values():
            moments.add(tile)

    def add(self, rows: Span, cols: Span, tile: Tensor, divisor: float) -> None:
        """Add a tile to what is there, for a resident plane, and that to the statistics."""
        assert self.tensor is not None
        if tile.dtype != self.tensor.dtype:
            self.tensor = self.tensor.to(torch.promote_types(tile.dtype, self.tensor.dtype))
        place = self.tensor[..., slice(*rows), slice(*cols)].add_(tile)
        if divisor != 1.0:
            place.div_(divisor)
        for moments in self.moments.values():
            moments.add(place)

    def send(self, arena: Arena, rows: Span, cols: Span, tile: Tensor) -> None:
        """Send a tile to the host, once all of its rows are there."""
        shape = self.shape
        if self.stored is None or self.stored.rows.dtype != tile.dtype:
            self.stored = OffloadedRows.of_plane(shape, tile.dtype, arena)
        if self.writer is None:
            self.writer = Writer(self.stored)
        if cols.size == shape.width and innermost(tile):
            self.writer.put(rows, tile[0].permute(1, 2, 0))
            return
        if self.row is None:
            self.row = empty(shape, rows.size, shape.width, tile)
        self.row[..., slice(*cols)].copy_(tile)
        if cols.stop == shape.width:
            self.writer.put(rows, self.row[0].permute(1, 2, 0))
            self.row = None

    def finish(self) -> None:
        """All of it is written."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def release(self) -> None:
        """Nobody will read it again."""
        if self.stored is not None:
            self.stored.release()
            self.stored = None
        self.tensor = self.memory = None


def empty(shape: Shape, height: int, width: int, like: Tensor) -> Tensor:
    """Memory for ``1 C height width``, channels innermost."""
    size = (1, shape.channels, height, width)
    return torch.empty(
        size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def innermost(tile: Tensor) -> bool:
    """Whether a tile is one piece of memory with channels innermost."""
    return tile.is_contiguous(memory_format=torch.channels_last)


def execute_bands(job: Job, plan: BandPlan) -> Plane:
    """Run all segments band by band; only the plane of the program's output is left."""
    arena = Arena(job.device) if plan.offloaded else None
    measure_input(job)
    try:
        for number, part in enumerate(plan.parts):
            plane = plane_of(job, plan, part, arena)
            plane.moments = {groups: Moments(groups) for groups in wanted_groups(job, part.output)}
            if part.output in plan.recomputed:
                job.unstored[part.output] = plane.moments
            else:
                job.planes[part.output] = plane
            step = part.steps[-1]
            if isinstance(step, Attend):
                attend(job, step, [band.rows for band in plan.bands(part)])
            elif part.output not in plan.recomputed or plane.moments:
                run_bands(job, plan, part, plane)
            job.prepared.clear()
            for value in part.sources:
                if plan.last_use[value] == number:
                    done = job.planes.pop(value)
                    if isinstance(done, BandPlane) and plan.successors.get(part.output) != value:
                        done.release()
    finally:
        if arena is not None:
            arena.settle()
    return job.planes[job.program.output]


def plane_of(job: Job, plan: BandPlan, part: Segment, arena: Arena | None) -> Plane:
    """The plane of a segment, still empty, or in the memory of the one that it takes over."""
    shape = job.shapes[part.output]
    if part.output == job.program.output:
        return Plane(shape, job.device, job.into)
    home = arena if part.output in plan.offloaded else None
    plane = BandPlane(shape, job.device, home, plan.spare(part.output))
    below = plan.below(part.output)
    if part.output in plan.successors:
        plane.take_over(job.planes[plan.successors[part.output]])
    elif below is not None:
        plane.lie_above(job.planes[below])
    return plane


def run_bands(job: Job, plan: BandPlan, part: Segment, plane: Plane) -> None:
    """Fill the plane of a segment band by band, or only measure one that is not stored."""
    bands = plan.bands(part)
    readers: list[tuple[BandPlane, Reader]] = []
    for value, wants in plan.wants(part, [band.rows for band in bands]).items():
        source = job.planes[value]
        if isinstance(source, BandPlane) and source.arena is not None:
            assert source.stored is not None
            readers.append((source, Reader(source.stored, wants)))
    for number, band in enumerate(bands):
        for source, reader in readers:
            rows, tensor = reader.take(number)
            source.window = rows, tensor.unsqueeze(0).permute(0, 3, 1, 2)
        for cols in band.columns:
            run_tile(job, plan, part, plane, (band.rows, cols))
            job.visit()
        for source, reader in readers:
            source.window = None
            reader.done(number)
    if isinstance(plane, BandPlane):
        plane.finish()


def run_tile(
    job: Job, plan: BandPlan, part: Segment, plane: Plane, tile: tuple[Span, Span]
) -> None:
    """Compute one tile and put it where it belongs."""
    if part.output in plan.recomputed:
        found = fetch(job, part.output, *tile, target=True)
        for moments in plane.moments.values():
            moments.add(found)
    elif isinstance(plane, BandPlane) and plane.arena is None and part.output in plan.successors:
        step = part.steps[-1]
        plane.add(*tile, fetch(job, step.inputs[0], *tile), step.divisor)  # type: ignore[attr-defined]
    else:
        plane.write(*tile, fetch(job, part.output, *tile, target=True))
