"""A real CUDA device, read through its caching allocator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.device.counting import CountingMode
from vae_compat.device.ledger import Tally
from vae_compat.device.meter import Reading
from vae_compat.device.patches import replace_in
from vae_compat.errors import UsageError

ALLOCATIONS = "allocation.all.allocated"
"""Key of ``torch.cuda.memory_stats``: allocations since the process began."""

Tensors = dict[str, Tensor]


class CudaDevice:
    """The first CUDA device.

    Its FLOPs may be more than those of the other devices: PyTorch's formulas count the fused
    attention of a GPU, and not that of the CPU. Peak and live bytes are those of
    ``torch.cuda.max_memory_allocated``; code under test that resets the peak does not disturb the
    reading.
    """

    name = "cuda"
    torch_device = torch.device("cuda", 0)

    def __init__(self, capacity: int | None = None) -> None:
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device was found here: use the device 'sim' or 'cpu'")
        self._total = int(torch.cuda.get_device_properties(0).total_memory)
        if capacity is not None and capacity > self._total:
            raise UsageError(
                f"a capacity of {capacity} bytes is more than the {self._total} bytes of the CUDA "
                "device: give less, or use the device 'sim'"
            )
        self._capacity = capacity
        bf16 = {"bfloat16"} if torch.cuda.is_bf16_supported() else set()
        self.dtypes = frozenset({"float32", "float16"} | bf16)
        self._placed: dict[int, tuple[nn.Module, Tensors, Tensors]] = {}

    def __enter__(self) -> CudaDevice:
        if self._capacity is not None:
            torch.cuda.set_per_process_memory_fraction(self._capacity / self._total, 0)
        return self

    def __exit__(self, *exc: object) -> None:
        for part, _, _ in list(self._placed.values()):
            self.withdraw(part)
        if self._capacity is not None:
            torch.cuda.set_per_process_memory_fraction(1.0, 0)

    def place(self, module: nn.Module) -> None:
        """Move parameters and buffers to the device."""
        for part in module.modules():
            parameters: Tensors = {k: p for k, p in part._parameters.items() if p is not None}
            buffers: Tensors = {k: b for k, b in part._buffers.items() if b is not None}
            self._placed.setdefault(id(part), (part, parameters, buffers))
        module.to(self.torch_device)

    def withdraw(self, module: nn.Module) -> None:
        """Move them back; a parameter that was exchanged gives way to the one that was placed."""
        module.to("cpu")
        for part in module.modules():
            entry = self._placed.pop(id(part), None)
            if entry is not None:
                part._parameters.update(entry[1])  # type: ignore[arg-type]
                part._buffers.update(
                    {name: part._buffers.get(name, old).cpu() for name, old in entry[2].items()}  # type: ignore[union-attr]
                )

    def put(self, tensor: Tensor) -> Tensor:
        """A copy on the device."""
        return tensor.detach().to(self.torch_device, copy=True)

    def host(self, tensor: Tensor) -> Tensor:
        """A copy on the plain CPU."""
        return tensor.detach().to("cpu", copy=True)

    @contextmanager
    def metered(self) -> Iterator[Reading]:
        """Count from here; waits for the device at both ends."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        reading = Reading(live_before=torch.cuda.memory_allocated())
        allocations = torch.cuda.memory_stats().get(ALLOCATIONS, 0)
        tally = Tally()
        peaks: list[int] = []
        try:
            with _noting_resets(peaks), CountingMode("cuda", tally):
                yield reading
        finally:
            torch.cuda.synchronize()
            reading.peak_bytes = max([*peaks, torch.cuda.max_memory_allocated()])
            reading.live_after = torch.cuda.memory_allocated()
            reading.allocations = torch.cuda.memory_stats().get(ALLOCATIONS, 0) - allocations
            reading.host_to_device = tally.host_to_device
            reading.device_to_host = tally.device_to_host
            reading.flops = tally.flops
            reading.convolutions = tally.convolutions


def _noting_resets(peaks: list[int]) -> ExitStack:
    """Write down the peak reached so far whenever code under test resets it."""
    reset = torch.cuda.reset_peak_memory_stats

    def noting_reset(device: Any = None) -> None:
        peaks.append(torch.cuda.max_memory_allocated(device))
        reset(device)

    with ExitStack() as stack:
        for owner in (torch.cuda, torch.cuda.memory):
            replace_in(stack, owner, "reset_peak_memory_stats", noting_reset)
        return stack.pop_all()
