"""Planes: whole activations, stored between tiles, on the device or offloaded to the host."""

from __future__ import annotations

import torch
from torch import Tensor

from ..program.steps import Shape
from ..program.window import Span
from .statistics import Moments


class Plane:
    """One value of a program, for one item of a batch: ``1 C [T] H W``, filled tile by tile."""

    def __init__(
        self,
        shape: Shape,
        home: torch.device,
        tensor: Tensor | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.shape = shape
        self.layout = layout
        self.home = home
        self.tensor = tensor
        self.moments: dict[int, Moments] = {}
        """Statistics by number of groups, for the norms that read this plane."""

    def covers(self, rows: Span, cols: Span) -> bool:
        """Whether these rows and columns are all of the plane."""
        return (rows.size, cols.size) == (self.shape.height, self.shape.width)

    def read(self, rows: Span, cols: Span, device: torch.device) -> Tensor:
        """A part, moved to ``device``. Callers must not write to it."""
        if self.tensor is None:
            raise RuntimeError("a plane was read before it was written")
        return self.tensor[..., slice(*rows), slice(*cols)].to(device)

    def write(self, rows: Span, cols: Span, tile: Tensor) -> None:
        """Store a tile and add it to the statistics."""
        dense = tile.is_contiguous(memory_format=self.layout)
        whole = self.tensor is None and self.covers(rows, cols)
        if whole and tile.device == self.home and dense:
            self.tensor = tile
        else:
            if self.tensor is None:
                frames = () if self.shape.frames is None else (self.shape.frames,)
                size = (1, self.shape.channels, *frames, self.shape.height, self.shape.width)
                self.tensor = torch.empty(
                    size, dtype=tile.dtype, device=self.home, memory_format=self.layout
                )
            self.tensor[..., slice(*rows), slice(*cols)].copy_(tile)
        for moments in self.moments.values():
            moments.add(tile)
