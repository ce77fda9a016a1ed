"""Which values rest, and how the steps between them are run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from .job import Job
from .steps import Attend, Norm, Program, Reshuffle, Shape, Step, Value
from .tiles import Cell, cuts, grid, scaled
from .window import Span

REST, CARRY = "rest", "carry"
"""Keep activations at rest between convolutions, or carry borders from tile to tile."""


@dataclass(frozen=True)
class Segment:
    """Steps between values at rest, all for one value."""

    output: Value
    steps: tuple[Step, ...]
    carried: bool
    """Whether tiles leave their borders behind. Otherwise each fetches what it needs."""

    @property
    def convolutions(self) -> int:
        """How many of the steps look at neighbours."""
        return sum(not (step.rows.local and step.cols.local) for step in self.steps)

    @property
    def sources(self) -> set[Value]:
        """Values that are read where they rest."""
        made = {step.output for step in self.steps}
        return {value for step in self.steps for value in step.inputs} - made


def segments(program: Program, method: str, given: Collection[nn.Module]) -> list[Segment]:
    """Cut a program into segments.

    ``given`` are the norms whose statistics are known beforehand. A norm over the plane without
    them needs its input at rest, and so does attention.
    """
    at_rest = resting(program, given, rest=method == REST)
    while True:
        found = [closure(program, value, at_rest, method) for value in sorted(at_rest)]
        owners: dict[Value, Value] = {}
        shared: set[Value] = set()
        for segment in found:
            for step in segment.steps:
                if owners.setdefault(step.output, segment.output) != segment.output:
                    shared.add(step.output)
        shared = {value for value in shared if program.steps[value - 1].costly} - at_rest
        if not shared:
            return found
        at_rest |= shared


def resting(program: Program, given: Collection[nn.Module], rest: bool) -> set[Value]:
    """Values that have to be kept, the output included."""
    at_rest = {program.output}
    dirty = [False]
    for step in program.steps:
        spatial = isinstance(step, Attend) or (
            isinstance(step, Norm) and step.spatial and step.module not in given
        )
        looks = isinstance(step, Norm | Reshuffle) or not step.rows.local or not step.cols.local
        looks = looks or step.costly
        for value in step.inputs:
            if value and (spatial or (rest and looks and dirty[value])):
                at_rest.add(value)
                dirty[value] = False
        if isinstance(step, Attend):
            at_rest.add(step.output)
        dirty.append(step.costly or any(dirty[value] for value in step.inputs))
        if isinstance(step, Attend):
            dirty[step.output] = False
    return at_rest


def closure(program: Program, value: Value, at_rest: Collection[Value], method: str) -> Segment:
    """All steps that lead from values at rest to ``value``."""
    wanted, found = [value], set()
    while wanted:
        each = wanted.pop()
        if each == 0 or each in found or (each in at_rest and each != value):
            continue
        found.add(each)
        wanted.extend(program.steps[each - 1].inputs)
    steps = tuple(program.steps[each - 1] for each in sorted(found))
    segment = Segment(value, steps, carried=False)
    carried = method == CARRY and segment.convolutions > 1
    return Segment(value, steps, carried)


@dataclass(frozen=True)
class Layout:
    """Partition of the input plane, from which those of all other planes follow."""

    tile: int
    """Side of a tile, in pixels of the input."""
    cells: list[Cell] | None = None
    """Tiles of a quadtree; ``None`` for a grid."""


def segment_bytes(segment: Segment, shapes: list[Shape], side: float, level: float) -> float:
    """Elements that a visit holds at most, for tiles of ``side`` pixels on the plane ``level``."""
    most = 0.0
    for step in segment.steps:
        held = 0.0
        for value in (*step.inputs, step.output):
            shape = shapes[value]
            plane = shape.height * shape.width
            scale = shape.height / max(shapes[segment.output].height, 1)
            tile = min(side * scale, shape.height) * min(side * scale, shape.width)
            held += shape.elements / max(plane, 1) * max(tile, 1)
        most = max(most, held)
    del level
    return most


class Planner:
    """Chooses the tiles of every segment."""

    def __init__(self, job: Job, layout: Layout, parts: list[Segment]) -> None:
        self.shapes = job.shapes
        self.levels: Mapping[int, float] = dict(enumerate(job.program.levels))
        self.layout = layout
        self.budget = max(
            segment_bytes(part, self.shapes, self.nominal(part), 1.0) for part in parts
        )

    def nominal(self, part: Segment) -> int:
        """Side of a tile on the plane of the output of a segment."""
        return max(round(self.layout.tile * self.levels[part.output]), 1)

    def side(self, part: Segment) -> int:
        """Side of a tile, grown while a visit holds no more than the largest one has to."""
        shape = self.shapes[part.output]
        side = self.nominal(part)
        while side < max(shape.height, shape.width):
            if segment_bytes(part, self.shapes, side * 2, 1.0) > self.budget:
                break
            side *= 2
        return side

    def cells(self, part: Segment) -> list[Cell]:
        """Tiles of a segment whose tiles fetch what they need."""
        shape = self.shapes[part.output]
        if self.layout.cells is None:
            return grid(shape.height, shape.width, self.side(part))
        first = self.shapes[0]
        return scaled(self.layout.cells, (first.height, first.width), (shape.height, shape.width))

    def borders(self, part: Segment) -> tuple[list[int], list[int], bool]:
        """Borders along rows and columns for tiles that are carried, and on which end they lie."""
        source = max(part.sources, key=lambda value: self.levels[value])
        demand = self.levels[part.output] >= self.levels[source]
        shape = self.shapes[part.output if demand else source]
        side = self.side(part)
        if not demand:
            side = max(round(side * self.levels[source] / self.levels[part.output]), 1)
        return cuts(shape.height, side), cuts(shape.width, side), demand

    def bands(self, value: Value) -> list[Span]:
        """Bands of rows for attention over the plane of a value."""
        shape = self.shapes[value]
        line = max(shape.channels * shape.width, 1)
        rows = max(int(self.budget / (4 * line)), 1)
        return [Span(*pair) for pair in zip(*borders_of(shape.height, rows), strict=True)]


def borders_of(size: int, tile: int) -> tuple[list[int], list[int]]:
    """Starts and stops of the parts of an axis."""
    all_cuts = cuts(size, tile)
    return all_cuts[:-1], all_cuts[1:]
