"""Planning runs whose planes all stay on the device: clips, chunks of them, and the fast modes.

Most steps of such a program need no whole plane, so that a tile runs through nearly all of them at
once and few planes are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..errors import TilingError
from ..fusion.segments import Segment
from ..program.steps import Program, Shape, TimeDown
from .bandplan import LARGEST
from .budget import settled
from .plan import Partition

FEWEST_BANDS = 4
"""Of fewer, those that are read and those that are written would be half of the slots or more."""


def high_bands(program: Program, shapes: Sequence[Shape]) -> Partition:
    """Bands of full rows, as high as pays."""
    row = max(
        shape.channels * (shape.frames or 1) * shape.width * level
        for shape, level in zip(shapes, program.levels, strict=True)
    )
    return Partition(max(int(LARGEST / row), 1), bands=True, resident=True)


def low_bands(tile: int, x: Tensor) -> Partition:
    """Bands of full rows with as many pixels as a tile.

    The slots of a feature cache come and go by rows of tiles: the lower these are, the less of them
    is on the device. Raises `TilingError` where bands would be a large part of the plane.
    """
    height, width = x.shape[-2:]
    rows = max(tile**2 // width, 1)
    if height < FEWEST_BANDS * rows:
        raise TilingError(f"{height} rows are too few for bands of {rows}")
    return Partition(rows, bands=True, resident=True)


def fitting(
    program: Program,
    shapes: Sequence[Shape],
    parts: Sequence[Segment],
    largest: Partition,
    limit: float,
    batch: int,
    width: int,
) -> Partition:
    """The largest tiles or bands for which a call takes at most ``limit`` bytes on the device.

    ``width`` is the size of an element. Raises `TilingError` where there are none.
    """
    others = (batch - 1) * (shapes[0].elements + shapes[-1].elements)
    if largest.windows:
        # Untiled coders use the slots of these without moving them to their device first.
        for step in program.steps:
            if isinstance(step, TimeDown):
                shape = shapes[step.inputs[0]]
                others += batch * shape.elements // (shape.frames or 1)
    found, _ = settled(program, shapes, parts, largest, limit, others * width, width)
    return replace(largest, tile=found)
