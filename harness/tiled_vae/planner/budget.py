"""Choosing a tile size, and which planes stay on the device, for a given amount of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..errors import TilingError
from ..fusion.segments import Segment
from ..program.steps import Program, Shape
from .plan import Partition, Planner

MARGIN = 1.03
"""Measured peaks stay within this factor of what is planned: allocators round up."""

UNTOUCHED = 1 / 16
"""Share of the free memory that is left to workspaces of kernels and to fragmentation."""


def free_memory(device: torch.device) -> float:
    """Bytes that may be taken on a device; no limit is known but on a GPU."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    usable = int((free + cached) * (1 - UNTOUCHED))
    # In coarse steps, so that a plan that was made for about as much is found again.
    step: int = 2 ** max(usable.bit_length() - 6, 0)
    return usable // step * step


def settled(
    program: Program,
    shapes: Sequence[Shape],
    parts: Sequence[Segment],
    largest: Partition,
    budget: float,
    others: int,
    width: int,
) -> tuple[int, float]:
    """The largest tiles whose peak is at most ``budget`` bytes, and room for planes beside them.

    ``budget`` is what a call may hold on the device beyond the coder's weights and its input, its
    output counted; ``others`` are the bytes that the other items of the batch take of it; and
    ``width`` is the size of an element. Tiles are no larger than those of ``largest``. Raises
    `TilingError` where not even the smallest tiles fit.
    """
    need = 0.0
    align = max(round(1 / min(program.levels)), 1)
    for tile in smaller(largest.tile, align):
        planner = Planner(program, shapes, replace(largest, tile=tile), parts)
        need = others + planner.peak() * width * MARGIN
        if need <= budget:
            return tile, (budget - need) / width / MARGIN
    unit = "latent" if program.levels[-1] > 1 else "input"
    raise TilingError(
        f"{too_little(budget, shapes[0], need)} even in tiles of {align} {unit} "
        f"pixel{'s' * (align > 1)}: give more memory, use a smaller dtype, or cut the image down"
    )


def too_little(budget: float, shape: Shape, need: float) -> str:
    """The beginning of a sentence about a plane (height x width) that a budget is too small for."""
    given = f"{budget / 2**20:.1f} MiB" if budget >= 2**20 else f"{budget / 2**10:.1f} KiB"
    plane = f"{shape.height} x {shape.width}"
    return f"max_vram is {given}, but a plane of {plane} needs {need / 2**20:.1f} MiB"


def smaller(tile: int, align: int) -> Iterator[int]:
    """Tile sizes to try, in steps of a quarter, down to ``align``."""
    while tile > align:
        yield tile
        tile = max(tile * 3 // 4 // align * align, align)
    yield align
