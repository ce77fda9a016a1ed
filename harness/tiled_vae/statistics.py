"""Mean and variance of groups of channels, merged over tiles that do not overlap.

Count, mean and sum of squared deviations are merged pairwise (Chan, Golub and LeVeque, 1979):
tiles of any size, in any order, give the statistics of the plane.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Statistics of one plane ``N C h w``, for ``groups`` groups of channels."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, tile: Tensor) -> None:
        """Take in a tile."""
        values = torch.unflatten(tile, 1, (self.groups, -1))
        count = values[0, 0].numel()
        if count == 0:
            return
        exact = torch.float64 if tile.device.type != "mps" else torch.float32
        half = values.dtype in (torch.float16, torch.bfloat16)
        # Statistics of half precision are those of float32 copies: of a few groups at a time.
        pieces = torch.split(values, max(self.groups // 8, 1), dim=1) if half else (values,)
        found = [centred(piece.float() if half else piece) for piece in pieces]
        mean = torch.cat([each[0] for each in found], dim=1).to(exact)
        squares = torch.cat([each[1] for each in found], dim=1).to(exact)
        if self.mean is None or self.squares is None:
            self.mean, self.squares, self.count = mean, squares, count
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + delta * delta * (self.count * count / total)
        self.count = total

    def summary(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each ``N groups``."""
        if self.mean is None or self.squares is None:
            raise RuntimeError("statistics were asked for before any tile was seen")
        return self.mean, self.squares / self.count


def centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each group of ``N groups C h w``.

    In two passes, which on a CPU take a fraction of the time of ``torch.var_mean``.
    """
    dims = tuple(range(2, values.dim()))
    mean = values.mean(dim=dims, keepdim=True)
    squares = (values - mean).square_().sum(dim=dims)
    return mean.flatten(1), squares
