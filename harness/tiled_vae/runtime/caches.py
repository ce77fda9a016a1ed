"""The caller's feature cache, read and written tile by tile.

What a slot held when the call began stays readable until the call ends. Its new content is
collected in whole planes, so that an untiled call can continue from it. The caller's list is
changed once, at the end: a call that fails leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnknownCoderError
from ..program.steps import Clock
from ..program.window import Span

REPEAT = "Rep"
"""What the slot of a temporal upsample holds after the first frame and nothing more."""


class Caches:
    """The slots of one call. ``first`` is where the call starts in the caller's list.

    A call that has all frames of a ``clip`` needs none.
    """

    def __init__(
        self, slots: list[Any] | None, first: int, home: torch.device, clip: bool = False
    ) -> None:
        self.slots = slots
        self.first = first
        self.home = home
        self.clip = clip
        self.fresh: dict[int, Tensor | str | None] = {}

    @property
    def cached(self) -> bool:
        """Whether the caller passed a cache."""
        return self.slots is not None

    def holds(self, slot: int) -> Tensor | str | None:
        """What a slot held when the call began."""
        if self.slots is None:
            return None
        held: Tensor | str | None = self.slots[self.first + slot]
        return held

    @property
    def clock(self) -> Clock:
        """What the steps may know about the cache."""
        return Clock(self.cached, self.holds, self.clip)

    def check(self, count: int) -> None:
        """Refuse lists that are too short and unknown contents: the original then runs untiled."""
        if self.slots is None:
            return
        if not isinstance(self.slots, list) or self.first + count > len(self.slots):
            raise UnknownCoderError("the feature cache has fewer slots than the coder")
        for slot in range(count):
            held = self.holds(slot)
            if held is not None and not isinstance(held, Tensor) and held != REPEAT:
                raise UnknownCoderError(f"a cache slot holds {held!r}")

    def keep(self, slot: int, value: Tensor | str | None) -> None:
        """Set what a slot will hold, as a whole."""
        self.fresh[slot] = value

    def commit(self) -> None:
        """Write the new contents into the caller's list."""
        if self.slots is not None:
            for slot, value in self.fresh.items():
                self.slots[self.first + slot] = value


class ItemCaches:
    """The slots for one item of the batch."""

    def __init__(self, caches: Caches, item: int, batch: int) -> None:
        self.caches = caches
        self.item = item
        self.batch = batch

    def past(self, slot: int, rows: Span, cols: Span, device: torch.device) -> Tensor | None:
        """The frames that a slot remembers for some pixels; ``None`` for an empty slot."""
        held = self.caches.holds(slot)
        if not isinstance(held, Tensor):
            return None
        mine = held[self.item : self.item + 1]
        return mine[..., slice(*rows), slice(*cols)].to(device)

    def store(
        self, slot: int, rows: Span, cols: Span, frames: Tensor, plane: tuple[int, int]
    ) -> None:
        """Write the frames that a slot will remember for some pixels of its plane."""
        self.store_at(slot, rows, cols, frames, plane, self.home)

    def of(self, item: int) -> ItemCaches:
        """The slots for another item."""
        return ItemCaches(self.caches, item, self.batch)

    @property
    def home(self) -> torch.device:
        """Where frames are joined and stored."""
        return self.caches.home

    def open(self, wants: Mapping[int, Sequence[Span]]) -> None:
        """Rows of tiles begin: which rows of the slots each of them will read."""

    def next_row(self) -> None:
        """A row of tiles is done."""

    def close(self) -> None:
        """All rows of tiles are done."""

    def settle(self) -> None:
        """The call ends: whatever it has put away can be read."""

    def store_at(
        self,
        slot: int,
        rows: Span,
        cols: Span,
        frames: Tensor,
        plane: tuple[int, int],
        home: torch.device,
    ) -> None:
        """`store`, with the plane kept on ``home``."""
        kept = self.caches.fresh.get(slot)
        if not isinstance(kept, Tensor):
            size = (self.batch, *frames.shape[1:3], *plane)
            kept = torch.empty(size, dtype=frames.dtype, device=home)
            self.caches.fresh[slot] = kept
        kept[self.item : self.item + 1, ..., slice(*rows), slice(*cols)].copy_(frames)
