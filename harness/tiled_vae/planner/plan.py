"""Chooses the tile sizes of every segment, and predicts the memory on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..fusion.segments import Segment
from ..program.steps import Attend, Conv, Program, Shape, Step, Value
from ..program.window import Span
from .tiles import Cell, crossed, cuts, grid, scaled
from .walk import Walk


@dataclass(frozen=True)
class Partition:
    """Partition of the input plane, from which those of all other planes follow."""

    tile: int
    """Side of a tile, in pixels of the input."""
    cells: list[Cell] | None = None
    """Tiles of a quadtree; ``None`` for a grid."""
    bands: bool = False
    """Whether tiles are bands of ``tile`` full rows."""
    resident: bool = False
    """Whether stored planes are on the device."""
    windows: int = 0
    """How many bands of each slot of a feature cache are on the device at a time."""
    alone: bool = False
    """Whether there is one frame and none before it, so that no padding in time is made."""
    converts: bool = False
    """Whether the kernels of convolutions want another layout than tiles have: two copies more."""

    def innermost(self, *, clip: bool) -> bool:
        """Whether tiles of a picture, or of a ``clip`` of one frame, have channels innermost."""
        return self.bands and (self.alone or not clip)

    def across(self, side: float, width: int) -> float:
        """Columns of a tile that is ``side`` rows high, on a plane of ``width`` columns."""
        return width if self.bands else min(side, width)


class Planner:
    """Chooses the tiles of every segment. Sizes are in elements of one item of a batch."""

    def __init__(
        self,
        program: Program,
        shapes: Sequence[Shape],
        partition: Partition,
        parts: Sequence[Segment],
    ) -> None:
        self.shapes = shapes
        self.levels = program.levels
        self.partition = partition
        self.parts = parts
        self.largest = max(self.visit(part, self.nominal(part)) for part in parts)
        """Elements held during the largest visit if no tile is larger than requested."""

    @property
    def resident_limit(self) -> float:
        """Elements of small planes that may stay on the device without raising the peak much."""
        return self.largest * RESIDENT_SHARE

    def peak(self) -> float:
        """The most elements that the device holds, offloaded planes not counted."""
        held = [self.held(part) + self.planes(number) for number, part in enumerate(self.parts)]
        held[-1] += self.shapes[self.parts[-1].output].elements
        # Only for bands of planes is there a copy of the input, with channels innermost.
        return max(held) + self.shapes[0].elements * self.innermost

    @property
    def innermost(self) -> bool:
        """Whether tiles have their channels innermost, and so have weights."""
        return self.partition.innermost(clip=self.shapes[0].frames is not None)

    def held(self, part: Segment) -> float:
        """Elements held while a segment runs, beside planes."""
        if isinstance(part.steps[-1], Attend):
            return self.attention(part)
        partition = self.partition
        walk = Walk(
            self.shapes,
            part,
            resident=partition.resident,
            windows=partition.windows,
            alone=partition.alone,
            converts=partition.converts,
        )
        relaid = 0
        if self.innermost:
            relaid = sum(step.weights for step in part.steps if isinstance(step, Conv))
        if part.carried:
            return relaid + walk.buffered(*self.borders(part))
        return relaid + walk.recomputed(self.cells(part))

    def planes(self, number: int) -> int:
        """Elements of the planes on the device while a segment runs, but for the two ends."""
        if not self.partition.resident:
            return 0
        inner, later = {part.output for part in self.parts[: number + 1]}, self.parts[number:]
        read = {value for part in later for value in part.sources} | {self.parts[number].output}
        return sum(self.shapes[value].elements for value in inner & read - {self.parts[-1].output})

    def visits(self) -> int:
        """In how many tiles all segments are run."""
        count = 0
        for part in self.parts:
            step = part.steps[-1]
            if isinstance(step, Attend):
                count += 1 if step.whole is not None else 2 * len(self.bands(part))
            elif part.carried:
                rows, cols, _ = self.borders(part)
                count += (len(rows) - 1) * (len(cols) - 1)
            else:
                count += len(self.cells(part))
        return count

    def nominal(self, part: Segment) -> int:
        """Side of a tile on the plane of the output of a segment."""
        return max(round(self.partition.tile * self.levels[part.output]), 1)

    def side(self, part: Segment) -> int:
        """Side of a tile, doubled while its visit holds no more than the largest visit.

        Only on planes of lower resolution: no tile has more pixels than one of the finest plane.
        """
        shape = self.shapes[part.output]
        side, most = self.nominal(part), self.most(part)
        longest = shape.height if self.partition.bands else max(shape.height, shape.width)
        while side < longest and side * 2 <= most:
            if self.visit(part, side * 2) > self.largest:
                break
            side *= 2
        return side

    def most(self, part: Segment) -> float:
        """Side at which a tile of a segment is as large as a tile of the finest plane."""
        values = {value for step in part.steps for value in (*step.inputs, step.output)}
        finest = max(self.levels[value] for value in values)
        return self.partition.tile * max(self.levels) * self.levels[part.output] / finest

    def cells(self, part: Segment) -> list[Cell]:
        """Tiles of a segment that recomputes halos."""
        shape = self.shapes[part.output]
        longest = max(shape.height, shape.width)
        whole = longest <= self.most(part) and self.visit(part, longest) <= self.largest
        if self.partition.cells is None or whole:
            return self.cut(shape, self.side(part))
        first = self.shapes[0]
        return scaled(
            self.partition.cells, (first.height, first.width), (shape.height, shape.width)
        )

    def cut(self, shape: Shape, side: int) -> list[Cell]:
        """Tiles of a plane, row by row."""
        if not self.partition.bands:
            return grid(shape.height, shape.width, side)
        return crossed(cuts(shape.height, side), [0, shape.width])

    def borders(self, part: Segment) -> tuple[list[int], list[int], bool]:
        """Borders along rows and columns for line buffers, and whether they are the output's."""
        source = max(part.sources, key=lambda value: self.levels[value])
        demand = self.levels[part.output] >= self.levels[source]
        shape = self.shapes[part.output if demand else source]
        side = self.side(part)
        if not demand:
            side = max(round(side * self.levels[source] / self.levels[part.output]), 1)
        across = [0, shape.width] if self.partition.bands else cuts(shape.width, side)
        return cuts(shape.height, side), across, demand

    def bands(self, part: Segment) -> list[Span]:
        """Bands of rows for attention over the plane of a segment."""
        shape = self.shapes[part.output]
        borders = cuts(shape.height, self.band(part))
        return [Span(*pair) for pair in pairwise(borders)]

    def band(self, part: Segment) -> int:
        """Rows of a band: no more than the largest visit holds, scores included."""
        shape = self.shapes[part.output]
        tokens = shape.height * shape.width
        line = (BAND_COPIES * shape.channels * (shape.frames or 1) + tokens) * shape.width
        return max(int(self.largest / max(line, 1)), 1)

    def attention(self, part: Segment) -> float:
        """Elements of the keys and values of all pixels, and of a band in progress."""
        shape, step = self.shapes[part.output], part.steps[-1]
        if isinstance(step, Attend) and step.whole is not None:
            return WHOLE_COPIES * shape.elements
        line = shape.channels * (shape.frames or 1) * shape.width
        rows = min(self.band(part), shape.height)
        # Queries stay where planes are.
        tokens = 3 if self.partition.resident else 2
        return tokens * shape.elements + BAND_COPIES * rows * line

    def visit(self, part: Segment, side: float) -> float:
        """Elements held while a tile of ``side`` output pixels runs through a segment."""
        steps = part.steps
        if isinstance(steps[-1], Attend):
            return 0.0
        last = {value: number for number, step in enumerate(steps) for value in step.inputs}
        alive: set[Value] = set(part.sources) if part.carried else set()
        most = 0.0
        for number, step in enumerate(steps):
            held = alive | set(step.inputs)
            here = sum(self.tile(value, part, side) for value in held)
            most = max(most, here + self.made(step, part, side))
            alive = {v for v in held | {step.output} if last.get(v, len(steps)) > number}
            if not part.carried:
                alive -= part.sources
        return most

    def tile(self, value: Value, part: Segment, side: float) -> float:
        """Elements of a tile of a value, for tiles of ``side`` pixels of the output."""
        shape = self.shapes[value]
        side = max(side * self.levels[value] / self.levels[part.output], 1)
        plane = min(side, shape.height) * self.partition.across(side, shape.width)
        return shape.channels * (shape.frames or 1) * plane

    def made(self, step: Step, part: Segment, side: float) -> float:
        """What a step needs beside its inputs: its output, and a padded or upsampled copy."""
        out = self.tile(step.output, part, side)
        if not isinstance(step, Conv) or step.rows.local:
            return out
        copy = self.tile(step.inputs[0], part, side) * step.rows.up * step.cols.up
        if step.past and not self.partition.alone:
            frames = self.shapes[step.inputs[0]].frames or 1
            copy *= (frames + step.past) / frames
        return copy + out


RESIDENT_SHARE = 0.5
"""Memory that small planes may take on the device, as a share of the largest visit."""

WHOLE_COPIES = 8
"""Planes that an attention of another make may hold at once."""

BAND_COPIES = 6
"""Tensors of the size of a band that attention holds at once."""
