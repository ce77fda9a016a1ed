"""Recompute: each tile computes all the pixels that it depends on, halo included.

Tiles may have any shape and order. Where the inputs of every convolution are stored planes,
nothing is computed twice: coders with statistics over the plane are run this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..nets.layers import convolve, upsampled
from ..program.steps import Conv, Value
from ..program.window import Reach, Span
from .job import Job

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
    if isinstance(step, Conv) and (step.rows.wrap or step.cols.wrap):
        return wrapped(job, step, rows, cols)
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


def wrapped(job: Job, step: Conv, rows: Span, cols: Span) -> Tensor:
    """Pixels of a convolution with circular padding: what the kernel sees is joined first."""
    shape = job.shapes[step.inputs[0]]
    lines = []
    for row in step.rows.seen(rows, shape.height):
        parts = [piece(job, step, row, col) for col in step.cols.seen(cols, shape.width)]
        lines.append(torch.cat(parts, dim=-1))
    box = [torch.cat(lines, dim=-2)]
    del lines, parts
    reaches = []
    for window, span, size, length in (
        (step.rows, rows, shape.height, box[0].shape[-2]),
        (step.cols, cols, shape.width, box[0].shape[-1]),
    ):
        zeros = (0, 0) if window.wrap else window.reach(span, size).zeros
        reaches.append(Reach(Span(0, length), Span(0, length), zeros))
    joined = replace(
        step, window_rows=replace(step.rows, up=1), window_cols=replace(step.cols, up=1)
    )
    return convolve(joined, box, reaches[0], reaches[1], job.prepared)


def piece(job: Job, step: Conv, rows: Span, cols: Span) -> Tensor:
    """A part of the upsampled input of a step."""
    up = step.rows.up
    source = tuple(Span(span.start // up, -(-span.stop // up)) for span in (rows, cols))
    x = fetch(job, step.inputs[0], source[0], source[1])
    if up == 1:
        return x
    x = upsampled(x)
    outer = [Span(span.start * up, span.stop * up) for span in source]
    return x[..., rows.within(outer[0]), cols.within(outer[1])]
