"""Tiles that fetch what they need: each value is computed for the pixels that are asked for.

Where everything a tile needs is at rest one convolution away, nothing is computed twice, and the
tiles may have any shape and order: that is how coders with statistics over the plane are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .job import Job
from .layers import convolve, upsampled
from .steps import Conv, Value
from .window import Reach, Span, Window

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
    """Pixels of a convolution that goes on at the other side of the plane."""
    shape = job.shapes[step.inputs[0]]
    lines = []
    for row in seen(step.rows, rows, shape.height):
        parts = [piece(job, step, row, col) for col in seen(step.cols, cols, shape.width)]
        lines.append(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
    x = torch.cat(lines, dim=-2) if len(lines) > 1 else lines[0]
    del lines
    reaches = []
    for window, span, size in ((step.rows, rows, shape.height), (step.cols, cols, shape.width)):
        zeros = (0, 0) if window.wrap else window.reach(span, size).zeros
        length = x.shape[-2] if window is step.rows else x.shape[-1]
        reaches.append(Reach(Span(0, length), Span(0, length), zeros))
    flat = replace(
        step,
        window_rows=replace(step.rows, up=1),
        window_cols=replace(step.cols, up=1),
    )
    box = [x]
    del x
    return convolve(flat, box, reaches[0], reaches[1])


def seen(window: Window, out: Span, size: int) -> list[Span]:
    """What the kernel sees of the upsampled plane, in one or more spans."""
    if window.wrap:
        return window.wrapped(out, size)
    reach = window.reach(out, size)
    first = reach.source.start * window.up + reach.crop.start
    return [Span(first, first + reach.crop.size)]


def piece(job: Job, step: Conv, rows: Span, cols: Span) -> Tensor:
    """A part of the upsampled input of a step."""
    up = step.rows.up
    source = [Span(span.start // up, -(-span.stop // up)) for span in (rows, cols)]
    x = fetch(job, step.inputs[0], source[0], source[1])
    if up == 1:
        return x
    x = upsampled(step.upsample, x)
    outer = [Span(span.start * up, span.stop * up) for span in source]
    return x[..., rows.within(outer[0]), cols.within(outer[1])]
