"""The feature cache of a clip under watch: who touches which slot, and what is in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from harness.device import Device
from harness.measure.run import PLAIN_TENSORS


class Access(NamedTuple):
    """A slot was read or written."""

    slot: int
    writes: bool
    chunk: int | None
    """During the call for which chunk; ``None`` between calls."""


class CacheList(list[Any]):
    """A feature cache that notes who touches it.

    To a coder it is the list that it would otherwise get: nothing is wrapped, copied or refused,
    and copies of it are plain lists.
    """

    def __init__(self, slots: Iterable[Any] = ()) -> None:
        super().__init__(slots)
        self.log: list[Access] = []
        self.chunk: int | None = None
        """Set by whoever sends chunks."""
        self.listener: Callable[[Access], None] | None = None

    def _note(self, key: SupportsIndex | slice, writes: bool) -> None:
        slots = range(len(self))
        for slot in slots[key] if isinstance(key, slice) else (slots[key],):
            access = Access(slot, writes, self.chunk)
            self.log.append(access)
            if self.listener is not None:
                self.listener(access)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self._note(key, writes=False)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._note(key, writes=True)

    def __iter__(self) -> Iterator[Any]:
        for slot, held in enumerate(super().__iter__()):
            self._note(slot, writes=False)
            yield held

    def clear(self) -> None:
        """Empty the list; every slot counts as written."""
        self._note(slice(None), writes=True)
        super().clear()

    def append(self, value: Any) -> None:
        """One more slot, written."""
        super().append(value)
        self._note(-1, writes=True)

    def extend(self, values: Iterable[Any]) -> None:
        """More slots, written."""
        start = len(self)
        super().extend(values)
        self._note(slice(start, None), writes=True)

    def copy(self) -> list[Any]:
        """A plain list."""
        return [*self]

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return copy.deepcopy([*self], memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return list, ([*self],)


class Holds(StrEnum):
    """What kind of thing a slot holds."""

    NOTHING = "nothing"
    WORD = "word"
    """A sentinel, as ``Rep``."""
    FRAMES = "frames"
    FOREIGN = "foreign"
    """Something that no coder can read: an object of the hook's own."""


@dataclass(frozen=True)
class Slot:
    """What was in a slot, materialised."""

    holds: Holds
    word: str = ""
    """The sentinel, or the type name of a foreign object."""
    frames: Tensor | None = None
    """A copy on the plain CPU, ``B C T H W``."""
    device: torch.device | None = None
    """Where the frames rested."""

    @property
    def told(self) -> str:
        """In words."""
        if self.frames is not None:
            size = "x".join(map(str, self.frames.shape))
            return f"{size} {str(self.frames.dtype).removeprefix('torch.')}"
        if self.holds is Holds.WORD:
            return repr(self.word)
        return "nothing" if self.holds is Holds.NOTHING else f"a {self.word}"


def materialised(entry: Any, device: Device | None) -> Slot:
    """A copy of what a slot holds; ``device`` is the one that is entered, if any.

    Reading a subclass of ``Tensor`` may run code of the hook, so that one is foreign.
    """
    if entry is None:
        return Slot(Holds.NOTHING)
    if type(entry) is str:
        return Slot(Holds.WORD, entry)
    if type(entry) in PLAIN_TENSORS:
        copied = entry if device is None else device.host(entry)
        return Slot(Holds.FRAMES, frames=copied.detach().clone(), device=entry.device)
    return Slot(Holds.FOREIGN, type(entry).__name__)


def sharing(
    slots: Sequence[Any], others: Mapping[str, Tensor]
) -> frozenset[tuple[int | str, int | str]]:
    """Pairs of slots, by number, and of slots and other tensors, that share elements in memory."""
    named: list[tuple[int | str, Tensor]] = [
        (slot, held) for slot, held in enumerate(list.copy(list(slots))) if _plain(held)
    ]
    named += [(name, tensor) for name, tensor in others.items() if _plain(tensor)]
    on: dict[int, list[tuple[int | str, Tensor]]] = {}
    for name, tensor in named:
        if tensor.numel():
            on.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
    return frozenset(
        (one[0], other[0])
        for group in on.values()
        for one, other in combinations(group, 2)
        if not (isinstance(one[0], str) and isinstance(other[0], str)) and _meet(one[1], other[1])
    )


def _plain(held: Any) -> bool:
    return type(held) in PLAIN_TENSORS


def _meet(one: Tensor, other: Tensor) -> bool:
    """Whether two views of one storage have an element in common."""
    ours, theirs = _elements(one), _elements(other)
    if ours.max() < theirs.min() or theirs.max() < ours.min():
        return False
    touched = np.zeros(max(ours.max(), theirs.max()) + 1, dtype=bool)
    touched[ours] = True
    return bool(touched[theirs].any())


def _elements(view: Tensor) -> np.ndarray[Any, Any]:
    """Places of a view's elements in its storage."""
    at = np.array([view.storage_offset()])
    for size, stride in zip(view.shape, view.stride(), strict=True):
        at = (at[:, None] + np.arange(size) * stride).ravel()
    return at
