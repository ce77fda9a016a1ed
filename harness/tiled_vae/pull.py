"""Tiles that fetch what they need: each value is computed for the pixels that are asked for.

Where everything a tile needs is at rest one convolution away, nothing is computed twice, and the
tiles may have any shape and order: that is how coders with statistics over the plane are run.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .job import Job
from .steps import Value
from .window import Span

Cell = tuple[Span, Span]
"""Rows and columns."""


def pull(job: Job, value: Value, cells: Sequence[Cell]) -> None:
    """Fill the plane of ``value``, tile by tile."""
    plane = job.planes[value]
    for rows, cols in cells:
        plane.write(rows, cols, fetch(job, value, rows, cols, target=True))
        job.visit()


def fetch(job: Job, value: Value, rows: Span, cols: Span, target: bool = False) -> Tensor:
    """Pixels of a value: read where it rests, computed otherwise."""
    if value in job.planes and not target:
        return job.planes[value].read(rows, cols, job.device)
    step = job.program.steps[value - 1]
    box: list[Tensor] = []
    for each in step.inputs:
        shape = job.shapes[each]
        source = (
            step.rows.reach(rows, shape.height).source,
            step.cols.reach(cols, shape.width).source,
        )
        box.append(fetch(job, each, *source))
        if each == step.inputs[0]:
            job.remember(step, box[0], *source)
    return job.compute(step, box, rows, cols)
