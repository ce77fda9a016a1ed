"""The plain CPU: counts convolutions and FLOPs, and has no memory of its own to measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vae_compat.device.meter import Reading


class CpuDevice:
    """Runs a case as it is. Its readings have no peak: the allocator of the host keeps none."""

    name = "cpu"
    torch_device = torch.device("cpu")
    dtypes = frozenset({"float32", "bfloat16", "float16"})

    def __enter__(self) -> CpuDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def place(self, module: nn.Module) -> None:
        """Nothing to do."""

    def withdraw(self, module: nn.Module) -> None:
        """Nothing to do."""

    def put(self, tensor: Tensor) -> Tensor:
        """A copy."""
        return tensor.detach().clone()

    def host(self, tensor: Tensor) -> Tensor:
        """A copy."""
        return tensor.detach().clone()

    @contextmanager
    def metered(self) -> Iterator[Reading]:
        """Count convolutions, products and FLOPs from here."""
        from vae_compat.device.counting import counting

        reading, tally = Reading(), None
        try:
            with counting("cpu") as tally:
                yield reading
        finally:
            if tally is not None:
                tally.told(reading)
