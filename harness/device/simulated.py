"""The simulated accelerator: a pretend ``cuda:0`` on a machine that has none."""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn

from vae_compat.device.dispatch import Accelerator
from vae_compat.device.functions import Front, handlers_of
from vae_compat.device.kernels import kernel_rules
from vae_compat.device.ledger import Ledger
from vae_compat.device.meter import Reading
from vae_compat.device.patches import is_simulated, out_of_memory, patched
from vae_compat.device.streams import Streams
from vae_compat.device.tensor import DEVICE, SimTensor, wrap
from vae_compat.device.threads import following_threads
from vae_compat.device.transfers import make_attention, special_rules

TOTAL = 24 * 2**30
"""Bytes of memory that are reported where no capacity is set; nothing is refused then."""


Tensors = dict[str, Tensor]


class SimulatedDevice:
    """Computes on the CPU with the real numbers, and accounts like the allocator of a GPU.

    ``live`` and peak bytes are those of storages: views share, and a storage is free as soon as
    the last tensor on it is gone. Only tensors that operations return are counted, not what
    happens inside a kernel; each allocation takes a multiple of 512 bytes
    (``vae_compat.device.ledger``).

    Opened inside of a ``FakeTensorMode`` it counts without computing: tensors have shapes and no
    data, and every counter shows what it would show for real ones, however large they are.

    Gradients are not recorded while the device is open. In a process there can be one open
    device at a time, and each is entered once.
    """

    name = "sim"
    torch_device = DEVICE
    dtypes = frozenset({"float32", "bfloat16", "float16"})

    def __init__(self, capacity: int | None = None) -> None:
        total = TOTAL if capacity is None else capacity
        self._ledger = Ledger(capacity, total, out_of_memory)
        self._stack: ExitStack | None = None
        self._entered = False
        self._placed: dict[int, tuple[nn.Module, Tensors, Tensors]] = {}

    def __enter__(self) -> SimulatedDevice:
        if self._entered:
            raise RuntimeError("a simulated accelerator is entered once: open a new one")
        if is_simulated():
            raise RuntimeError(
                "a simulated accelerator is already open in this process: leave it before "
                "entering another"
            )
        if torch.cuda.is_available():
            raise RuntimeError(
                "the simulated accelerator would hide the CUDA device of this machine: set "
                "CUDA_VISIBLE_DEVICES to nothing, or use the device 'cuda'"
            )
        self._entered = True
        streams = Streams(self._ledger)
        accelerator = Accelerator(self._ledger, streams, special_rules, kernel_rules)
        handlers = handlers_of(self._ledger.host)

        def followed() -> ExitStack:
            self._ledger.lock = self._ledger.lock or threading.RLock()
            return modes()

        def modes() -> ExitStack:
            with ExitStack() as inner:
                inner.enter_context(torch.no_grad())
                inner.enter_context(Front(handlers))
                inner.enter_context(accelerator)
                return inner.pop_all()

        with ExitStack() as stack:
            stack.enter_context(patched(self._ledger, streams, make_attention()))
            self._ledger.owner = weakref.ref(accelerator)
            stack.callback(accelerator.forget)
            stack.callback(setattr, self._ledger, "owner", None)
            stack.enter_context(following_threads(followed))
            stack.enter_context(modes())
            stack.callback(self._withdraw_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def metered(self) -> AbstractContextManager[Reading]:
        """Count from here; the reading is complete when the context ends, also by an exception."""
        return self._ledger.metered()

    def put(self, tensor: Tensor) -> Tensor:
        """A copy on the device; live, but not counted as a transfer."""
        inner = tensor.detach().clone()
        if type(inner) is SimTensor:
            return inner
        return wrap(inner, self._ledger.allocate(inner.nbytes))

    def host(self, tensor: Tensor) -> Tensor:
        """A copy on the plain CPU, not counted as a transfer; works after the device was left.

        A result that another stream may still be working on is a race of the last reading.
        """
        self._ledger.handed_over(tensor)
        if type(tensor) is SimTensor:
            tensor = tensor._inner
        return tensor.detach().clone()

    def place(self, module: nn.Module) -> None:
        """Put parameters and buffers on the device without copying them.

        Their bytes are live from now on. What is written into one of them is written into the
        original as well, and moves its ``_version``.
        """
        tensors: dict[int, Tensor] = {}
        for part in module.modules():
            if id(part) in self._placed:
                continue
            parameters: Tensors = {k: p for k, p in part._parameters.items() if p is not None}
            buffers: Tensors = {k: b for k, b in part._buffers.items() if b is not None}
            if not parameters and not buffers:
                continue
            self._placed[id(part)] = (part, parameters, buffers)
            for name, parameter in parameters.items():
                part._parameters[name] = self._on_device(parameter, tensors)  # type: ignore[assignment]
            for name, buffer in buffers.items():
                part._buffers[name] = self._on_device(buffer, tensors)

    def _on_device(self, tensor: Tensor, tensors: dict[int, Tensor]) -> Tensor:
        if type(tensor) is SimTensor:
            return tensor
        known = tensors.get(id(tensor))
        if known is not None:
            return known
        placed = wrap(tensor.detach(), self._ledger.allocate(tensor.nbytes, source=tensor))
        if isinstance(tensor, nn.Parameter):
            placed._is_param = True
            placed._wants_grad = tensor.requires_grad
        tensors[id(tensor)] = placed
        return placed

    def withdraw(self, module: nn.Module) -> None:
        """Put the original parameters and buffers back: the same objects as before."""
        for part in module.modules():
            self._restore(id(part))

    def _restore(self, key: int) -> None:
        entry = self._placed.pop(key, None)
        if entry is not None:
            part, parameters, buffers = entry
            part._parameters.update(parameters)  # type: ignore[arg-type]
            part._buffers.update(buffers)

    def _withdraw_all(self) -> None:
        for key in list(self._placed):
            self._restore(key)
