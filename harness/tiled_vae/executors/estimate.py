"""Statistics estimated from a small copy of the input, for the fast modes.

With statistics known beforehand a tile runs through the whole coder at once, and no plane has to be
stored. The price is the estimate: the picture gets slightly different contrasts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fusion.segments import REST, segments
from ..planner.plan import Partition
from ..program.steps import Attend, Norm, Program, Shape
from ..runtime.caches import Caches, ItemCaches
from ..runtime.planes import Plane
from ..runtime.statistics import Moments
from .job import Job
from .run import execute


def estimated(
    program: Program, x: Tensor, tile: int, device: torch.device, before_downsampling: bool
) -> dict[nn.Module, Moments]:
    """Statistics of all norms over the plane, from ``x`` (``1 C H W``) shrunk to one tile.

    With ``before_downsampling`` only those of norms at the resolution of the input.
    """
    norms = spatial_norms(program, before_downsampling)
    if not norms:
        return {}
    small = shrunk(x, tile, align=max(round(1 / min(program.levels)), 1))
    shape = Shape(small.shape[1], small.shape[2] if small.dim() == 5 else None, *small.shape[-2:])
    caches = Caches(None, 0, device)
    shapes = program.shapes(shape, caches.clock)
    seen: dict[nn.Module, Moments] = {}
    job = Job(program, shapes, device, device, ItemCaches(caches, 0, 1), seen=seen)
    job.planes[0] = Plane(shape, device, small.to(device))
    execute(job, segments(program, REST, ()), Partition(max(shape.height, shape.width)))
    return {norm: moments for norm, moments in seen.items() if norm in norms}


def spatial_norms(program: Program, before_downsampling: bool) -> set[nn.Module]:
    """Norms with statistics over the plane."""
    found: set[nn.Module] = set()
    for step in program.steps:
        if before_downsampling and step.rows.stride > 1:
            break
        norm = step.module if isinstance(step, Norm) else None
        norm = step.norm if isinstance(step, Attend) else norm
        if norm is not None and getattr(step, "spatial", False):
            found.add(norm)
    return found


def shrunk(x: Tensor, tile: int, align: int) -> Tensor:
    """A small copy with the mean and the spread of ``x``, channel by channel."""
    height, width = x.shape[-2:]
    factor = max(height, width) / max(tile, align)
    if factor <= 1:
        return x
    size = [max(round(side / factor) // align * align, align) for side in (height, width)]
    small = F.interpolate(x, size=size, mode="nearest-exact")
    spread, mean = torch.std_mean(x, dim=(-2, -1), keepdim=True, correction=0)
    own_spread, own_mean = torch.std_mean(small, dim=(-2, -1), keepdim=True, correction=0)
    scale = torch.where(own_spread > 0, spread / own_spread, torch.ones_like(spread))
    return (small - own_mean) * scale + mean
