"""What every device counts while a case runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vae_compat.isolation.wire import Pairs


class Convolution(NamedTuple):
    """A convolution as it reached the device: its weight, and the plane it wrote."""

    weight: tuple[int, ...]
    """Shape of the weight: ``out in kH kW`` or ``out in kT kH kW``."""
    plane: tuple[int, int]
    """Height and width of the output."""


def largest_plane(convolutions: Iterable[Convolution]) -> tuple[int, int]:
    """Height and width of the largest plane that any of them wrote; none where none ran."""
    return max((ran.plane for ran in convolutions), key=math.prod, default=(0, 0))


@dataclass
class Reading:
    """Counters of one metered stretch; ``None`` means the device cannot measure it."""

    peak_bytes: int | None = None
    """Highest number of live bytes on the device, what was live at the start included."""
    live_before: int | None = None
    live_after: int | None = None
    host_to_device: int | None = None
    """Bytes copied from the host to the device."""
    device_to_host: int | None = None
    allocations: int | None = None
    flops: int | None = None
    """As ``torch.utils.flop_counter`` counts them (a multiply-add is two)."""
    convolutions: Annotated[Mapping[Convolution, int], Pairs()] = field(default_factory=dict)
    """How often each convolution ran on which plane."""


class Device(Protocol):
    """A place where a case runs: simulated accelerator, CUDA device or plain CPU.

    Entered as a context manager; everything that belongs to the case (moving the VAE, making the
    input, building and calling the hook) happens inside.
    """

    name: str
    """``sim``, ``cuda`` or ``cpu``."""
    torch_device: torch.device
    """Where to put parameters and inputs: ``cuda:0`` (simulated or real) or ``cpu``."""
    dtypes: frozenset[str]
    """Names of the dtypes a VAE can run in here."""

    def __enter__(self) -> Device: ...

    def __exit__(self, *exc: object) -> None: ...

    def place(self, module: nn.Module) -> None:
        """Put a module's parameters and buffers on the device; their bytes are live from then on.

        The simulated accelerator copies nothing: what is written into a placed parameter is
        written into the original. On the plain CPU there is nothing to do.
        """
        ...

    def withdraw(self, module: nn.Module) -> None:
        """Put the parameters and buffers that ``place`` found back: the same objects."""
        ...

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of an input on the device, which no counter of transfers sees."""
        ...

    def host(self, tensor: Tensor) -> Tensor:
        """A copy of an output on the plain CPU, which no counter of transfers sees."""
        ...

    def metered(self) -> AbstractContextManager[Reading]:
        """Count from here; the reading is complete when the context ends, also by an exception."""
        ...
