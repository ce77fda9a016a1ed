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
        self.channels: list[tuple[int, Tensor, Tensor]] = []
        """The same by channels, of tiles with channels innermost: count, mean and variance."""
        self.merged: tuple[Tensor, Tensor] | None = None
        self.spread: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def add(self, tile: Tensor) -> None:
        """Take in a tile."""
        count = tile.numel() // (tile.shape[0] * self.groups)
        if count == 0:
            return
        self.merged = None
        self.spread.clear()
        self.count += count
        if tile.shape[0] == 1 and in_one_pass(tile):
            pixels = tile.shape[2] * tile.shape[3]
            self.channels.append((pixels, *measured_by_channel(tile)))
            return
        if tile.dtype not in (torch.float16, torch.bfloat16):
            self.parts.append((count, *measured(tile, self.groups)))
            return
        # Statistics of half precision are those of float32 copies: of a few groups at a time.
        each = tile.shape[1] // self.groups
        pieces = torch.split(tile, max(self.groups // 8, 1) * each, dim=1)
        means, inverses = zip(
            *(measured(piece.float(), piece.shape[1] // each) for piece in pieces), strict=True
        )
        self.parts.append((count, torch.cat(means, dim=1), torch.cat(inverses, dim=1)))

    def summary(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, each ``N groups``."""
        if not self.parts and not self.channels:
            raise RuntimeError("statistics were asked for before any tile was seen")
        if self.merged is None and self.channels:
            mean, variance = self.joined()
            if self.parts:
                # Tiles of both kinds: a band of a single pixel lies in either way.
                pixels = sum(count for count, *_ in self.channels)
                each = self.channels[0][1].shape[0] // self.groups
                self.parts.append((pixels * each, mean, variance.rsqrt()))
                self.channels.clear()
            else:
                self.merged = mean, variance
        if self.merged is None:
            counts, *parts = zip(*self.parts, strict=True)
            device = parts[0][0].device
            means, inverses = (torch.stack(part, dim=-1).to(exact(device)) for part in parts)
            # Made on the device, in a few runs of equal tiles: nothing is copied to it.
            runs = [(count, len(list(run))) for count, run in groupby(counts)]
            weights = torch.cat([means.new_full((n,), count) for count, n in runs])
            mean = (means * weights).sum(-1) / self.count
            spread = inverses.pow(-2) + (means - mean.unsqueeze(-1)).square()
            self.merged = mean, (spread * weights).sum(-1) / self.count
            # From now on the plane is one tile: those that it was made of take room on the device.
            self.parts = [(self.count, mean, self.merged[1].rsqrt())]
        return self.merged

    def joined(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of groups, from those of their channels."""
        counts, *parts = zip(*self.channels, strict=True)
        means, variances = (torch.stack(part).to(exact(part[0].device)) for part in parts)
        pixels = sum(counts)
        runs = [(count, len(list(run))) for count, run in groupby(counts)]
        weights = torch.cat([means.new_full((n, 1), count / pixels) for count, n in runs])
        centre = (means * weights).sum(0)
        spread = ((variances + (means - centre).square()) * weights).sum(0)
        centre, spread = (each.view(1, self.groups, -1) for each in (centre, spread))
        mean = centre.mean(2)
        return mean, (spread + (centre - mean.unsqueeze(2)).square()).mean(2)

    def by_channel(self, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and variance of the first item for each of so many channels."""
        key = channels, dtype
        if key not in self.spread:
            each = channels // self.groups
            mean, variance = (part[0].to(dtype) for part in self.summary())
            self.spread[key] = repeated(mean, each), repeated(variance, each)
        return self.spread[key]


def repeated(values: Tensor, times: int) -> Tensor:
    """Each value so many times, in one kernel."""
    return values.unsqueeze(1).expand(-1, times).reshape(-1)


def exact(device: torch.device) -> torch.dtype:
    """The dtype in which statistics are merged."""
    return torch.float64 if device.type != "mps" else torch.float32


def measured(tile: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation of each group of ``N C h w``, each ``N groups``.

    They come with a normalised tile that nobody needs: on a CPU in a fraction of the time that
    ``torch.var_mean`` takes, and in one call.
    """
    batch, channels = tile.shape[:2]
    # Where channels lie innermost the kernel subtracts large squares from one another.
    tile = tile if tile.is_contiguous() else tile.contiguous()
    size = tile.numel() // (batch * channels)
    _, mean, inverse = torch.native_group_norm(tile, None, None, batch, channels, size, groups, 0.0)
    return mean, inverse


def in_one_pass(tile: Tensor) -> bool:
    """Whether each channel of a tile can be measured in one go: where channels lie innermost."""
    return tile.is_contiguous(memory_format=torch.channels_last) and not tile.is_contiguous()


def measured_by_channel(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of ``1 C h w``, in float32 at least.

    On a GPU the kernel of batch norm reads a tile once, on all of its multiprocessors; that of
    group norm has one block for a group.
    """
    if tile.device.type == "cuda":
        mean, inverse = torch.batch_norm_stats(tile, 0.0)
        # The kernel gives 0 for a channel of one value.
        return mean, torch.where(inverse == 0, 0.0, inverse.pow(-2))
    if tile.dtype in (torch.float16, torch.bfloat16):
        tile = tile.float()
    if tile.device.type == "cpu":
        mean, variance = torch.batch_norm_update_stats(tile, None, None, 0.0)
        return mean, variance
    variance, mean = torch.var_mean(tile, (0, 2, 3), correction=0)
    return mean, variance
