"""Line buffers: tiles keep their last rows and columns for the tiles after them.

Each tile of a grid runs through many steps. Every step buffers the few rows and columns of its
input that its next outputs depend on, so a tile continues where its neighbours ended. Nothing is
computed or read twice. Tiles of deeper steps are shifted by a few pixels against those of earlier
steps, because an output is computed only once all the inputs it depends on have arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..planner.schedule import Axis, Cuts, schedule
from ..program.steps import Conv, Step, TimeUp, Value
from ..program.window import Span
from .job import Job


class Stream:
    """The line buffer of one input of one step: pixels that later tiles still need."""

    def __init__(self, rows: Axis, cols: Axis) -> None:
        self.rows = rows
        self.cols = cols
        self.left: Tensor | None = None
        self.above: dict[int, Tensor | None] = {}

    def take(self, new: Tensor | None, i: int, j: int) -> Tensor | None:
        """All pixels available to tile ``(i, j)``: rows from ``rows.keep[i]``, columns likewise."""
        if j == 0:
            self.left = None
        body = joined(self.above.pop(j, None), new, -2)
        del new
        left, self.left = self.left, None
        whole = joined(left, body, -1)
        del left, body
        if whole is None:
            return None
        rows, cols = self.rows, self.cols
        top, side = rows.keep[i], cols.keep[j]
        # Copies, which do not keep the tile alive.
        if i + 1 < rows.count and rows.keeps(i) and cols.borders[j] < cols.borders[j + 1]:
            lines = slice(rows.keep[i + 1] - top, None)
            self.above[j] = whole[..., lines, cols.borders[j] - side :].clone()
        if j + 1 < cols.count and cols.keeps(j):
            self.left = whole[..., cols.keep[j + 1] - side :].clone()
        return whole


def joined(first: Tensor | None, second: Tensor | None, dim: int) -> Tensor | None:
    """Concatenate what there is."""
    if first is None or second is None:
        return second if first is None else first
    return torch.cat([first, second], dim=dim)


def run_buffered(
    job: Job, steps: Sequence[Step], output: Value, rows: Cuts, cols: Cuts, demand: bool
) -> None:
    """Fill the plane of ``output`` from stored planes, by ``steps``, tile by tile."""
    shapes = job.shapes
    row_cuts = schedule(
        steps, output, rows, demand, lambda v: shapes[v].height, lambda step: step.rows
    )
    col_cuts = schedule(
        steps, output, cols, demand, lambda v: shapes[v].width, lambda step: step.cols
    )
    streams: dict[tuple[Value, int], Stream] = {}
    last: dict[Value, tuple[Value, int]] = {}
    for step in steps:
        for number, value in enumerate(step.inputs):
            shape, out = shapes[value], step.output
            streams[out, number] = Stream(
                Axis(row_cuts[value], row_cuts[out], step.rows, shape.height),
                Axis(col_cuts[value], col_cuts[out], step.cols, shape.width),
            )
            last[value] = (out, number)
    sources = [value for value in row_cuts if value in job.planes and value != output]
    job.caches.open(dict(slots_read(job, steps, row_cuts)))
    for i in range(len(rows) - 1):
        for j in range(len(cols) - 1):
            area = {
                value: (Span(*row_cuts[value][i : i + 2]), Span(*col_cuts[value][j : j + 2]))
                for value in row_cuts
            }
            values: dict[Value, Tensor | None] = {
                value: read(job, value, *area[value]) for value in sources
            }
            for step in steps:
                values[step.output] = advance(job, step, values, area, streams, last, (i, j))
            done = values.pop(output)
            if done is not None:
                job.planes[output].write(*area[output], done)
            del done
            job.visit()
        job.caches.next_row()
    job.caches.close()


def read(job: Job, value: Value, rows: Span, cols: Span) -> Tensor | None:
    """A part of a stored plane, unless it is empty."""
    return job.planes[value].read(rows, cols, job.device) if rows.size and cols.size else None


def slots_read(
    job: Job, steps: Sequence[Step], row_cuts: dict[Value, Cuts]
) -> Iterator[tuple[int, list[Span]]]:
    """Of each cache slot, the rows that each row of tiles reads."""
    for step in steps:
        slot = step.slot if isinstance(step, Conv | TimeUp) else None
        if slot is None:
            continue
        shape, spans = job.shapes[step.inputs[0]], list[Span]()
        for new, made in zip(
            pairwise(row_cuts[step.inputs[0]]), pairwise(row_cuts[step.output]), strict=True
        ):
            out = Span(*made)
            read = [step.rows.reach(out, shape.height).source] if out.size else []
            # A single frame is kept together with the one before it.
            read += [Span(*new)] if shape.frames == 1 and job.program.joins else []
            read = [span for span in read if span.size] or [Span(0, 0)]
            spans.append(Span(min(each.start for each in read), max(each.stop for each in read)))
        yield slot, spans


def advance(
    job: Job,
    step: Step,
    values: dict[Value, Tensor | None],
    area: dict[Value, tuple[Span, Span]],
    streams: dict[tuple[Value, int], Stream],
    last: dict[Value, tuple[Value, int]],
    at: tuple[int, int],
) -> Tensor | None:
    """The next outputs of a step, or ``None`` while there are none."""
    rows, cols = area[step.output]
    first = values[step.inputs[0]]
    if first is not None:
        job.remember(step, first, *area[step.inputs[0]])
    del first
    empty = rows.size == 0 or cols.size == 0
    box: list[Tensor] = []
    for number, value in enumerate(step.inputs):
        stream = streams[step.output, number]
        ends = last[value] == (step.output, number)
        whole = stream.take(values.pop(value) if ends else values[value], *at)
        if empty or whole is None:
            continue
        shape = job.shapes[value]
        need_rows = step.rows.reach(rows, shape.height).source
        need_cols = step.cols.reach(cols, shape.width).source
        held_rows, held_cols = stream.rows.held(at[0]), stream.cols.held(at[1])
        if (need_rows, need_cols) != (held_rows, held_cols):
            whole = whole[..., need_rows.within(held_rows), need_cols.within(held_cols)]
        box.append(whole)
        del whole
    return None if empty else job.compute(step, box, rows, cols)
