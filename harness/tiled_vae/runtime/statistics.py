"""Mean and variance of groups of channels, merged over tiles that do not overlap.

Counts, means and variances are merged (Chan, Golub and LeVeque, 1979): tiles of any size, in any
order, give the statistics of the plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor


class Moments:
    """Statistics of one plane ``N C h w``, for ``groups`` groups of channels."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.count = 0
        self.parts: list[tuple[int, Tensor, Tensor]] = []
        """Of each tile: elements of a group, mean and variance, ``N groups``, or ``N channels``
        where each channel is measured."""
        self.merged: tuple[Tensor, Tensor] | None = None
        self.before: tuple[int, Tensor, Tensor] | None = None
        """Of all tiles that were merged already: count, mean and variance."""
        self.spread: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def add(self, tile: Tensor) -> None:
        """Add a tile."""
        count = tile.numel() // (tile.shape[0] * self.groups)
        if count == 0:
            return
        self.merged = None
        self.spread.clear()
        self.count += count
        if tile.device.type == "cuda" and tile.shape[0] == 1:
            self.parts.append((count, *measured_by_channel(tile)))
            return
        if tile.dtype not in (torch.float16, torch.bfloat16):
            self.parts.append((count, *measured(tile, self.groups)))
            return
        # Half-precision statistics are computed on float32 copies, a few groups at a time.
        each = tile.shape[1] // self.groups
        pieces = torch.split(tile, max(self.groups // 8, 1) * each, dim=1)
        means, variances = zip(
            *(measured(piece.float(), piece.shape[1] // each) for piece in pieces), strict=True
        )
        self.parts.append((count, torch.cat(means, dim=1), torch.cat(variances, dim=1)))

    def summary(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each ``N groups``."""
        if not self.count:
            raise RuntimeError("statistics were asked for before any tile was seen")
        if self.merged is None:
            parts = self.parts if self.before is None else [self.before, *self.parts]
            counts, means, variances = zip(*parts, strict=True)
            units = max(mean.shape[1] for mean in means)
            both = torch.stack([spread(part, units) for part in (*means, *variances)])
            both = both.to(exact(both.device))
            # Tiles, N, groups, and the channels of a group where they were measured one by one.
            both = torch.unflatten(both, 2, (self.groups, -1))
            self.merged = merged(counts, torch.unflatten(both, 0, (2, -1)))
            # Keep only the merged statistics: those of the single tiles take memory on the device.
            self.before, self.parts = (self.count, *self.merged), []
        return self.merged

    def by_channel(self, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and variance of the first item for each of so many channels."""
        key = channels, dtype
        if key not in self.spread:
            mean, variance = (spread(part[:1], channels, dtype)[0] for part in self.summary())
            self.spread[key] = mean, variance
        return self.spread[key]


def merged(counts: Sequence[int], both: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of groups, from those of their parts: ``2 tiles N groups channels``."""
    if len({*counts}) == 1:
        variances, means = torch.var_mean(both, (1, 4), correction=0)  # one kernel for all
        return means[0], variances[0] + means[1]
    # Filled on the device, one run of equal counts at a time, so nothing is copied.
    total = sum(counts) * both.shape[4]
    runs = [(count, len(list(run))) for count, run in groupby(counts)]
    weights = torch.cat([both.new_full((n, 1, 1, 1), count / total) for count, n in runs])
    means, variances = both
    mean = (means * weights).sum((0, 3))
    each = variances + (means - mean.unsqueeze(2)).square()
    return mean, (each * weights).sum((0, 3))


def spread(values: Tensor, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """Values of groups ``N groups`` for each of so many channels, in one kernel."""
    each = count // values.shape[1]
    wide = values.unsqueeze(2).expand(-1, -1, each)
    return wide.to(dtype or values.dtype).reshape(-1, count)


def exact(device: torch.device) -> torch.dtype:
    """The dtype in which statistics are merged."""
    return torch.float64 if device.type != "mps" else torch.float32


def measured(tile: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of ``N C h w``, each ``N groups``.

    The call also computes a normalised tile, which is not needed. On a CPU it takes a fraction of
    the time of ``torch.var_mean``.
    """
    batch, channels = tile.shape[:2]
    # For channels-last tensors the kernel subtracts large squares, which loses digits.
    tile = tile if tile.is_contiguous() else tile.contiguous()
    size = tile.numel() // (batch * channels)
    _, mean, inverse = torch.native_group_norm(tile, None, None, batch, channels, size, groups, 0.0)
    return mean, inverse.pow(-2)


def measured_by_channel(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of ``1 C h w``, each ``1 C``.

    On a GPU this kernel of batch norm reads a tile once, with all multiprocessors, and adds up in
    float32 at least; that of group norm runs one block a group. Without running statistics nothing
    is updated.
    """
    mean, variance = torch.batch_norm_update_stats(tile, None, None, 0.0)
    return mean.unsqueeze(0), variance.unsqueeze(0)
