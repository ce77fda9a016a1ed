"""Convolutions in float64 in a third of the time: truth is the most expensive part of a baseline.

torch's own float64 convolution on a CPU writes out every window (im2col: nine copies of the plane
for a kernel of three by three) and multiplies once. Here only the columns of a window are written
out, three copies of a few rows at a time, and the rows are added up, one matrix product each. Sums
come in another order, so results differ in the last of fifteen digits, where a floor in float32
begins at the seventh.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class QuickFloat64(TorchFunctionMode):
    """While entered, float64 convolutions on the CPU are computed by rows.

    Those with groups, dilation, or a padding in words are left to torch.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        if func in _AXES:
            found = _PARAMETERS.bind(*args, **(kwargs or {}))
            found.apply_defaults()
            if _is_plain(*found.args):
                x, weight, bias, stride, padding, _, _ = found.args
                axes = _AXES[func]
                return convolve(x, weight, bias, _each(stride, axes), _each(padding, axes))
        return func(*args, **(kwargs or {}))


_AXES: dict[Callable[..., Any], int] = {torch.conv2d: 2, torch.conv3d: 3}


def _signature(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    """That of ``torch.conv2d`` and ``torch.conv3d``."""


_PARAMETERS = inspect.signature(_signature)


def _is_plain(
    x: Tensor, weight: Tensor, _bias: Any, _stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    return (
        type(x) is Tensor
        and x.dtype is torch.float64
        and x.device.type == "cpu"
        and x.dim() == weight.dim()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and groups == 1
        and not isinstance(padding, str)
        and set(_each(dilation, 1)) == {1}
    )


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * axes if len(given) == 1 else given


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """What ``torch.conv2d`` and ``torch.conv3d`` give.

    ``x`` is ``B, C, *sizes``, ``weight`` ``C', C, *kernel``; the last axis is that of the columns.
    """
    if any(padding):
        x = functional.pad(x, [side for width in reversed(padding) for side in (width, width)])
    if x.dim() == 4:
        x, weight, stride = x.unsqueeze(2), weight.unsqueeze(2), (1, *stride)
        return _by_rows(x, weight, bias, stride).squeeze(2)
    return _by_rows(x, weight, bias, stride)


def _by_rows(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    """``B C' T' H' W'`` of ``B C T H W``, a few rows of all frames at a time."""
    frames, rows, cols = (
        (size - length) // step + 1
        for size, length, step in zip(x.shape[2:], weight.shape[2:], stride, strict=True)
    )
    high, wide = weight.shape[3:]
    # Frames and rows of the kernel, C', columns of the kernel and C: as windows are written out.
    factors = weight.permute(2, 3, 0, 4, 1).flatten(3)
    taps = list(product(*map(range, factors.shape[:2])))
    result = x.new_empty(len(x), len(weight), frames, rows, cols)
    one = x.shape[1] * wide * x.shape[2] * cols * x.element_size()
    count = max(CACHED // one, LEAST_ROWS * high) // stride[1]
    for item, written in zip(x, result, strict=True):
        for first in range(0, rows, count):
            some = min(count, rows - first)
            read = item[:, :, _steps(first * stride[1], (some - 1) * stride[1] + high, 1)]
            windows = torch.cat([read[..., _steps(at, cols, stride[2])] for at in range(wide)])
            for frame in range(frames):
                made = written[:, frame, first : first + some].flatten(1)
                for tap in taps:
                    lines = _steps(tap[1], some, stride[1])
                    taken = windows[:, frame * stride[0] + tap[0], lines].flatten(1)
                    if tap == (0, 0):
                        torch.mm(factors[tap], taken, out=made)
                    else:
                        made.addmm_(factors[tap], taken)
        if bias is not None:
            written += bias[:, None, None, None]
    return result


CACHED = 2**22
"""Bytes of windows that are written out at once: they stay in the cache until they are multiplied.
"""
LEAST_ROWS = 16
"""So many times as high as the kernel are they at least: where two meet, rows are written twice."""


def _steps(first: int, count: int, step: int) -> slice:
    return slice(first, first + (count - 1) * step + 1, step)
