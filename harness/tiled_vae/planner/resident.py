"""Planning runs whose planes all stay on the device: clips, chunks of them, and the fast modes.

Most steps of such a program need no whole plane, so that a tile runs through nearly all of them at
once and few planes are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..fusion.segments import Segment
from ..program.steps import Program, Shape, TimeDown
from .bandplan import LARGEST
from .budget import settled
from .plan import Partition


def high_bands(program: Program, shapes: Sequence[Shape]) -> Partition:
    """Bands of full rows, as high as pays."""
    row = max(
        shape.channels * (shape.frames or 1) * shape.width * level
        for shape, level in zip(shapes, program.levels, strict=True)
    )
    return Partition(max(int(LARGEST / row), 1), bands=True, resident=True)


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
