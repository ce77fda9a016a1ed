"""Planning bands: how many rows at a time, and where each plane is stored.

All sizes are in bytes. A plan is judged by walking through the steps as they will be run, so that
what it says is what will be held, but for what allocators round up and workspaces of kernels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

from ..errors import TilingError
from ..fusion.segments import REST, Segment, closure, segments
from ..nets.layers import ends_a_band
from ..program.steps import Add, Attend, Conv, Program, Shape, Value
from ..program.window import Span
from .budget import too_little
from .tiles import cuts

T = TypeVar("T")

LARGEST = 2**25
"""Elements of a band: enough to keep a GPU busy, and small beside the planes."""

COMFORTABLE = 2**23
"""Elements below which a band's launches begin to cost more than copies of planes do."""

SCORES = 2**28
"""Scores of a band of queries with all keys, at most."""

ATTENDED = 6
"""Tensors of the size of a band that attention holds at once."""


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
    """The longest side of a tile, in pixels of the input; ``None`` for bands of full rows."""


@dataclass(frozen=True)
class Band:
    """Some rows of a plane, and the columns that they are computed in."""

    rows: Span
    columns: tuple[Span, ...]


@dataclass(frozen=True)
class BandPlan:
    """How a program is run by bands."""

    program: Program
    shapes: Sequence[Shape]
    budget: Budget
    area: int = LARGEST
    """The most elements of a band, but for the segments in ``wider``."""
    wider: Mapping[Value, int] = field(default_factory=dict)
    """The same for segments that have room for larger bands, by what they compute."""
    offloaded: frozenset[Value] = frozenset()
    """Planes that are stored on the host; all others are resident on the device."""
    recomputed: frozenset[Value] = frozenset()
    """Planes that are not stored: whatever reads them computes what it needs."""
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was worked out for this plan or for others of the program that it is tried beside."""

    def once(self, what: tuple[Any, ...], work_out: Callable[[], T]) -> T:
        """Something that depends on ``what`` alone."""
        if what not in self.known:
            self.known[what] = work_out()
        found: T = self.known[what]
        return found

    @cached_property
    def parts(self) -> list[Segment]:
        """The segments, in the order they run."""
        return self.once(("parts", self.recomputed), self.find_parts)

    def find_parts(self) -> list[Segment]:
        """Work out `parts`."""
        found = segments(self.program, REST, ())
        if not self.recomputed:
            return found
        stored = {part.output for part in found}
        kept = stored - self.recomputed
        return [closure(self.program, each, kept, REST) for each in sorted(stored)]

    @cached_property
    def last_use(self) -> dict[Value, int]:
        """Which segment is the last to read a plane."""
        return self.once(("last use", self.recomputed), self.find_last_use)

    def find_last_use(self) -> dict[Value, int]:
        """Work out `last_use`."""
        return {value: number for number, part in enumerate(self.parts) for value in part.sources}

    @cached_property
    def successors(self) -> dict[Value, Value]:
        """Planes that are written over another one, band by band: see `find_successors`."""
        return self.once(("successors", self.recomputed), self.find_successors)

    def find_successors(self) -> dict[Value, Value]:
        """Planes that are written over another one, band by band: the sums of residual blocks.

        By value, the one whose memory it takes. A sum reads of the shortcut just the pixels that
        it then writes, and nobody reads the shortcut after it.
        """
        found: dict[Value, Value] = {}
        for number, part in enumerate(self.parts):
            step = part.steps[-1]
            if not isinstance(step, Add) or part.output in (self.program.output, *self.recomputed):
                continue
            shortcut = step.inputs[1]
            readers = [each for each in part.steps if shortcut in each.inputs]
            if (
                shortcut in part.sources - {0}
                and self.last_use[shortcut] == number
                and readers == [step]
                and self.shapes[shortcut] == self.shapes[part.output]
            ):
                found[part.output] = shortcut
        return found

    @cached_property
    def shifted(self) -> dict[Value, Value]:
        """Planes that may be written over another one, a row further up: see `find_shifted`."""
        return self.once(("shifted", self.recomputed), self.find_shifted)

    def find_shifted(self) -> dict[Value, Value]:
        """Ends of residual blocks whose shortcut is a convolution, over what their last one reads.

        By value, the one whose memory it takes. A band is computed from one row before it, no more;
        so what is written a row further up hits only rows that nobody reads any more. That takes
        bands of full rows.
        """
        found: dict[Value, Value] = {}
        for number, part in enumerate(self.parts if self.budget.tile is None else ()):
            shape = self.shapes[part.output]
            middle = Span(shape.height // 2, shape.height // 2 + 1)
            fixed = {self.program.output, *self.recomputed, *self.successors}
            if isinstance(part.steps[-1], Attend) or part.output in fixed:
                continue
            for value, (span,) in self.wants(part, [middle]).items():
                free = value and value not in self.successors and self.last_use[value] == number
                if free and self.shapes[value] == shape and middle.start - span.start == 1:
                    found[part.output] = value
        return found

    def below(self, value: Value) -> Value | None:
        """The plane that this one is written over, a row further up, if they are resident."""
        source = self.shifted.get(value)
        return None if self.offloaded & {value, source} else source

    def spare(self, value: Value) -> int:
        """Rows above a plane, for one that is written over it."""
        return sum(self.below(each) == value for each in self.shifted)

    @property
    def peak(self) -> float:
        """The most that is held on the device."""
        return max(self.held(number) for number in range(len(self.parts))) + self.budget.others

    def visits(self) -> int:
        """How many tiles all segments are run in."""
        count = 0
        for part in self.parts:
            tiles = sum(len(band.columns) for band in self.bands(part))
            count += 2 * tiles if isinstance(part.steps[-1], Attend) else tiles
        return count

    def largest(self, part: Segment) -> int:
        """The most elements of a band of a segment."""
        return self.wider.get(part.output, self.area)

    def bands(self, part: Segment) -> list[Band]:
        """The bands of a segment."""
        shape, step, area = self.shapes[part.output], part.steps[-1], self.largest(part)
        if isinstance(step, Attend):
            # Kernels that keep scores keep them for all pixels.
            scores = shape.height * shape.width * shape.width * area // SCORES
            line = max(ATTENDED * self.row(part.output), scores, 1)
        else:
            values = {value for each in part.steps for value in (*each.inputs, each.output)}
            # Where a plane grows, what counts is the grown copy of the input.
            line = max(self.line(value, part) for value in values)
        rows, columns = max(area // line, 1), shape.width
        if self.budget.tile is not None:
            levels = self.program.levels
            # On coarse planes a tile may have as many pixels as one of the finest plane.
            level = levels[part.output] if isinstance(step, Attend) else max(levels)
            side = max(round(self.budget.tile * level), 1)
            rows = min(rows, side)
            columns = columns if isinstance(step, Attend) else min(columns, side)
        across = tuple(Span(*pair) for pair in pairwise(cuts(shape.width, columns)))
        return [Band(Span(*pair), across) for pair in pairwise(even(shape.height, rows))]

    def line(self, value: Value, part: Segment) -> int:
        """Elements of a value for one row of a segment's output."""
        shape, out = self.shapes[value], self.shapes[part.output]
        return max(shape.channels * shape.width * shape.height // out.height, 1)

    def row(self, value: Value) -> int:
        """Elements of one row of a plane."""
        return self.shapes[value].channels * self.shapes[value].width

    def held(self, number: int) -> float:
        """What is held while a segment runs."""
        planes = sum(
            self.shapes[value].elements + self.spare(value) * self.row(value)
            for value in self.alive(number)
            if value not in self.offloaded
        )
        part = self.parts[number]
        output = self.shapes[part.output].elements * (part.output == self.program.output)
        touched = self.offloaded & {part.output, *part.sources}
        what = "visit", number, self.largest(part), self.recomputed, touched
        return (planes + output + self.once(what, lambda: self.visit(part))) * self.budget.width

    def alive(self, number: int) -> set[Value]:
        """Planes that exist while a segment runs, but for the program's output.

        Of planes in the same memory, one.
        """
        part = self.parts[number]
        made = {0, *(each.output for each in self.parts[: number + 1])} - self.recomputed
        there = {value for value in made if self.last_use.get(value, -1) >= number} | {0}
        if part.output not in self.recomputed | {self.program.output}:
            there.add(part.output)
            there.discard(self.successors.get(part.output, -1))
            there.discard(self.below(part.output) or -1)
        return there - {self.program.output}

    def visit(self, part: Segment) -> float:
        """Elements that are held beside the planes while a segment runs."""
        bands, shape = self.bands(part), self.shapes[part.output]
        rows = [band.rows for band in bands]
        if isinstance(part.steps[-1], Attend):
            return 3 * shape.elements + ATTENDED * rows[0].size * self.row(part.output)
        rings = self.weights(part)
        for value, wants in self.wants(part, rows).items():
            if value in self.offloaded:
                most = max(span.size for span in wants)
                rings += min(2, len(rows)) * most * self.row(value)
        if part.output in self.offloaded:
            # One that is being sent beside the one that is being computed.
            rings += max(span.size for span in rows) * self.row(part.output) * (len(rows) > 1)
        some = [bands[each] for each in {0, 1 % len(bands), len(bands) - 1}]
        tiles = [(band.rows, cols) for band in some for cols in {*band.columns[:2]}]
        return rings + max(self.walk(part, part.output, tile, True)[0] for tile in tiles)

    def weights(self, part: Segment) -> int:
        """Elements of the weights of a segment with their channels innermost."""
        return sum(step.weights for step in part.steps if isinstance(step, Conv))

    def walk(
        self, part: Segment, value: Value, tile: tuple[Span, Span], target: bool = False
    ) -> tuple[float, float]:
        """What is held at most while a tile of a value is computed, and what the result takes."""
        if value in part.sources and not target:
            return 0, 0
        step = self.program.steps[value - 1]
        rows, cols = tile
        out = rows.size * cols.size * self.shapes[value].channels
        most = held = first = 0.0
        for place, each in enumerate(step.inputs):
            shape = self.shapes[each]
            down, across = step.rows.reach(rows, shape.height), step.cols.reach(cols, shape.width)
            peak, taken = self.walk(part, each, (down.source, across.source))
            most, held = max(most, held + peak), held + taken
            first = taken if place == 0 else first
            if isinstance(step, Conv):
                if step.rows.up > 1:
                    grown = down.source.size * across.source.size * step.rows.up * step.cols.up
                    most, held = max(most, held + grown * shape.channels), grown * shape.channels
                if ends_a_band(step, down, across):
                    out += max(down.zeros) * cols.size * self.shapes[value].channels
                elif down.zeros[0] != down.zeros[1] or across.zeros[0] != across.zeros[1]:
                    wide = (down.crop.size + sum(down.zeros)) * (
                        across.crop.size + sum(across.zeros)
                    )
                    most, held = max(most, held + wide * shape.channels), wide * shape.channels
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
        """Planes that may be stored on the host: whatever no attention works on."""
        fixed = {0, self.program.output, *self.recomputed}
        for part in self.parts:
            if isinstance(part.steps[-1], Attend):
                fixed |= {part.output, *part.sources}
        free = {part.output for part in self.parts} - fixed
        return {value for value in free if not self.family(value) & fixed}

    def family(self, value: Value) -> set[Value]:
        """All planes in the memory of this one."""
        found, size = {value}, 0
        while len(found) > size:
            size = len(found)
            for later, earlier in self.successors.items():
                if found & {later, earlier}:
                    found |= {later, earlier}
        return found

    def without(self, value: Value) -> BandPlan:
        """The plan with a plane, and those in its memory, on the host."""
        return replace(self, offloaded=self.offloaded | self.family(value))

    def growing(self) -> frozenset[Value]:
        """The largest plane that is larger than what it is computed from, in memory of its own.

        It is the first of a level whose first block has a convolution as its shortcut: measured,
        and then read twice. To compute it each time takes a quarter more work on the published
        decoders, and no link to the host.
        """
        reused = {*self.successors.values(), self.program.output}
        found = [
            part.output
            for part in self.parts
            if isinstance(part.steps[-1], Conv)
            and part.steps[-1].rows.up > 1
            and len(part.steps) == 1
            and part.output not in reused
        ]
        return frozenset(sorted(found, key=lambda value: self.shapes[value].elements)[-1:])


def even(size: int, most: int) -> list[int]:
    """Borders of equal bands of at most ``most`` rows where there are such, else of about equal.

    Statistics of equal bands are merged in fewer kernels.
    """
    count = -(-size // most)
    for bands in range(count, min(2 * count, size) + 1):
        if size % bands == 0:
            return list(range(0, size + 1, size // bands))
    return [size * band // count for band in range(count + 1)]


KEPT = 128
"""Choices that are remembered: an image size takes one for each coder and budget."""

Choice = tuple[int, Mapping[Value, int], frozenset[Value], frozenset[Value]]
"""What a plan decides: ``area``, ``wider``, ``offloaded`` and ``recomputed``."""

_choices: OrderedDict[Hashable, Choice] = OrderedDict()
"""By all that they depend on; without the modules of a coder, so that none is kept alive."""


def planned(plan: BandPlan, residency: str) -> BandPlan:
    """The fastest way of running that keeps to the budget: worked out once, then remembered.

    Raises `TilingError` where there is none.
    """
    key = plan.program.outline, tuple(plan.shapes), plan.budget, plan.area, residency
    choice = _choices.pop(key, None)
    if choice is None:
        found = widened(worked_out(plan, residency))
        choice = found.area, found.wider, found.offloaded, found.recomputed
    _choices[key] = choice
    if len(_choices) > KEPT:
        _choices.popitem(last=False)
    area, wider, offloaded, recomputed = choice
    return replace(plan, area=area, wider=wider, offloaded=offloaded, recomputed=recomputed)


def worked_out(plan: BandPlan, residency: str) -> BandPlan:
    """`planned`, by trying."""
    # No band is larger than the largest plane.
    plan = replace(plan, area=min(plan.area, max(shape.elements for shape in plan.shapes)))
    if residency == "host":
        return all_offloaded(plan)
    if residency == "device":
        return plan
    for recomputed in (plan.recomputed, plan.growing()):
        for area in areas(plan.area, min(plan.area, COMFORTABLE)):
            resident = replace(plan, area=area, recomputed=recomputed)
            if resident.peak <= plan.budget.nbytes:
                return resident
    for area in areas(plan.area // 2, 1):
        offloading = thinned(replace(plan, area=area))
        if offloading.peak <= plan.budget.nbytes:
            return offloading
    least = all_offloaded(replace(plan, area=1)).peak
    raise TilingError(
        f"{too_little(plan.budget.nbytes, plan.shapes[0], least)} even in "
        "bands of one row: give more memory, use a smaller dtype, or cut the image down"
    )


def all_offloaded(plan: BandPlan) -> BandPlan:
    """The plan with every plane on the host that may be there."""
    return replace(plan, offloaded=frozenset(plan.movable()))


def thinned(plan: BandPlan) -> BandPlan:
    """Send planes to the host until the budget is kept, or there is none left to send."""
    movable = plan.movable()
    while True:
        held = [plan.held(number) for number in range(len(plan.parts))]
        if max(held) + plan.budget.others <= plan.budget.nbytes:
            return plan
        fullest = held.index(max(held))
        there = (plan.alive(fullest) & movable) - plan.offloaded
        if not there:
            return plan
        plan = plan.without(max(there, key=lambda value: (plan.shapes[value].elements, value)))


def widened(plan: BandPlan) -> BandPlan:
    """The plan with larger bands where the budget leaves room for them: fewer kernels to launch.

    What a plan takes at most is decided by few segments; the others need not go in bands as small.
    """
    room = plan.budget.nbytes - plan.budget.others
    wider: dict[Value, int] = {}
    for number, part in enumerate(plan.parts):
        for area in areas(LARGEST, plan.area + 1):
            if replace(plan, wider={part.output: area}).held(number) <= room:
                wider[part.output] = area
                break
    return replace(plan, wider=wider)


def areas(first: int, last: int) -> Iterator[int]:
    """Halves of a size, down to another."""
    while first >= last:
        yield first
        first //= 2
