"""Runs a program segment by segment: attention, with line buffers, or recomputed."""

from __future__ import annotations

import torch

from ..fusion.segments import Segment
from ..planner.plan import Partition, Planner
from ..program.steps import Attend, Norm, Value
from ..program.window import Span
from ..runtime.planes import Plane
from ..runtime.statistics import Moments
from .attention import attend
from .job import Job
from .line_buffer import run_buffered
from .recompute import run_recomputed


def execute(job: Job, parts: list[Segment], partition: Partition) -> Plane:
    """Run all segments; only the plane of the program's output is left."""
    planner = Planner(job.program, job.shapes, partition, parts)
    job.resident_limit = job.resident_limit or planner.resident_limit
    last_use: dict[Value, int] = {}
    for number, part in enumerate(parts):
        for value in part.sources:
            last_use[value] = number
    measure_input(job)
    for number, part in enumerate(parts):
        plane = job.planes[part.output] = plane_of(job, part)
        plane.moments = {groups: Moments(groups) for groups in wanted_groups(job, part.output)}
        step = part.steps[-1]
        if isinstance(step, Attend):
            attend(job, step, planner.bands(part))
        elif part.carried:
            run_buffered(job, part.steps, part.output, *planner.borders(part))
        else:
            run_recomputed(job, part.output, planner.cells(part))
        for value in part.sources:
            if last_use[value] == number:
                del job.planes[value]
        job.prepared.clear()
    return job.planes[job.program.output]


def measure_input(job: Job) -> None:
    """Take the statistics that norms of the input itself need."""
    first, shape = job.planes[0], job.shapes[0]
    for groups in wanted_groups(job, 0):
        moments = first.moments.setdefault(groups, Moments(groups))
        moments.add(first.read(Span(0, shape.height), Span(0, shape.width), job.device))


def plane_of(job: Job, part: Segment) -> Plane:
    """The plane of a segment, still empty. On a GPU channels lie innermost, but for those of clips.

    Convolutions of planes want them so there. The coder's output lies as the coder would have it.
    """
    shape, home, layout = job.shapes[part.output], home_of(job, part), torch.contiguous_format
    if part.output == job.program.output:
        return Plane(shape, home, job.into)
    if home.type == "cuda" and shape.frames is None:
        layout = torch.channels_last
    elif home.type == "cuda" and shape.frames == 1 and job.skip_zeros:
        layout = torch.channels_last_3d
    return Plane(shape, home, layout=layout)


def home_of(job: Job, part: Segment) -> torch.device:
    """Where the plane of a segment is stored: resident on the device where there is room for it."""
    if part.output == job.program.output or job.home == job.device:
        return job.device
    taken = sum(
        plane.shape.elements
        for value, plane in job.planes.items()
        if value and plane.home == job.device
    )
    wanted = taken + job.shapes[part.output].elements
    return job.device if wanted <= job.resident_limit else job.home


def wanted_groups(job: Job, value: Value) -> set[int]:
    """Group counts of the GroupNorms that need statistics of a value."""
    groups: set[int] = set()
    for step in job.program.steps:
        if value not in step.inputs:
            continue
        norm = step.norm if isinstance(step, Attend) else None
        if isinstance(step, Norm):
            norm = step.module
        spatial = isinstance(step, Attend | Norm) and step.spatial
        if spatial and norm is not None and norm not in job.given:
            groups.add(int(norm.num_groups))  # type: ignore[arg-type]
    return groups
