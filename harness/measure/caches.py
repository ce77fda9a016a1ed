"""Watches the feature cache of a clip: which slots are read or written, and what they hold."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, zip_longest
from typing import Annotated, Any, NamedTuple, SupportsIndex

import numpy as np
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from vae_compat.contracts.travelling import OnWire
from vae_compat.device import Device
from vae_compat.measure.failing import kind_of
from vae_compat.measure.placing import ordinary
from vae_compat.measure.plain import is_plain


class Access(NamedTuple):
    """A slot was read or written."""

    slot: int
    writes: bool
    chunk: int | None
    """During the call for which chunk; ``None`` between calls."""


class CacheLog:
    """Reads and writes of the slots of one cache list.

    It belongs to the sender of the chunks. The hook gets the list, which has no attribute that
    leads here.
    """

    def __init__(self) -> None:
        self.accesses: list[Access] = []
        self.chunk: int | None = None
        """Set by the sender of the chunks."""
        self.listener: Callable[[Access], None] | None = None

    def note(self, slots: Iterable[int], *, writes: bool) -> None:
        """Slots were read or written."""
        for slot in slots:
            access = Access(slot, writes, self.chunk)
            self.accesses.append(access)
            if self.listener is not None:
                self.listener(access)


_LOGS: dict[int, CacheLog] = {}
"""Logs of the lists that are watched, by their ids, as long as the lists live."""


def watched_cache(slots: Iterable[Any], log: CacheLog) -> list[Any]:
    """A feature cache whose reads and writes are recorded in ``log``.

    To a coder it is the list that it would otherwise get: nothing is wrapped, copied or refused,
    and copies of it are plain lists. Where slots move (``pop``, ``insert``, ``sort``, ...), a slot
    counts as written if it holds something other than before, or is new or gone.
    """
    cache = CacheList(slots)
    _LOGS[id(cache)] = log
    weakref.finalize(cache, _LOGS.pop, id(cache), None)
    return cache


def _note(cache: list[Any], slots: Iterable[int], *, writes: bool) -> None:
    log = _LOGS.get(id(cache))
    if log is not None:
        log.note(slots, writes=writes)


def _writing(name: str) -> Callable[..., Any]:
    """A method that changes the list, and records what it changed."""
    method = getattr(list, name)

    @functools.wraps(method)
    def change(cache: list[Any], *args: Any, **kwargs: Any) -> Any:
        before = list.copy(cache)
        try:
            return method(cache, *args, **kwargs)
        finally:
            _note(cache, sorted(_changed(before, cache)), writes=True)

    return change


class CacheList(list[Any]):
    """A list that records its reads and writes while it is watched."""

    __slots__ = ("__weakref__",)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        slots = range(len(self))[key]
        _note(self, slots if isinstance(slots, range) else (slots,), writes=False)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        before = list.copy(self)
        super().__setitem__(key, value)
        slots = range(len(before))[key]
        aimed = set(slots if isinstance(slots, range) else (slots,))
        _note(self, sorted(aimed | _changed(before, self)), writes=True)

    def __iter__(self) -> Iterator[Any]:
        for slot, held in enumerate(super().__iter__()):
            _note(self, (slot,), writes=False)
            yield held

    def copy(self) -> list[Any]:
        """A plain list."""
        return [*self]

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return copy.deepcopy([*self], memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return list, ([*self],)

    append = _writing("append")
    clear = _writing("clear")
    extend = _writing("extend")
    insert = _writing("insert")
    pop = _writing("pop")
    remove = _writing("remove")
    reverse = _writing("reverse")
    sort = _writing("sort")
    __delitem__ = _writing("__delitem__")
    __iadd__ = _writing("__iadd__")
    __imul__ = _writing("__imul__")


# torch's pytrees go by the exact type, so it is registered as the list that it stands for.
register_pytree_node(CacheList, lambda cache: ([*cache], None), lambda held, _: list(held))


def _changed(before: list[Any], after: list[Any]) -> set[int]:
    """Slots that hold something other than before, or are new or gone."""
    pairs = zip_longest(before, list.copy(after), fillvalue=object())
    return {slot for slot, (then, now) in enumerate(pairs) if then is not now}


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
    frames: Annotated[Tensor, OnWire()] | None = None
    """A copy on the plain CPU, ``B C T H W``."""
    device: str | None = None
    """The device that the frames were on: ``cuda:0``, ``cpu``."""

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

    A subclass of ``Tensor`` counts as foreign, because reading it may run code of the hook.
    """
    if entry is None:
        return Slot(Holds.NOTHING)
    if type(entry) is str:
        return Slot(Holds.WORD, entry)
    if is_plain(entry):
        with ordinary():
            copied = entry if device is None else device.host(entry)
            if not is_plain(copied):
                return Slot(Holds.FOREIGN, "Tensor that is not dense")
            return Slot(Holds.FRAMES, frames=copied.detach().clone(), device=str(entry.device))
    return Slot(Holds.FOREIGN, kind_of(entry))


def sharing(
    slots: Sequence[Any], others: Mapping[str, Tensor]
) -> frozenset[tuple[int | str, int | str]]:
    """Pairs of slots, by number, and of slots and other tensors, that share elements in memory."""
    named: list[tuple[int | str, Tensor]] = [
        (slot, held) for slot, held in enumerate(list.copy(list(slots))) if is_plain(held)
    ]
    named += [(name, tensor) for name, tensor in others.items() if is_plain(tensor)]
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
