"""Choosing a tile size, and where planes rest, for a given amount of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .errors import TilingError
from .plan import Layout, Planner
from .segments import Segment
from .steps import Program, Shape

MARGIN = 1.15
"""Measured peaks stay within this factor of what is planned."""


def settled(
    program: Program,
    shapes: Sequence[Shape],
    parts: Sequence[Segment],
    layout: Layout,
    budget: int,
    width: int,
) -> tuple[Layout, float]:
    """The largest tiles whose peak is at most ``budget`` bytes, and room for planes beside them.

    ``budget`` is what a call may hold on the device beyond the coder's weights, its input and its
    output counted; ``width`` is the size of an element. Raises `TilingError` where not even the
    smallest tiles fit.
    """
    need = 0.0
    align = max(round(1 / min(program.levels)), 1)
    for tile in smaller(layout.tile, align):
        tried = replace(layout, tile=tile)
        need = Planner(program, shapes, tried, parts).peak() * width * MARGIN
        if need <= budget:
            return tried, (budget - need) / width / MARGIN
    unit = "latent" if program.levels[-1] > 1 else "input"
    raise TilingError(
        f"max_vram is {budget / 2**20:.1f} MiB, but a plane of {shapes[0].width}x"
        f"{shapes[0].height} needs {need / 2**20:.1f} MiB even in tiles of {align} {unit} "
        "pixels: give more memory, use a smaller dtype, or cut the image down"
    )


def smaller(tile: int, align: int) -> Iterator[int]:
    """Tile sizes to try, in steps of a quarter, down to ``align``."""
    while tile > align:
        yield tile
        tile = max(tile * 3 // 4 // align * align, align)
    yield align
