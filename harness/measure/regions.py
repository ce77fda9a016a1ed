"""Regions of a result whose colour is shifted as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.measure.observation import Baseline
from vae_compat.measure.planes import level_sizes, output_tile, planes


@dataclass(frozen=True)
class Shifted:
    """The region whose mean is farthest from that of untiled, in any channel."""

    levels: float
    """Mean difference in 8-bit levels, signed."""
    batch: int
    channel: int
    frame: int
    y: int
    """First pixel of the region, as ``x``."""
    x: int
    side: int
    """Half a nominal tile, so that a tile of its own tone cannot average with its neighbours."""

    def __str__(self) -> str:
        return (
            f"batch item {self.batch}, channel {self.channel}, frame {self.frame}, y {self.y} to "
            f"{self.y + self.side}, x {self.x} to {self.x + self.side}"
        )


def most_shifted(output: Tensor, baseline: Baseline, case: Case) -> Shifted:
    """Look at every region of a result of the baseline's shape, one frame at a time."""
    level = level_sizes(baseline.truth, case.direction)[:, None, None]
    ours, untiled = planes(output), planes(baseline.output)
    side = min(max(1, output_tile(case) // 2), *ours.shape[-2:])
    worst = Shifted(0.0, 0, 0, 0, 0, 0, side)
    for b in range(ours.shape[0]):
        for t in range(ours.shape[2]):
            moved = (ours[b, :, t].double() - untiled[b, :, t].double()) / level
            means = F.avg_pool2d(moved, side, ceil_mode=True)
            place = torch.unravel_index(means.abs().argmax(), means.shape)
            c, row, column = (int(index) for index in place)
            shift = float(means[c, row, column])
            if abs(shift) > abs(worst.levels):
                worst = Shifted(shift, b, c, t, row * side, column * side, side)
    return worst
