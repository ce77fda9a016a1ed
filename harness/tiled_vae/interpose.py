"""Changes what a module passes to torch, while the module itself runs unchanged.

Hooks and subclasses that load, cast or offload its weights keep working.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .statistics import Moments


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


class GivenMoments(TorchFunctionMode):
    """Inside, ``group_norm`` uses given statistics, with the weights that it is called with."""

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace ``group_norm`` and leave other functions."""
        kwargs = dict(kwargs or {})
        if func is not F.group_norm:
            return func(*args, **kwargs)
        names = ("input", "num_groups", "weight", "bias", "eps")
        given = {"weight": None, "bias": None, "eps": 1e-5, **dict(zip(names, args, strict=False))}
        given |= kwargs
        return apply_moments(
            given["input"],
            given["weight"],
            given["bias"],
            given["eps"],
            self.moments,
        )


class GivenPadding(TorchFunctionMode):
    """Inside, a convolution pads the plane as told: ``left, right, top, bottom``.

    ``replaced`` says whether any padding of a plane was replaced. If not, the module padded in a
    way that does not go through these functions.
    """

    def __init__(self, zeros: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.zeros = zeros
        self.replaced = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace padding, by ``F.pad`` or by the convolution itself."""
        kwargs = dict(kwargs or {})
        if func is F.pad:
            given = _named(("input", "pad"), args, kwargs)
            pad = list(given["pad"])
            if any(pad[:4]):
                self.replaced = True
                given["pad"] = [*self.zeros, *pad[4:]]
            return F.pad(**given)
        if func in (torch.conv2d, torch.conv3d):
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given = _named(names, args, kwargs)
            pad = given.get("padding", 0)
            pad = list(pad) if isinstance(pad, tuple | list) else [pad]
            if any(pad[-2:]):
                self.replaced = True
                given["input"] = F.pad(given["input"], self.zeros)
                given["padding"] = 0 if func is torch.conv2d else (pad[0], 0, 0)
            return func(**given)
        return func(*args, **kwargs)


def _named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}
