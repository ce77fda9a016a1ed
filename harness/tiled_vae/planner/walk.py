"""What tiles of a segment hold on the device, told by walking through its steps.

A walk does with sizes what the executors do with tensors: a block is held as long as somebody
refers to it, as the memory of a tensor is. All sizes are in elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from torch import nn

from ..fusion.segments import Segment
from ..nets.layers import ends_a_band
from ..program.steps import (
    KEPT_FRAMES,
    Add,
    Conv,
    Norm,
    Reshuffle,
    Shape,
    Step,
    TimeDown,
    TimeUp,
    Value,
)
from ..program.window import Span
from .schedule import Axis, Cuts, schedule

T = TypeVar("T")

LENGTH = 2
"""Elements of a half that the length of a pixel takes, for norms over channels: it is a float32."""


class Memory:
    """Counts what is held, and the most that was."""

    def __init__(self) -> None:
        self.held = self.most = 0.0


class Block:
    """Some elements, held as long as somebody refers to the block."""

    def __init__(self, memory: Memory, elements: float) -> None:
        self.memory, self.elements = memory, elements
        memory.held += elements
        memory.most = max(memory.most, memory.held)

    def __del__(self) -> None:
        self.memory.held -= self.elements


class Tile:
    """Pixels of a value; ``block`` is ``None`` for a view of a stored plane."""

    def __init__(self, rows: int, cols: int, block: Block | None) -> None:
        self.rows, self.cols, self.block = rows, cols, block


class Walk:
    """Walks through the tiles of a segment.

    ``resident``: its sources are stored on the device. ``windows``: how many bands of each slot of
    a feature cache are there; with two, slots hold frames. ``alone``: there is one frame and none
    before it. ``converts``: the kernels of convolutions want another layout than tiles have.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        part: Segment,
        *,
        resident: bool,
        windows: int = 0,
        alone: bool = False,
        converts: bool = False,
    ) -> None:
        self.shapes, self.part, self.resident = shapes, part, resident
        self.windows, self.alone, self.converts = windows, alone, converts
        self.memory = Memory()
        self.makers = {step.output: step for step in part.steps}

    def block(self, value: Value, pixels: float, frames: int | None = None) -> Block:
        """Memory for pixels of a value, for so many frames or for all of its own."""
        shape = self.shapes[value]
        frames = (shape.frames or 1) if frames is None else frames
        return Block(self.memory, shape.channels * frames * pixels)

    def read(self, value: Value, rows: Span, cols: Span) -> Tile:
        """Pixels of a stored plane: a view, or a copy of what is on the host."""
        there = self.resident or not rows.size or not cols.size
        block = None if there else self.block(value, rows.size * cols.size)
        return Tile(rows.size, cols.size, block)

    def compute(self, step: Step, box: list[Block | None], rows: Span, cols: Span) -> Block | None:
        """What the outputs of a step take; ``box`` is emptied, as `Job.compute` does."""
        value, pixels = step.inputs[0], rows.size * cols.size
        if isinstance(step, Conv):
            return self.convolve(step, box, rows, cols)
        if isinstance(step, Add):
            box.pop()
            fresh = isinstance(self.makers.get(value), Conv) and step.divisor == 1.0
            return box.pop() if fresh else self.block(step.output, pixels)
        x = box.pop()
        if isinstance(step, Norm) and not step.spatial:
            y = self.block(step.output, pixels)
            Block(self.memory, LENGTH * pixels * (self.shapes[value].frames or 1))
            return y
        if isinstance(step, TimeUp | TimeDown):
            return self.resample_time(step, pixels) or x
        if isinstance(step, Reshuffle):
            finest = step.output if step.spreads else value
            pixels *= 1 if step.spreads else step.rows.stride * step.cols.stride
            spread = self.block(finest, pixels)
            ordered = self.block(finest, pixels)
            del spread
            return ordered if step.spreads else self.block(step.output, rows.size * cols.size)
        return self.block(step.output, pixels)

    def convolve(self, step: Conv, box: list[Block | None], rows: Span, cols: Span) -> Block | None:
        """A convolution: what it joins, folds, upsamples and pads, each instead of the last."""
        value = step.inputs[0]
        shape = self.shapes[value]
        frames, up = shape.frames or 1, step.rows.up * step.cols.up
        down, across = step.rows.reach(rows, shape.height), step.cols.reach(cols, shape.width)
        pixels = down.source.size * across.source.size
        missing = 0 if self.alone else step.past
        x = box.pop()
        if missing and self.windows > 1 and step.slot is not None:
            x = self.block(value, pixels, frames + missing)
            frames, missing = frames + missing, 0
        planar = self.alone or not isinstance(step.module, nn.Conv3d)
        if planar and frames > 1:
            x = self.block(value, pixels)
        if up > 1:
            x = self.block(value, pixels * up)
        seen = down.crop.size * across.crop.size
        uneven = down.zeros[0] != down.zeros[1] or across.zeros[0] != across.zeros[1]
        spare = 0
        if planar and ends_a_band(step, down, across):
            spare = max(down.zeros) * cols.size
        elif missing or uneven:
            seen = (down.crop.size + sum(down.zeros)) * (across.crop.size + sum(across.zeros))
            x = self.block(value, seen, frames + missing)
        y = self.block(step.output, rows.size * cols.size + spare)
        self.convert(shape.channels * (frames + missing) * seen, y)
        del x
        return y

    def convert(self, elements: float, y: Block) -> None:
        """What the two ends of a convolution take in another layout, while it runs."""
        if self.converts:
            Block(self.memory, elements + y.elements)

    def resample_time(self, step: TimeUp | TimeDown, pixels: float) -> Block | None:
        """What a step makes beside its input where it acts; ``None`` where it does not."""
        value, out = step.inputs[0], self.shapes[step.output]
        frames, made = self.shapes[value].frames or 1, out.frames or 1
        clip = not self.windows
        if made == frames and (clip or isinstance(step, TimeUp) or self.windows < 2):
            return None
        seen = frames - 1 if clip and isinstance(step, TimeUp) else frames
        past = KEPT_FRAMES if isinstance(step, TimeUp) else int(not clip)
        x = None if clip else self.block(value, pixels, seen + past)
        padded = self.block(value, pixels, seen + past)
        del x
        if isinstance(step, TimeDown):
            y = self.block(step.output, pixels)
            self.convert(padded.elements, y)
            del padded
            return self.block(step.output, pixels) if clip else y
        y = self.block(value, pixels, 2 * seen)
        self.convert(padded.elements, y)
        del padded
        ordered = self.block(value, pixels, 2 * seen)
        del y
        return self.block(step.output, pixels) if clip else ordered

    def recomputed(self, cells: Sequence[tuple[Span, Span]]) -> float:
        """The most that is held while tiles compute all that they depend on."""
        for rows, cols in some(cells):
            self.fetch(self.part.output, rows, cols, target=True)
        return self.memory.most

    def fetch(self, value: Value, rows: Span, cols: Span, target: bool = False) -> Block | None:
        """Pixels of a value: see `executors.recompute.fetch`."""
        if value in self.part.sources and not target:
            return self.read(value, rows, cols).block
        step = self.makers[value]
        box: list[Block | None] = []
        for each in step.inputs:
            shape = self.shapes[each]
            down, across = step.rows.reach(rows, shape.height), step.cols.reach(cols, shape.width)
            box.append(self.fetch(each, down.source, across.source))
        return self.compute(step, box, rows, cols)

    def buffered(self, rows: Cuts, cols: Cuts, demand: bool) -> float:
        """The most that is held while tiles keep their borders in line buffers."""
        steps, output, shapes = self.part.steps, self.part.output, self.shapes
        down = schedule(
            steps, output, rows, demand, lambda v: shapes[v].height, lambda step: step.rows
        )
        across = schedule(
            steps, output, cols, demand, lambda v: shapes[v].width, lambda step: step.cols
        )
        windows = [self.window(step, down) for step in steps]
        lines = {
            (step.output, number): Lines(
                self,
                value,
                Axis(down[value], down[step.output], step.rows, shapes[value].height),
                Axis(across[value], across[step.output], step.cols, shapes[value].width),
            )
            for step in steps
            for number, value in enumerate(step.inputs)
        }
        for i in some(range(len(rows) - 1)):
            for j in some(range(len(cols) - 1)):
                self.visit(lines, down, across, i, j)
        del windows
        return self.memory.most

    def parked(self, step: Step, down: dict[Value, Cuts], i: int) -> Block | None:
        """The rows that a row of tiles sends to a cache slot, held until the next ones are."""
        if not self.windows or not isinstance(step, Conv | TimeUp) or step.slot is None or i < 0:
            return None
        value = step.inputs[0]
        start, stop = down[value][i : i + 2]
        alone = self.windows < 2 and self.shapes[value].frames == 1
        frames = 1 if alone else KEPT_FRAMES
        return self.block(value, (stop - start) * self.shapes[value].width, frames)

    def window(self, step: Step, down: dict[Value, Cuts]) -> Block | None:
        """The rows of a cache slot that are on the device at a time."""
        if self.windows < 2 or not isinstance(step, Conv | TimeUp) or step.slot is None:
            return None
        value = step.inputs[0]
        shape = self.shapes[value]
        high = max(
            max(stop - start, step.rows.reach(Span(*made), shape.height).source.size)
            for (start, stop), made in zip(
                pairwise(down[value]), pairwise(down[step.output]), strict=True
            )
        )
        return self.block(value, high * shape.width, KEPT_FRAMES)

    def visit(
        self,
        lines: dict[tuple[Value, int], Lines],
        down: dict[Value, Cuts],
        across: dict[Value, Cuts],
        i: int,
        j: int,
    ) -> None:
        """One tile: see `executors.line_buffer.advance`."""
        spans = {v: (Span(*down[v][i : i + 2]), Span(*across[v][j : j + 2])) for v in down}
        last = {v: (s.output, n) for s in self.part.steps for n, v in enumerate(s.inputs)}
        for each in lines.values():
            each.begin(i, j)
        values = {value: self.read(value, *spans[value]) for value in self.part.sources}
        parked = {step.output: self.parked(step, down, i - 1) for step in self.part.steps}
        for step in self.part.steps:
            rows, cols = spans[step.output]
            if values[step.inputs[0]].rows:
                parked[step.output] = None
                parked[step.output] = self.parked(step, down, i)
            box: list[Block | None] = []
            for number, value in enumerate(step.inputs):
                key = step.output, number
                whole = lines[key].take(
                    values.pop(value) if last[value] == key else values[value], i, j
                )
                box.append(whole.block)
                del whole
            empty = not rows.size or not cols.size
            done = None if empty else self.compute(step, box, rows, cols)
            del box
            values[step.output] = Tile(rows.size, cols.size, done)
            del done
        for each in lines.values():
            each.end()


class Lines:
    """The line buffer of one input of one step: see `executors.line_buffer.Stream`."""

    def __init__(self, walk: Walk, value: Value, rows: Axis, cols: Axis) -> None:
        self.walk, self.value, self.rows, self.cols = walk, value, rows, cols
        self.others: Block | None = None
        self.above: Block | None = None
        self.left: Block | None = None

    def high(self, i: int) -> int:
        """Rows that are kept above a row of tiles."""
        return self.rows.borders[i] - self.rows.keep[i] if 0 < i < self.rows.count else 0

    def wide(self, j: int) -> int:
        """Columns that are kept to the left of a tile."""
        return self.cols.borders[j] - self.cols.keep[j] if 0 < j < self.cols.count else 0

    def begin(self, i: int, j: int) -> None:
        """What earlier tiles have left."""
        borders, held = self.cols.borders, self.rows.held(i).size
        others = self.high(i + 1) * (borders[j] - borders[0])
        others += self.high(i) * (borders[-1] - borders[j + 1])
        self.others = self.walk.block(self.value, others)
        self.above = self.walk.block(self.value, self.high(i) * (borders[j + 1] - borders[j]))
        self.left = self.walk.block(self.value, held * self.wide(j))

    def take(self, new: Tile, i: int, j: int) -> Tile:
        """All pixels available to a tile; what later tiles need is kept as copies."""
        borders = self.cols.borders
        cols, side, high = borders[j + 1] - borders[j], self.wide(j), self.high(i)
        rows, block = new.rows + high, new.block
        above, self.above = self.above, None
        if high and cols:
            block = self.walk.block(self.value, rows * cols) if new.rows else above
        del new, above
        left, self.left = self.left, None
        if side and rows:
            block = self.walk.block(self.value, rows * (cols + side)) if cols else left
        del left
        self.above = self.walk.block(self.value, self.high(i + 1) * cols)
        self.left = self.walk.block(self.value, rows * self.wide(j + 1))
        return Tile(rows, cols + side, block)

    def end(self) -> None:
        """The tile is done."""
        self.others = self.above = self.left = None


def some(tiles: Sequence[T]) -> list[T]:
    """The first two, one in the middle, and the last two."""
    count = len(tiles)
    return [tiles[n] for n in sorted({0, 1 % count, count // 2, max(count - 2, 0), count - 1})]
