"""Mean and variance of groups of channels, merged over tiles that do not overlap.

Counts, means and variances are merged (Chan, Golub and LeVeque, 1979): tiles of any size, in any
order, give the statistics of the plane.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor


class Moments:
    """Statistics of one plane ``N C h w``, for ``groups`` groups of channels."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.parts: list[tuple[int, Tensor, Tensor]] = []
        """Of each tile: count, mean and inverse standard deviation."""
        self.merged: tuple[Tensor, Tensor] | None = None
        self.spread: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def add(self, tile: Tensor) -> None:
        """Add a tile."""
        count = tile.numel() // (tile.shape[0] * self.groups)
        if count == 0:
            return
        self.merged = None
        self.spread.clear()
        self.count += count
        if tile.dtype not in (torch.float16, torch.bfloat16):
            self.parts.append((count, *measured(tile, self.groups)))
            return
        # Half-precision statistics are computed on float32 copies, a few groups at a time.
        each = tile.shape[1] // self.groups
        pieces = torch.split(tile, max(self.groups // 8, 1) * each, dim=1)
        means, inverses = zip(
            *(measured(piece.float(), piece.shape[1] // each) for piece in pieces), strict=True
        )
        self.parts.append((count, torch.cat(means, dim=1), torch.cat(inverses, dim=1)))

    def summary(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each ``N groups``."""
        if not self.parts:
            raise RuntimeError("statistics were asked for before any tile was seen")
        if self.merged is None:
            counts, *parts = zip(*self.parts, strict=True)
            device = parts[0][0].device
            means, inverses = (torch.stack(part, dim=-1).to(exact(device)) for part in parts)
            # Filled on the device, one run of equal counts at a time, so nothing is copied.
            runs = [(count, len(list(run))) for count, run in groupby(counts)]
            weights = torch.cat([means.new_full((n,), count) for count, n in runs])
            mean = (means * weights).sum(-1) / self.count
            spread = inverses.pow(-2) + (means - mean.unsqueeze(-1)).square()
            self.merged = mean, (spread * weights).sum(-1) / self.count
            # Keep only the merged statistics: those of the single tiles take memory on the device.
            self.parts = [(self.count, mean, self.merged[1].rsqrt())]
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


def measured(tile: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation of each group of ``N C h w``, each ``N groups``.

    The call also computes a normalised tile, which is not needed. On a CPU it takes a fraction of
    the time of ``torch.var_mean``.
    """
    batch, channels = tile.shape[:2]
    # For channels-last tensors the kernel subtracts large squares, which loses digits.
    tile = tile if tile.is_contiguous() else tile.contiguous()
    size = tile.numel() // (batch * channels)
    _, mean, inverse = torch.native_group_norm(tile, None, None, batch, channels, size, groups, 0.0)
    return mean, inverse
