"""Nearest upsampling by two and a 3 x 3 convolution after it as four convolutions of 2 x 2.

Outputs of even and odd rows and columns form four phases. In each of them some taps of the kernel
meet copies of the same pixel, so their weights can be added up beforehand: 16 multiplications where
there were 36, and the upsampled plane is never made. Shi et al., "Is the deconvolution layer the
same as a convolutional layer?" (2016), show such phases.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..program.steps import Conv
from ..program.window import Reach

TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
"""Along one axis, by phase: which taps of the kernel meet the first of two pixels, which the next.

An even output looks at the upsampled pixel before it, and at both copies of its own; an odd one at
both copies of its own, and at the one after it.
"""


def folds(step: Conv, x: Tensor) -> bool:
    """Whether the phases of a step may take its place for a tile.

    On a CPU alone, where multiplications are what takes the time: on a GPU four kernels and strided
    results cost more than they save. Half precision would round the sums of weights, which moves
    results by more than the noise of the net.
    """
    return (
        step.plain
        and (step.rows.up, step.cols.up) == (2, 2)
        and (step.rows.kernel, step.cols.kernel) == (3, 3)
        and (step.rows.stride, step.cols.stride) == (1, 1)
        and not (step.rows.wrap or step.cols.wrap)
        and x.device.type == "cpu"
        and x.dtype == step.module.weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


def folded(weight: Tensor) -> Tensor:
    """The weights of all phases, ``2 2 O I 2 2``: phase and tap along height and width.

    They are added up in float64 and rounded once.
    """
    taps = torch.tensor(TAPS, dtype=torch.float64, device=weight.device)
    sums = torch.einsum("pta,qub,oiab->pqoitu", taps, taps, weight.double())
    return sums.to(weight.dtype, memory_format=torch.contiguous_format)


def convolve_phases(
    x: Tensor, weights: Tensor, bias: Tensor | None, groups: int, rows: Reach, cols: Reach
) -> Tensor:
    """The convolution of an upsampled tile, from the tile ``N C h w`` before upsampling.

    ``weights`` are `folded`; ``rows`` and ``cols`` say which part of the upsampled tile the kernel
    sees, and what is padding.
    """
    if any((*rows.zeros, *cols.zeros)):
        x = F.pad(x, (*cols.zeros, *rows.zeros))
    height, width = (sum(axis.zeros) + axis.crop.size - 2 for axis in (rows, cols))
    size = (x.shape[0], weights.shape[2], height, width)
    layout = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)
    for p, (across, out_rows) in enumerate(phases(rows, height)):
        for q, (along, out_cols) in enumerate(phases(cols, width)):
            target = y[..., out_rows, out_cols]
            if target.numel():
                target.copy_(F.conv2d(x[..., across, along], weights[p, q], bias, groups=groups))
    return y


def phases(axis: Reach, outputs: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Along one axis, by phase: the padded pixels that it reads, and the outputs that it gives."""
    pad = axis.zeros[0]
    first = axis.crop.start - pad + 1
    """Upsampled pixel under the middle of the kernel for output 0, from the first pixel read."""
    # Even outputs 2 i read pixels i - 1 and i, odd outputs 2 i + 1 read i and i + 1.
    start, stop = -(-first // 2), -(-(first + outputs) // 2)
    even = slice(start - 1 + pad, stop + pad), slice(2 * start - first, None, 2)
    start, stop = first // 2, (first + outputs) // 2
    odd = slice(start + pad, stop + 1 + pad), slice(2 * start + 1 - first, None, 2)
    return even, odd
