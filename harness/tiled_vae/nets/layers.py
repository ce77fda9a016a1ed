"""Runs one module of a coder on a tile, padded by its neighbours instead of by zeros.

A plain module's parameters are used directly, so that nothing is computed only to be cut off. Any
other (hooks that move its weights, a subclass that casts them, an adapter, a replaced method) is
called as it is and followed, see `following`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..program.steps import Conv
from ..program.window import Reach
from ..runtime.statistics import Moments
from .folding import convolve_phases, folded, folds
from .following import Given, followed
from .interpose import apply_moments
from .modules import is_plain, is_trusted, kind


def pointwise(module: nn.Module, x: Tensor, *, tokens: bool = False) -> Tensor:
    """A module that looks at one pixel at a time; ``tokens``: of ``N tokens channels``."""
    if is_trusted(module):
        return cast(Tensor, module(x))
    return followed(module, Given(tokens=tokens), x)


class Prepared:
    """Weights in the dtype and layout that kernels take, made once for all tiles of a segment.

    The small ones of ``norms`` are made together, and once for the whole run.
    """

    def __init__(self, norms: Sequence[nn.Module] = ()) -> None:
        self.norms = norms
        self.made: dict[tuple[nn.Module, str], Tensor] = {}
        self.affines: dict[nn.Module, tuple[Tensor, Tensor | None]] = {}

    def affine(self, norm: nn.GroupNorm, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of a norm in the dtype of its statistics."""
        if norm.weight is None or norm.weight.dtype == dtype:
            return norm.weight, norm.bias
        if norm not in self.affines:
            alike: list[Any] = [norm]
            alike += [each for each in self.norms if each is not norm and is_alike(each, norm)]
            pairs = [(each.weight, each.bias) for each in alike]
            parts = [part for pair in pairs for part in pair if part is not None]
            made = iter(torch.split(torch.cat(parts).to(dtype), [len(part) for part in parts]))
            for each, (_, bias) in zip(alike, pairs, strict=True):
                self.affines[each] = next(made), None if bias is None else next(made)
        return self.affines[norm]

    def weight(self, conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
        """The weight of a convolution of planes, of a causal one the last tap.

        On a GPU it has channels innermost where ``x`` has them so, and on a CPU not where ``x`` has
        them apart: the library would otherwise convert it, or the result, for every tile.
        """
        weight = conv.weight if isinstance(conv, nn.Conv2d) else conv.weight[:, :, -1]
        innermost = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if x.device.type == "cuda" and innermost:
            layout = torch.channels_last
        elif x.device.type == "cpu" and x.stride(1) != 1:
            layout = torch.contiguous_format
        else:
            return weight
        if weight.is_contiguous(memory_format=layout):
            return weight
        return self.kept(conv, "weight", lambda: weight.contiguous(memory_format=layout))

    def kept(self, module: nn.Module, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A parameter in its new form, made when it is asked for first."""
        if (module, name) not in self.made:
            self.made[module, name] = make()
        return self.made[module, name]

    def clear(self) -> None:
        """Let go of all of them."""
        self.made.clear()


def is_alike(norm: Any, other: nn.GroupNorm) -> bool:
    """Whether the parameters of a norm are used directly, and are stored as those of another."""
    if not is_plain(norm, nn.GroupNorm) or norm.weight is None:
        return False
    return (norm.weight.dtype, norm.weight.device) == (other.weight.dtype, other.weight.device)


def upsampled(x: Tensor) -> Tensor:
    """Nearest upsampling by two of ``N C h w``: copies, the same in every dtype.

    Video coders upsample halves in float32 and round back, which takes six times the memory.
    """
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def convolve(
    step: Conv,
    box: list[Tensor],
    rows: Reach,
    cols: Reach,
    prepared: Prepared,
    skip_zeros: bool = False,
) -> Tensor:
    """The convolution of a tile, which covers what ``rows`` and ``cols`` read, halo included.

    ``box`` holds the tile and is emptied, so that its memory is free as soon as a padded copy
    exists. A second tensor may hold the past frames of the same pixels from the cache. With
    ``skip_zeros``, taps that would meet only padding in time are left out.
    """
    if isinstance(step.module, nn.Conv3d):
        return convolve_causal(step, box, rows, cols, prepared, skip_zeros)
    if box[0].dim() == 4:
        return convolve_2d(step, box, rows, cols, prepared)
    batch, frames = box[0].shape[0], box[0].shape[2]
    if frames == 1:  # keeps the layout of the tile
        return convolve_2d(step, [box.pop().squeeze(2)], rows, cols, prepared).unsqueeze(2)
    y = convolve_2d(step, [box.pop().transpose(1, 2).flatten(0, 1)], rows, cols, prepared)
    return torch.unflatten(y, 0, (batch, frames)).transpose(1, 2)


def convolve_2d(
    step: Conv, box: list[Tensor], rows: Reach, cols: Reach, prepared: Prepared
) -> Tensor:
    """A 2D convolution of ``N C h w``."""
    x = box.pop()
    if folds(step, x):
        module = cast(nn.Conv2d, step.module)
        weights = prepared.kept(module, "phases", lambda: folded(module.weight))
        return convolve_phases(x, weights, module.bias, module.groups, rows, cols)
    if step.rows.up > 1:
        x = upsampled(x)
        x = x[..., slice(*rows.crop), slice(*cols.crop)]
    if step.plain and isinstance(step.module, nn.Conv2d):
        return in_plane(step, x, rows, cols, prepared)
    zeros = (*cols.zeros, *rows.zeros)
    if not any(step.own):
        x, zeros = F.pad(x, zeros), (0, 0, 0, 0)
    return followed(step.module, Given(zeros, step.own, (step.rows.wrap, step.cols.wrap)), x)


def in_plane(step: Conv, x: Tensor, rows: Reach, cols: Reach, prepared: Prepared) -> Tensor:
    """A 2D convolution with zeros around the plane."""
    module = cast("nn.Conv2d | nn.Conv3d", step.module)
    pad = (max(rows.zeros), cols.zeros[0])
    spare = ends_a_band(step, rows, cols)
    if not spare and (rows.zeros[0] != rows.zeros[1] or cols.zeros[0] != cols.zeros[1]):
        x, pad = F.pad(x, (*cols.zeros, *rows.zeros)), (0, 0)
    weight, stride = prepared.weight(module, x), module.stride[-2:]
    y = F.conv2d(x, weight, module.bias, stride, pad, groups=module.groups)
    if not spare:
        return y
    return y[..., rows.zeros[1] :, :] if rows.zeros[1] else y[..., : -rows.zeros[0], :]


def ends_a_band(step: Conv, rows: Reach, cols: Reach) -> bool:
    """Whether a band of full rows is the first or last one of its plane.

    Then it is convolved with zeros at both ends, and the row too many is let go of: that is one row
    more to compute, and no copy of the band with zeros at one end.
    """
    sides = cols.zeros[0] == cols.zeros[1] > 0
    return (
        sides and rows.zeros[0] != rows.zeros[1] and min(rows.zeros) == 0 and step.rows.stride == 1
    )


def convolve_causal(
    step: Conv, box: list[Tensor], rows: Reach, cols: Reach, prepared: Prepared, skip_zeros: bool
) -> Tensor:
    """A causal 3D convolution of ``N C t h w``."""
    past = box.pop() if len(box) > 1 else None
    x = box.pop()
    module = cast("nn.Conv3d", step.module)
    if not step.plain:
        return followed(module, Given((*cols.zeros, *rows.zeros), step.own), x, past)
    missing = step.past
    if past is not None:
        x = torch.cat([past, x], dim=2)
        missing -= past.shape[2]
        del past
    if x.shape[2] == 1 and missing == step.past and (skip_zeros or not step.past):
        # A plane: its last tap alone meets a frame.
        return in_plane(step, x.squeeze(2), rows, cols, prepared).unsqueeze(2)
    weight, pad = module.weight, (0, 0, 0)
    if missing == 0 and rows.zeros[0] == rows.zeros[1] and cols.zeros[0] == cols.zeros[1]:
        pad = (0, rows.zeros[0], cols.zeros[0])
    else:
        x = F.pad(x, (*cols.zeros, *rows.zeros, missing, 0))
    return F.conv3d(x, weight, module.bias, module.stride, pad, groups=module.groups)


def over_time(module: nn.Module, x: Tensor, past: Tensor | None) -> Tensor:
    """A causal convolution over time alone, called as the coder calls it."""
    if not is_trusted(module):
        return followed(module, Given(), x, past)
    return cast(Tensor, module(x) if past is None else module(x, past))


def normalised(module: nn.Module, x: Tensor, moments: Moments | None, prepared: Prepared) -> Tensor:
    """A fresh tensor: ``x`` normalised by statistics of its plane, or over channels alone."""
    if moments is not None:
        return group_normalised(cast("nn.GroupNorm", module), x, moments, prepared)
    if kind(module) != "RMS_norm" or not is_trusted(module):
        return pointwise(module, x)
    norm = cast(Any, module)
    if norm.gamma.dtype != x.dtype or torch.is_autocast_enabled(x.device.type):
        return cast(Tensor, module(x))
    return channel_normalised(norm, x, prepared)


SHORTEST = 1e-12
"""Pixels are divided by no shorter length, as in ``torch.nn.functional.normalize``."""


def channel_normalised(norm: Any, x: Tensor, prepared: Prepared) -> Tensor:
    """An RMS norm over channels: lengths in float32 at least, and no copy of a tile in it."""
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    length = channel_length(x, exact).clamp_min_(SHORTEST)
    weight = prepared.kept(norm, "weight", lambda: norm.gamma.to(exact) * norm.scale)
    y = torch.div(x, length, out=torch.empty_like(x)).mul_(weight)
    return y if norm.bias is None or isinstance(norm.bias, float) else y.add_(norm.bias)


def channel_length(x: Tensor, exact: torch.dtype) -> Tensor:
    """The length of the channels of every pixel."""
    if x.device.type == "cpu" and x.dtype == exact and x.stride(1) != 1:
        # The kernel for channels that lie apart is an order of magnitude slower.
        return x.square().sum(1, keepdim=True).sqrt_()
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=exact)
    return length


def group_normalised(
    module: nn.GroupNorm, x: Tensor, moments: Moments, prepared: Prepared
) -> Tensor:
    """GroupNorm with given statistics, in float32 at least and in the dtype of the original."""
    if is_plain(module, nn.GroupNorm):
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        weight, bias = prepared.affine(module, exact)
        return apply_moments(x, weight, bias, module.eps, moments)
    return followed(module, Given(moments=moments), x)


def activated(module: nn.Module | None, x: Tensor) -> Tensor:
    """The activation of a fresh tensor, in place where the result is the same."""
    if module is None or isinstance(module, nn.Identity):
        return x
    if is_plain(module, nn.SiLU):
        return F.silu(x, inplace=True)
    return pointwise(module, x)
