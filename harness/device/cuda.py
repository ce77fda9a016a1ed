"""A real CUDA device, read through its caching allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vae_compat.device.counting import counting
from vae_compat.device.gpu import Timing, describe_cuda, fixed_switches, timed
from vae_compat.device.meter import Reading
from vae_compat.device.patches import replace_in
from vae_compat.errors import UsageError
from vae_compat.machine import CudaDescription

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
        self._stack: ExitStack | None = None
        self._open: list[Reading] = []

    def __enter__(self) -> CudaDevice:
        with ExitStack() as stack:
            if self._capacity is not None:
                torch.cuda.set_per_process_memory_fraction(self._capacity / self._total, 0)
                stack.callback(torch.cuda.set_per_process_memory_fraction, 1.0, 0)
            stack.enter_context(fixed_switches())
            # For as long as the device is open, and not for one reading: who compares the process
            # before and after a run must not find our own stand-in come or gone.
            stack.enter_context(noting_resets(self._note_peak))
            stack.callback(self._withdraw_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def _withdraw_all(self) -> None:
        for part, _, _ in list(self._placed.values()):
            self.withdraw(part)

    def _note_peak(self) -> None:
        """Record the peak before code under test resets it."""
        for reading in self._open:
            _raise_peaks(reading)

    def place(self, module: nn.Module) -> None:
        """Move parameters and buffers to the device."""
        for part in module.modules():
            parameters: Tensors = {k: p for k, p in part._parameters.items() if p is not None}
            buffers: Tensors = {k: b for k, b in part._buffers.items() if b is not None}
            self._placed.setdefault(id(part), (part, parameters, buffers))
        module.to(self.torch_device)

    def withdraw(self, module: nn.Module) -> None:
        """Move them back; a parameter that was replaced is set back to the one that was placed."""
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
        """Count from here; waits for the device at both ends. May be nested."""
        torch.cuda.synchronize()
        if not self._open:
            # Cached blocks would count as reserved, and their splitting affects peaks.
            torch.cuda.empty_cache()
        self._note_peak()
        _reset_of(torch.cuda.reset_peak_memory_stats)()
        live = torch.cuda.memory_allocated()
        reading = Reading(live_before=live, peak_bytes=live)
        reading.peak_reserved = torch.cuda.max_memory_reserved()
        allocations = torch.cuda.memory_stats().get(ALLOCATIONS, 0)
        tally = None
        self._open.append(reading)
        try:
            with counting("cuda") as tally:
                yield reading
        finally:
            torch.cuda.synchronize()
            self._note_peak()
            self._open = [other for other in self._open if other is not reading]
            reading.live_after = torch.cuda.memory_allocated()
            reading.allocations = torch.cuda.memory_stats().get(ALLOCATIONS, 0) - allocations
            if tally is not None:
                tally.told(reading)
                reading.host_to_device = tally.host_to_device
                reading.device_to_host = tally.device_to_host

    def describe(self) -> CudaDescription:
        """The GPU, its software and the switches of this run, for the head of a record."""
        return describe_cuda()

    def timed(self, run: Callable[[], object], *, warm_up: int = 1, repeats: int = 5) -> Timing:
        """Time of a run between two events of the current stream, after some that do not count.

        It includes work of other streams if the run waits for them, as it must. Times only inform:
        no verdict depends on them.
        """
        return timed(run, warm_up=warm_up, repeats=repeats)


def _raise_peaks(reading: Reading) -> None:
    reading.peak_bytes = max(reading.peak_bytes or 0, torch.cuda.max_memory_allocated())
    reading.peak_reserved = max(reading.peak_reserved or 0, torch.cuda.max_memory_reserved())


ORIGINAL = "original_reset"
"""Attribute of our stand-in for ``reset_peak_memory_stats`` that has what it stands for."""


def _reset_of(function: Callable[..., None]) -> Callable[..., None]:
    """PyTorch's own function, if the stand-in has replaced it."""
    return getattr(function, ORIGINAL, function)


def noting_resets(note: Callable[[], None]) -> ExitStack:
    """Call ``note`` whenever code under test resets the peak of the allocator."""
    reset = torch.cuda.reset_peak_memory_stats

    def noting_reset(device: Any = None) -> None:
        note()
        reset(device)

    setattr(noting_reset, ORIGINAL, reset)
    with ExitStack() as stack:
        for owner in (torch.cuda, torch.cuda.memory):
            replace_in(stack, owner, "reset_peak_memory_stats", noting_reset)
        return stack.pop_all()
