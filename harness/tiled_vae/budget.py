"""Choosing a tile size, and which planes stay on the device, for a given amount of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .errors import TilingError
from .plan import Partition, Planner
from .segments import Segment
from .steps import Program, Shape

MARGIN = 1.15
"""Measured peaks stay within this factor of what is planned."""


def settled(
    program: Program,
    shapes: Sequence[Shape],
    parts: Sequence[Segment],
    largest: int,
    budget: int,
    others: int,
    width: int,
) -> tuple[int, float]:
    """The largest tiles whose peak is at most ``budget`` bytes, and room for planes beside them.

    ``budget`` is what a call may hold on the device beyond the coder's weights, its input and its
    output counted; ``others`` are the bytes that the other items of the batch take of it; and
    ``width`` is the size of an element. Tiles are at most ``largest`` pixels a side. Raises
    `TilingError` where not even the smallest tiles fit.
    """
    need = 0.0
    align = max(round(1 / min(program.levels)), 1)
    for tile in smaller(largest, align):
        planner = Planner(program, shapes, Partition(tile), parts)
        need = others + planner.peak() * width * MARGIN
        if need <= budget:
            return tile, (budget - need) / width / MARGIN
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
