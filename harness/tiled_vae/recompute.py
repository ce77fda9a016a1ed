"""Recompute: each tile computes all the pixels that it depends on, halo included.

Tiles may have any shape and order. Where the inputs of every convolution are stored planes,
nothing is computed twice: coders with statistics over the plane are run this way.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .job import Job
from .steps import Value
from .window import Span

Cell = tuple[Span, Span]
"""Rows and columns."""


def run_recomputed(job: Job, value: Value, cells: Sequence[Cell]) -> None:
    """Fill the plane of ``value``, tile by tile."""
    plane = job.planes[value]
    for rows, cols in cells:
        plane.write(rows, cols, fetch(job, value, rows, cols, target=True))
        job.visit()


def fetch(job: Job, value: Value, rows: Span, cols: Span, target: bool = False) -> Tensor:
    """Pixels of a value: read where its plane is stored, computed otherwise."""
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
