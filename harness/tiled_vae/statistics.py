"""Mean and variance of groups of channels, merged over tiles that do not overlap.

Count, mean and sum of squared deviations are merged (Chan, Golub and LeVeque, 1979): tiles of any
size, in any order, give the statistics of the plane.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Statistics of one plane ``N C h w``, for ``groups`` groups of channels."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        """Of each tile: count, mean and sum of squared deviations."""
        self.merged: tuple[Tensor, Tensor] | None = None
        self.spread: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def add(self, tile: Tensor) -> None:
        """Take in a tile."""
        values = torch.unflatten(tile, 1, (self.groups, -1))
        count = values[0, 0].numel()
        if count == 0:
            return
        self.merged = None
        self.spread.clear()
        self.count += count
        weight = torch.full((), count, dtype=exact(tile.device), device=tile.device)
        if values.dtype not in (torch.float16, torch.bfloat16):
            self.parts.append((weight, *centred(values)))
            return
        # Statistics of half precision are those of float32 copies: of a few groups at a time.
        some = torch.split(values, max(self.groups // 8, 1), dim=1)
        mean, squares = zip(*(centred(piece.float()) for piece in some), strict=True)
        self.parts.append((weight, torch.cat(mean, dim=1), torch.cat(squares, dim=1)))

    def summary(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each ``N groups``."""
        if not self.parts:
            raise RuntimeError("statistics were asked for before any tile was seen")
        if self.merged is None:
            weights, means, squares = (
                torch.stack(each, dim=-1).to(exact(each[0].device))
                for each in zip(*self.parts, strict=True)
            )
            shares = weights / self.count
            mean = (means * shares).sum(-1)
            between = ((means - mean.unsqueeze(-1)).square() * shares).sum(-1)
            self.merged = mean, squares.sum(-1) / self.count + between
            # From now on the plane is one tile: those that it was made of take room on the device.
            self.parts = [(weights.sum(), mean, self.merged[1] * self.count)]
        return self.merged

    def by_channel(self, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and variance of the first item for each of so many channels."""
        key = channels, dtype
        if key not in self.spread:
            each = channels // self.groups
            mean, variance = (part[0].to(dtype) for part in self.summary())
            self.spread[key] = mean.repeat_interleave(each), variance.repeat_interleave(each)
        return self.spread[key]


def exact(device: torch.device) -> torch.dtype:
    """The dtype in which statistics are merged."""
    return torch.float64 if device.type != "mps" else torch.float32


def centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each group of ``N groups C h w``.

    In two passes, which on a CPU take a fraction of the time of ``torch.var_mean``.
    """
    dims = tuple(range(2, values.dim()))
    mean = values.mean(dim=dims, keepdim=True)
    squares = (values - mean).square_().sum(dim=dims)
    return mean.flatten(1), squares
