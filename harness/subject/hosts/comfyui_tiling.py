"""Own versions of the tiling functions of ``comfy.utils``, by what they are documented to do.

``tiled_scale_multidim`` runs a function over overlapping tiles of the last axes of every item and
returns the mean, weighted so that tiles fade into each other over their overlap
(comfyanonymous/ComfyUI, comfy/utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

Amount = float | Callable[[float], float]
"""Output pixels per input pixel, or a function from a length to a length."""


def get_tiled_scale_steps(width: int, height: int, tile_x: int, tile_y: int, overlap: int) -> int:
    """How many tiles a plane has: what progress bars count."""
    rows, columns = _count(height, tile_y, overlap), _count(width, tile_x, overlap)
    return rows * columns


def tiled_scale(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile_x: int = 64,
    tile_y: int = 64,
    overlap: int = 8,
    upscale_amount: float = 4,
    out_channels: int = 3,
    output_device: Any = "cpu",
    pbar: Any = None,
) -> Tensor:
    """The same for planes ``B C H W``."""
    return tiled_scale_multidim(
        samples,
        function,
        (tile_y, tile_x),
        overlap=overlap,
        upscale_amount=upscale_amount,
        out_channels=out_channels,
        output_device=output_device,
        pbar=pbar,
    )


@torch.inference_mode()
def tiled_scale_multidim(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile: Sequence[int] = (64, 64),
    overlap: int | Sequence[int] = 8,
    upscale_amount: Amount | Sequence[Amount] = 4,
    out_channels: int = 3,
    output_device: Any = "cpu",
    downscale: bool = False,
    index_formulas: Any = None,
    pbar: Any = None,
) -> Tensor:
    """Run ``function`` over tiles of ``B C *axes``, and blend what comes out.

    ``tile``, ``overlap`` and ``upscale_amount`` have an entry for each axis, or one for all.
    ``downscale``: the amounts are input pixels per output pixel. ``index_formulas`` tell where an
    input position lies in the output, by default by the amounts.
    """
    axes = len(tile)
    overlaps = _each(overlap, axes)
    sizes = [_scale(amount, downscale) for amount in _each(upscale_amount, axes)]
    places = sizes
    if index_formulas is not None:
        places = [_scale(formula, downscale) for formula in _each(index_formulas, axes)]
    shape = [round(scale(n)) for scale, n in zip(sizes, samples.shape[2:], strict=True)]
    out = torch.empty((samples.shape[0], out_channels, *shape), device=output_device)
    for item, target in zip(torch.split(samples, 1), torch.split(out, 1), strict=True):
        lengths = item.shape[2:]
        if all(length <= side for length, side in zip(lengths, tile, strict=True)):
            target.copy_(function(item).to(output_device))
            _step(pbar)
            continue
        weights = torch.zeros_like(target)
        target.zero_()
        spans = [
            list(_spans(length, side, shared))
            for length, side, shared in zip(lengths, tile, overlaps, strict=True)
        ]
        for starts in product(*spans):
            piece = item
            for axis, (start, length) in enumerate(starts, 2):
                piece = piece.narrow(axis, start, length)
            result = function(piece).to(output_device)
            ramp = torch.ones_like(result)
            there, sums = target, weights
            for axis, (start, _) in enumerate(starts):
                feather = round(sizes[axis](overlaps[axis]))
                _fade(ramp, axis + 2, feather)
                place = round(places[axis](start))
                there = there.narrow(axis + 2, place, result.shape[axis + 2])
                sums = sums.narrow(axis + 2, place, result.shape[axis + 2])
            there.add_(result * ramp)
            sums.add_(ramp)
            _step(pbar)
        target.div_(weights)
    return out


def _each(value: Any, axes: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * axes


def _scale(amount: Amount, downscale: bool) -> Callable[[float], float]:
    if callable(amount):
        return amount
    return lambda length: length / amount if downscale else length * amount


def _count(size: int, side: int, overlap: int) -> int:
    return 1 if size <= side else math.ceil((size - overlap) / (side - overlap))


def _spans(size: int, side: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where tiles begin along an axis, and how long they are; the last may be a sliver."""
    if size <= side:
        yield 0, size
        return
    for start in range(0, size - overlap, side - overlap):
        yield start, min(side, size - start)


def _fade(ramp: Tensor, axis: int, feather: int) -> None:
    """Weigh a tile less towards its ends, unless it is no longer than the fade."""
    length = ramp.shape[axis]
    if feather >= length:
        return
    for step in range(feather):
        share = (step + 1) / feather
        ramp.narrow(axis, step, 1).mul_(share)
        ramp.narrow(axis, length - 1 - step, 1).mul_(share)


def _step(pbar: Any) -> None:
    if pbar is not None:
        pbar.update(1)
