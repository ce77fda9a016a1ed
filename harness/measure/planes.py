"""Results as planes, and the size of one 8-bit level in them."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case, Direction


def planes(x: Tensor) -> Tensor:
    """A view of shape ``B C T H W`` of a result with or without a frame axis."""
    if x.dim() not in (4, 5):
        raise ValueError(f"a result has 4 or 5 dimensions, not {x.dim()}")
    return x.unsqueeze(2) if x.dim() == 4 else x


def halves(channels: int, direction: Direction) -> tuple[slice, ...]:
    """Groups of channels that share a range: mean and log-variance of moments, or all."""
    if direction is Direction.DECODE or channels % 2:
        return (slice(0, channels),)
    return (slice(0, channels // 2), slice(channels // 2, channels))


def spans(truth: Tensor, direction: Direction) -> Tensor:
    """Peak-to-peak of every channel's group, ``C``, float64; 1 where all is constant."""
    whole = planes(truth)
    made = torch.ones(whole.shape[1], dtype=torch.float64)
    for half in halves(whole.shape[1], direction):
        low, high = whole[:, half].aminmax()
        made[half] = max(float(high - low), 0.0) or 1.0
    return made


def level_sizes(truth: Tensor, direction: Direction) -> Tensor:
    """What one 8-bit level is in every channel, ``C``, float64.

    A decoded picture has 255 of them from -1 to 1. Moments are no picture: there a level is 1/255
    of the peak-to-peak of the mean, or of the log-variance, so that both directions share bounds.
    """
    if direction is Direction.DECODE:
        return torch.full((planes(truth).shape[1],), 2 / 255, dtype=torch.float64)
    return spans(truth, direction) / 255


def output_tile(case: Case) -> int:
    """Side of the nominal tile in pixels of the result."""
    return case.tile * (case.facts.ratio if case.direction is Direction.DECODE else 1)
