"""Planning bands: how many rows at a time, and which planes stay on the device.

All sizes are in bytes. A plan is made by walking through the steps as they will be run, so that
what it says is what will be held, but for what torch rounds up and for workspaces of its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from .errors import TilingError
from .segments import Segment
from .steps import Add, Attend, Conv, Program, Shape, Value, Whole
from .tiles import cuts
from .window import Span

LARGEST = 2**25
"""Elements of a band: enough to keep a GPU busy, and small beside the planes."""

COMFORTABLE = 2**23
"""Elements below which launches begin to cost more than copies do."""

MARGIN = 1.03
"""For statistics and the like, which count where planes are small."""

WHOLE_COPIES = 8
"""Planes that a block of unknown code may hold at once."""


@dataclass(frozen=True)
class Budget:
    """What a plan may use."""

    nbytes: float
    """On the device, beyond the weights."""
    others: int
    """What the other items of a batch take of it: their inputs and outputs."""
    width: int
    """Size of an element."""
    tile: int | None = None
    """A band has no more pixels than a square tile of this side, in pixels of the input."""


@dataclass(frozen=True)
class BandPlan:
    """How a program is run by bands."""

    program: Program
    shapes: Sequence[Shape]
    parts: Sequence[Segment]
    budget: Budget
    area: int
    """Elements of a band at most."""
    away: frozenset[Value] = frozenset()
    """Planes that rest on the host."""

    @property
    def peak(self) -> float:
        """What will be held on the device at most."""
        most = max(self.held(number) for number in range(len(self.parts)))
        return most * MARGIN + self.budget.others

    def visits(self) -> int:
        """How many bands all segments are run in."""
        count = 0
        for part in self.parts:
            step = part.steps[-1]
            bands = 1 if isinstance(step, Whole) else len(self.rows(part))
            count += 2 * bands if isinstance(step, Attend) else bands
        return count

    def rows(self, part: Segment) -> list[Span]:
        """The bands of a segment."""
        shape = self.shapes[part.output]
        step = part.steps[-1]
        if isinstance(step, Attend):
            line = (6 * shape.channels + shape.height * shape.width) * shape.width
        else:
            values = {value for each in part.steps for value in (*each.inputs, each.output)}
            # Where a plane grows, what counts is the grown copy of the input.
            line = max(self.line(value, part) for value in values)
        most = max(self.area // line, 1)
        if self.budget.tile is not None:
            side = max(self.budget.tile * self.program.levels[part.output], 1)
            most = min(most, max(int(side * side / shape.width), 1))
        borders = cuts(shape.height, most)
        return [Span(*pair) for pair in pairwise(borders)]

    def line(self, value: Value, part: Segment) -> int:
        """Elements of a value for one row of a segment's output."""
        shape, out = self.shapes[value], self.shapes[part.output]
        return max(shape.channels * shape.width * shape.height // out.height, 1)

    def held(self, number: int) -> float:
        """What is held while a segment runs."""
        width = self.budget.width
        planes = sum(
            self.shapes[value].elements for value in self.alive(number) if value not in self.away
        )
        part = self.parts[number]
        return (planes + self.shapes[self.program.output].elements + self.visit(part)) * width

    def alive(self, number: int) -> set[Value]:
        """Planes that exist while a segment runs, but for the program's output."""
        part = self.parts[number]
        made = {0, *(each.output for each in self.parts[: number + 1])}
        later = {value for each in self.parts[number:] for value in each.sources}
        return ((made & later) | {part.output, 0}) - {self.program.output}

    def visit(self, part: Segment) -> float:
        """Elements that are held beside the planes while a segment runs."""
        step, shape = part.steps[-1], self.shapes[part.output]
        if isinstance(step, Whole):
            return WHOLE_COPIES * shape.elements
        rows = self.rows(part)
        if isinstance(step, Attend):
            return 3 * shape.elements + 6 * rows[0].size * shape.channels * shape.width
        rings = 0
        for value, wants in self.wants(part, rows).items():
            if value in self.away:
                most = max(span.size for span in wants)
                rings += min(2, len(rows)) * most * self.row(value)
        if part.output in self.away:
            rings += min(2, len(rows)) * max(span.size for span in rows) * self.row(part.output)
        some = {0, 1 % len(rows), len(rows) - 1}
        return rings + max(self.walk(part, part.output, rows[each], True)[0] for each in some)

    def row(self, value: Value) -> int:
        """Elements of one row of a plane."""
        return self.shapes[value].channels * self.shapes[value].width

    def walk(
        self, part: Segment, value: Value, rows: Span, target: bool = False
    ) -> tuple[float, float]:
        """What is held at most while rows of a value are computed, and what the result takes."""
        if value in part.sources and not target:
            return 0, 0
        step = self.program.steps[value - 1]
        out = rows.size * self.row(value)
        most = held = first = 0.0
        for place, each in enumerate(step.inputs):
            reach = step.rows.reach(rows, self.shapes[each].height)
            peak, taken = self.walk(part, each, reach.source)
            most, held = max(most, held + peak), held + taken
            first = taken if place == 0 else first
            if isinstance(step, Conv):
                if step.rows.up > 1:
                    copy = reach.source.size * step.rows.up * step.cols.up * self.row(each)
                    most, held = max(most, held + copy), copy
                if reach.zeros[0] != reach.zeros[1]:
                    wide = (reach.crop.size + sum(reach.zeros)) * self.row(each) * step.rows.up
                    most, held = max(most, held + wide), wide
        if isinstance(step, Add) and first:
            out = 0 if step.divisor == 1.0 else out
            return max(most, held + out), out or first
        return max(most, held + out), out

    def wants(self, part: Segment, rows: Sequence[Span]) -> dict[Value, list[Span]]:
        """Which rows of its sources each band of a segment reads."""
        found: dict[Value, list[Span]] = {value: [] for value in part.sources}
        for span in rows:
            needs: dict[Value, Span] = {part.output: span}
            for step in reversed(part.steps):
                for value in step.inputs:
                    source = step.rows.reach(needs[step.output], self.shapes[value].height).source
                    known = needs.get(value, source)
                    needs[value] = Span(
                        min(known.start, source.start), max(known.stop, source.stop)
                    )
            for value, spans in found.items():
                spans.append(needs[value])
        return found

    def movable(self) -> set[Value]:
        """Planes that may rest on the host: whatever no attention works on."""
        fixed = {0, self.program.output}
        for part in self.parts:
            if isinstance(part.steps[-1], Attend | Whole):
                fixed |= {part.output, *part.sources}
        return {part.output for part in self.parts} - fixed


def planned(plan: BandPlan, residency: str) -> BandPlan:
    """The fastest way of running that keeps to the budget.

    Raises `TilingError` where there is none.
    """
    if residency != "auto":
        away = frozenset(plan.movable()) if residency == "host" else frozenset[Value]()
        return replace(plan, area=LARGEST, away=away)
    for area in areas(LARGEST, COMFORTABLE):
        all_here = replace(plan, area=area)
        if all_here.peak <= plan.budget.nbytes:
            return all_here
    for area in areas(LARGEST // 2, 1):
        some_away = thinned(replace(plan, area=area))
        if some_away.peak <= plan.budget.nbytes:
            return some_away
    least = replace(plan, area=1, away=frozenset(plan.movable())).peak
    raise TilingError(
        f"max_vram is {plan.budget.nbytes / 2**20:.1f} MiB, but a plane of "
        f"{plan.shapes[0].width}x{plan.shapes[0].height} needs {least / 2**20:.1f} MiB even in "
        "bands of one row: give more memory, use a smaller dtype, or cut the image down"
    )


def thinned(plan: BandPlan) -> BandPlan:
    """Send planes to the host until the budget is kept, or there is none left to send."""
    while plan.peak > plan.budget.nbytes:
        fullest = max(range(len(plan.parts)), key=plan.held)
        there = (plan.alive(fullest) & plan.movable()) - plan.away
        if not there:
            return plan
        largest = max(there, key=lambda value: (plan.shapes[value].elements, value))
        plan = replace(plan, away=plan.away | {largest})
    return plan


def areas(first: int, last: int) -> Iterator[int]:
    """Halves of a size, down to another."""
    while first >= last:
        yield first
        first //= 2
