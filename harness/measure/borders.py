"""Steps along whole lines of a picture, at the borders of latent pixels.

Tiles that meet without fading disagree on either side of a line. Where their difference from
untiled is a texture it jumps from pixel to pixel everywhere, and somewhat more at every border of a
latent pixel; at the border of a tile it jumps more than at those beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case
from vae_compat.measure.observation import Baseline
from vae_compat.measure.planes import level_sizes, planes

BESIDE = 4
"""Borders of latent pixels on either side with which one is compared."""
FAINT = 0.5
"""Levels: where the difference jumps by less, it is taken for this much. The value is a choice:
half a step of an 8-bit picture, which rounds to none."""


@dataclass(frozen=True)
class Step:
    """The line along which the difference from untiled jumps most, beside those near it."""

    levels: float
    """The jump in 8-bit levels, rms over the line, all channels and all frames."""
    contrast: float
    """Over the median of the lines near it."""
    axis: str
    """``x``: the line is vertical, at this x; ``y``: horizontal."""
    position: int
    """First pixel after the border."""
    batch: int

    def __str__(self) -> str:
        return (
            f"{self.axis} {self.position}, batch item {self.batch}: {self.levels:.1f} levels, "
            f"{self.contrast:.1f} x those at the borders of latent pixels beside it"
        )


def most_distinct(output: Tensor, baseline: Baseline, case: Case) -> Step:
    """Look at the borders of all latent pixels of a picture of the baseline's shape."""
    level = level_sizes(baseline.truth, case.direction)[:, None, None, None]
    ours, untiled = planes(output), planes(baseline.output)
    found = [Step(0.0, 1.0, "x", 0, 0)]
    for b in range(ours.shape[0]):
        moved = ((ours[b].double() - untiled[b].double()) / level).float()
        for axis, across in (("x", moved), ("y", moved.mT)):
            squares = across.diff(dim=-1).square_().mean(dim=(0, 1, 2))
            jumps = squares[case.facts.ratio - 1 :: case.facts.ratio].sqrt()
            found += [
                Step(float(jump), float(jump / beside), axis, (n + 1) * case.facts.ratio, b)
                for n, (jump, beside) in enumerate(zip(jumps, _beside(jumps), strict=True))
            ]
    return max(found, key=lambda step: step.contrast)


def _beside(jumps: Tensor) -> Tensor:
    """The median of those near each, at least `FAINT`."""
    near = [
        torch.cat([jumps[max(0, n - BESIDE) : n], jumps[n + 1 : n + 1 + BESIDE]])
        for n in range(len(jumps))
    ]
    medians = [float(values.median()) if len(values) else 0.0 for values in near]
    return torch.tensor(medians).clamp_(min=FAINT)
