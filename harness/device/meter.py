"""What every device counts while a case runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vae_compat.contracts.travelling import Pairs
from vae_compat.device.trace import Stretch


class Convolution(NamedTuple):
    """A convolution as it reached the device: its weight, and the plane it wrote."""

    weight: tuple[int, ...]
    """Shape of the weight: ``out in kH kW`` or ``out in kT kH kW``."""
    plane: tuple[int, int]
    """Height and width of the output."""
    items: int = 1
    """In the batch."""


class Product(NamedTuple):
    """A product of matrices as it reached the device: ``rows x inner`` by ``inner x columns``."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def may_be_convolution(self) -> bool:
        """Whether the pixels of one side may be unfolded for kernels of three by three."""
        return self.inner % 9 == 0


def largest_plane(convolutions: Iterable[Convolution]) -> tuple[int, int]:
    """Height and width of the largest plane that any of them wrote; none where none ran."""
    return max((ran.plane for ran in convolutions), key=math.prod, default=(0, 0))


@dataclass(frozen=True, order=True)
class Copies:
    """Copies of one kind between host and device."""

    direction: str
    """``host_to_device`` or ``device_to_host``."""
    pinned: bool
    """Whether the memory on the host is pinned; a copy from or to pageable memory goes through a
    buffer of the driver, and the host takes part in it."""
    blocking: bool
    """Whether the host waits for it: ``non_blocking`` was not asked for."""
    strided: bool
    """Whether either side is packed first: laid out otherwise, with gaps, or of another dtype."""
    count: int
    nbytes: int


@dataclass(frozen=True)
class Waits:
    """How often the host waited for the device, by cause."""

    read: int = 0
    """A number was read: ``.item()``, ``float()``, a tensor in ``if``, ``torch.equal``."""
    copy: int = 0
    """A blocking copy, such as ``.cpu()`` or ``.to(device)``."""
    nonzero: int = 0
    """The size of a result depends on numbers: ``nonzero``, a mask as an index, ``unique``."""
    synchronize: int = 0
    """``synchronize()`` of the device, of a stream or of an event."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.read + self.copy + self.nonzero + self.synchronize


@dataclass(frozen=True)
class HostMemory:
    """Memory that tensors took on the host, above what there was at the start, in bytes."""

    peak_pageable: int = 0
    peak_pinned: int = 0
    allocations: int = 0
    """How many storages were made; pages of fresh memory are touched for the first time."""
    allocated: int = 0
    """Bytes of these."""


@dataclass(frozen=True)
class Estimate:
    """The time of a run on a GPU."""

    gpu: str
    seconds: float
    shares: Mapping[str, float]
    """What the time went into, each from 0 to 1, largest first: ``convolution``, ``statistics``,
    ``memory``, ``pageable copies``, ``pinned copies``, ``fresh host memory`` and so on. Work that
    runs beside other work counts where it holds up the whole."""

    @property
    def first_cause(self) -> str:
        """What took most of the time."""
        return next(iter(self.shares), "nothing")


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
    """FLOPs as ``torch.utils.flop_counter`` counts them (a multiply-add is two)."""
    convolutions: Annotated[Mapping[Convolution, int], Pairs()] = field(default_factory=dict)
    """How often each convolution ran on which plane."""
    products: Annotated[Mapping[Product, int], Pairs()] = field(default_factory=dict)
    """How often each product of matrices ran: a convolution may run as one."""
    peak_with_workspaces: int | None = None
    """Highest number of live bytes with the scratch memory of convolutions: copies of input and
    output in the layout that tensor cores take, as cuDNN makes them on a GPU."""
    peak_reserved: int | None = None
    """Highest number of bytes that the caching allocator took from the device."""
    kernels: int | None = None
    """Kernel launches, those of a convolution's changes of layout included."""
    bytes_read: int | None = None
    """Bytes that kernels read from the device's memory: every input once."""
    bytes_written: int | None = None
    copies: tuple[Copies, ...] = ()
    """Copies between host and device by kind, in order of their fields."""
    waits: Waits | None = None
    collections: int | None = None
    """Calls of ``gc.collect``."""
    cache_clears: int | None = None
    """Calls of ``torch.cuda.empty_cache``."""
    host: HostMemory | None = None
    races: tuple[str, ...] = ()
    """Memory that one stream (or the host) used while another was not done with it, in words,
    each place once; found by the order that events and waits give, not by chance."""

    @property
    def convolved(self) -> tuple[Mapping[Convolution, int], Mapping[Product, int]]:
        """The convolutions that ran, and the products that may have run in the place of some."""
        products = {ran: n for ran, n in self.products.items() if ran.may_be_convolution}
        return self.convolutions, products

    @property
    def trace(self) -> Stretch | None:
        """What ran in order, for ``vae_compat.device.estimate``; no part of a record."""
        return getattr(self, "_trace", None)

    @trace.setter
    def trace(self, trace: Stretch) -> None:
        self._trace = trace


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
