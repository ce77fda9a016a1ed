"""Lengths of vectors that lie across memory, as RMS norms over channels take them.

PyTorch's CPU kernel of ``aten::linalg_vector_norm`` follows every such vector through memory, which
takes ten times as long as adding the squares of whole planes, and rounds more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def vector_norm(
    self: Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``aten::linalg_vector_norm`` with its arguments, for tensors on the CPU."""
    if ord == 2 and dim is not None and lies_across(self, dim):
        x = self if dtype is None else self.to(dtype)
        return x.square().sum(list(dim), keepdim).sqrt_()
    out: Tensor = torch.ops.aten.linalg_vector_norm.default(self, ord, dim, keepdim, dtype=dtype)
    return out


def lies_across(x: Tensor, dim: Sequence[int]) -> bool:
    """Whether vectors along this one dimension are spread, one element in each plane of many."""
    if len(dim) != 1 or x.dim() < 2 or not x.is_floating_point():
        return False
    return x.stride(dim[0]) != 1 and x.stride(-1) == 1
