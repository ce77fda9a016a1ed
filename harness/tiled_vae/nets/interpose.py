"""A norm by given statistics, with the arguments of torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..runtime.statistics import Moments


def apply_moments(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    moments: Moments,
) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` for ``1 C h w``."""
    if torch.is_autocast_enabled(x.device.type) and x.device.type == "cuda":
        x = x.float()
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, variance = moments.by_channel(x.shape[1], exact)
    weight, bias = (None if part is None else part.to(exact) for part in (weight, bias))
    if x.device.type == "cpu":
        # The kernel for views is an order of magnitude slower.
        innermost = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        x = x if innermost else x.contiguous()
    # With given statistics group norm and batch norm are equal, and batch norm accepts them.
    y: Tensor = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
    return y


def named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}
