"""On which device a coder works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def lent(net: nn.Module, wanted: bool) -> Iterator[None]:
    """Move a coder from the host to the accelerator, if there is one, and back."""
    weights = next(net.parameters(), None)
    if not wanted or weights is None or weights.device.type != "cpu":
        yield
        return
    if not torch.cuda.is_available():
        yield
        return
    net.to(torch.device("cuda", torch.cuda.current_device()))
    try:
        yield
    finally:
        net.to("cpu")


def working_device(net: nn.Module, x: Tensor) -> torch.device:
    """Where the tiles of ``x`` are computed: on its accelerator, or on that of the coder."""
    if x.device.type != "cpu":
        return x.device
    weights = next(net.parameters(), None)
    return x.device if weights is None or weights.device.type == "meta" else weights.device
