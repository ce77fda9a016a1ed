"""A clip that its VAE passes to the coder chunk by chunk, put together again.

All frames run at once through bands of full rows, tiles outside and time inside: what a chunk needs
of the one before is there, and no cache is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..fusion.segments import CARRY, segments
from ..program.steps import Program, Shape
from .bandplan import LARGEST
from .budget import settled
from .plan import Partition


class Clip:
    """The chunks ``B C t H W`` that came so far, of ``frames`` frames in all."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.chunks: list[Tensor] = []

    @property
    def seen(self) -> int:
        """How many frames came."""
        return sum(chunk.shape[2] for chunk in self.chunks)

    @property
    def missing(self) -> int:
        """How many frames are still to come."""
        return self.frames - self.seen

    def whole(self) -> Tensor:
        """All frames; they are handed over, so that the next clip begins anew."""
        chunks, self.chunks = self.chunks, []
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=2)


def clip_bands(
    program: Program, shapes: Sequence[Shape], x: Tensor, limit: float, tile: int | None
) -> Partition:
    """Bands of a clip ``B C T H W``: as high as pays, or as the limit in bytes allows.

    With ``tile``, a band has no more pixels than a square tile of that side. Raises `TilingError`
    where not even single rows fit.
    """
    row = max(
        shape.channels * (shape.frames or 1) * shape.width * level
        for shape, level in zip(shapes, program.levels, strict=True)
    )
    rows = max(int(LARGEST / row), 1)
    if tile is not None:
        rows = min(rows, max(tile**2 // x.shape[-1], 1))
    parts = segments(program, CARRY, ())
    stored = sum(shapes[part.output].elements for part in parts[:-1])
    others = stored + (x.shape[0] - 1) * (shapes[0].elements + shapes[-1].elements)
    width, largest = x.element_size(), Partition(rows, bands=True)
    found, _ = settled(program, shapes, parts, largest, limit, others * width, width)
    return replace(largest, tile=found)
