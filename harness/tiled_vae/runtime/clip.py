"""A clip that its VAE passes to the coder chunk by chunk, put together again.

All frames run at once through bands of full rows, tiles outside and time inside: what a chunk needs
of the one before is there, and no cache is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..program.steps import Shape


class Clip:
    """The chunks ``B C t H W`` that came so far, of ``frames`` frames in all."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.chunks: list[Tensor] = []
        self.run: Callable[[Tensor], Tensor] | None = None
        """How all frames are run, once that is planned."""
        self.shape: Shape | None = None
        """Of what comes out."""

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
