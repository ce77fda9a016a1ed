"""Accounts for host memory: how much is used, how much is pinned, and pending copies."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vae_compat.device.meter import HostMemory
from vae_compat.device.order import Order, Uses
from vae_compat.device.trace import HostAllocation, HostWork, Trace

MAPPED = 32 * 2**20
"""Bytes from which on malloc maps fresh pages for every allocation.

Below, freed memory is given out again with its pages: glibc raises its threshold to what was freed,
up to ``DEFAULT_MMAP_THRESHOLD_MAX`` (4 MiB x sizeof(long); mallopt(3), ``M_MMAP_THRESHOLD``). It
keeps at most twice as much at the end of its heap (``M_TRIM_THRESHOLD``).
"""


@dataclass
class Storage:
    """One allocation of the host."""

    reference: weakref.ref[torch.UntypedStorage]
    size: int
    pinned: bool
    depth: int
    """How many readings were open when it was made."""
    untouched: int
    """Bytes whose pages nobody has touched yet."""
    uses: Uses | None = None
    """Copies of the device that may still read or write it."""


@dataclass(eq=False)
class Level:
    """Bytes that live now and the most there were, pageable and pinned."""

    live: list[int] = field(default_factory=lambda: [0, 0])
    peak: list[int] = field(default_factory=lambda: [0, 0])
    allocations: int = 0
    allocated: int = 0

    def summary(self) -> HostMemory:
        """The figures for a reading."""
        pageable, pinned = self.peak
        return HostMemory(pageable, pinned, self.allocations, self.allocated)


class Host:
    """The storages of the host that the device knows."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.order: Order | None = None
        """Where more than one stream works."""
        self.levels: list[Level] = []
        """One for each open reading."""
        self._storages: dict[int, Storage] = {}
        self._reusable = 0
        """Bytes of freed memory whose pages malloc kept."""

    # -- what there is ------------------------------------------------------------------------

    def register(self, tensor: Tensor, pinned: bool = False) -> Storage | None:
        """Record a tensor made on the host, unless its storage is known already."""
        if not (pinned or self.levels):
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._storages.get(key)
        if known is not None:
            return known
        size = storage.nbytes()
        reference = weakref.ref(storage, self._forgetter(key))
        untouched = 0 if pinned else self._taken(size)
        made = self._storages[key] = Storage(reference, size, pinned, len(self.levels), untouched)
        for level in self.levels:
            level.allocations += 1
            level.allocated += size
            level.live[pinned] += size
            level.peak[pinned] = max(level.peak[pinned], level.live[pinned])
        return made

    def _forgetter(self, key: int) -> Callable[[Any], None]:
        itself = weakref.ref(self)

        def forget(_: Any) -> None:
            host = itself()
            storage = None if host is None else host._storages.pop(key, None)
            if host is not None and storage is not None:
                if not storage.pinned:
                    host._given_back(storage.size, storage.size - storage.untouched)
                # A storage made during an outer reading may die during an inner one.
                for level in host.levels[: storage.depth]:
                    level.live[storage.pinned] -= storage.size

        return forget

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor of the host lies in pinned memory."""
        if not self._storages:
            return False
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        return storage is not None and storage.pinned

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor in pinned memory, or itself where it lies there."""
        if self.is_pinned(tensor):
            return tensor
        pinned = tensor.clone()
        self._storages.pop(pinned.untyped_storage()._cdata, None)
        self.register(pinned, pinned=True)
        return pinned

    def _taken(self, size: int) -> int:
        """Memory is given out; how much of it nobody has touched yet."""
        if size >= MAPPED:
            return size
        reused = min(size, self._reusable)
        self._reusable -= reused
        return size - reused

    def _given_back(self, size: int, touched: int) -> None:
        if size < MAPPED:
            self._reusable = min(self._reusable + touched, 2 * MAPPED)

    def first_touched(self, tensor: Tensor, nbytes: int, *, shared: bool) -> None:
        """So many bytes of a tensor were written; their pages may be new.

        ``shared``: by the host's cores together, not by the driver's thread.
        """
        self._touch(self._storages.get(tensor.untyped_storage()._cdata), nbytes, shared)

    def _touch(self, storage: Storage | None, nbytes: int, shared: bool) -> None:
        if storage is None or not storage.untouched:
            return
        new = min(nbytes, storage.untouched)
        storage.untouched -= new
        if new:
            self.trace.note(HostAllocation(new, shared))

    def passed_through(self, nbytes: int, *, shared: bool) -> None:
        """A pageable temporary was filled, and freed again."""
        new = self._taken(nbytes)
        if new:
            self.trace.note(HostAllocation(new, shared))
        self._given_back(nbytes, nbytes)

    # -- what happens to it -------------------------------------------------------------------

    def run(self, func: Any, op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An operation on tensors of the host."""
        if not self.levels:
            return op(*args, **kwargs)
        if self.order is not None:
            self._check(func, args, kwargs)
        out = op(*args, **kwargs)
        nbytes = 0
        for part in (*args, *kwargs.values(), *(out if isinstance(out, (tuple, list)) else (out,))):
            if isinstance(part, Tensor):
                nbytes += part.nbytes
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor):
                self._touch(self.register(part), part.nbytes, shared=True)
        self.trace.note(HostWork(nbytes))
        return out

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        arguments = func._schema.arguments
        names = {argument.name: argument for argument in arguments}
        pairs = [*zip(arguments, args, strict=False)]
        pairs += [(names[name], value) for name, value in kwargs.items() if name in names]
        for argument, value in pairs:
            alias = argument.alias_info
            writes = alias is not None and alias.is_write
            for part in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(part, Tensor):
                    self.touched(part, func._schema.name.removeprefix("aten::"), writes=writes)

    def touched(self, tensor: Tensor, what: str, *, writes: bool) -> None:
        """The host itself reads or writes a tensor of its memory."""
        if self.order is None:
            return
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is not None and storage.uses is not None:
            self.order.used(storage.uses, tensor, -1, 0, writes, what)

    def copied(self, tensor: Tensor, stream: int, moment: int, *, writes: bool, what: str) -> None:
        """A copy engine reads or writes pinned memory, and the host does not wait for it."""
        if self.order is None:
            return
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is None:
            return
        if storage.uses is None:
            storage.uses = Uses(stream)
        self.order.used(storage.uses, tensor, stream, moment, writes, what)
