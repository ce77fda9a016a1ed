"""Feature caches in pinned memory, which come and go beside the computing.

A slot lies there with its rows outermost, so that a band of them is one piece of memory. What the
caller's list holds is a view of it with the shape that the coder gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..program.window import Span
from .arena import Arena, OffloadedRows, Reader, Writer
from .caches import Caches, ItemCaches


class ParkedCaches(ItemCaches):
    """The slots for one item of the batch, read and written by rows of tiles."""

    def __init__(self, caches: Caches, item: int, batch: int, arena: Arena) -> None:
        super().__init__(caches, item, batch)
        self.arena = arena
        self.readers: dict[int, Reader] = {}
        self.windows: dict[int, tuple[Span, Tensor]] = {}
        """The rows ``h C t W`` of slots that are on the device for this row of tiles."""
        self.writers: dict[int, Writer] = {}
        self.bands: dict[int, Tensor] = {}
        """Rows ``h C t W`` of slots that are put together from the tiles of a row."""
        self.row = -1

    def of(self, item: int) -> ParkedCaches:
        """The slots for another item."""
        return ParkedCaches(self.caches, item, self.batch, self.arena)

    @property
    def home(self) -> torch.device:
        """Where frames are joined."""
        return self.arena.device

    def open(self, wants: Mapping[int, Sequence[Span]]) -> None:
        """Rows of tiles begin: which rows of the slots each of them will read."""
        self.row = 0
        for slot, spans in wants.items():
            rows = self.parked(slot)
            if rows is not None:
                self.readers[slot] = Reader(rows, spans, buffers=1)

    def parked(self, slot: int) -> OffloadedRows | None:
        """What a slot held when the call began, if a call before this one has put it here."""
        held = self.caches.holds(slot)
        if not isinstance(held, Tensor) or held.device.type != "cpu":
            return None
        rows = held[self.item].permute(2, 0, 1, 3)
        if not rows.is_contiguous() or held.is_pinned() is not self.arena.streams:
            return None
        return OffloadedRows(rows, self.arena)

    def next_row(self) -> None:
        """A row of tiles is done."""
        for reader in self.readers.values():
            reader.done(self.row)
        self.windows.clear()
        self.row += 1

    def close(self) -> None:
        """All rows of tiles are done."""
        for writer in self.writers.values():
            writer.close()
        self.readers.clear()
        self.writers.clear()
        self.row = -1

    def settle(self) -> None:
        """The call ends: its memory may be used again, and the caller reads the list."""
        self.arena.settle()
        self.arena.arrive()

    def past(self, slot: int, rows: Span, cols: Span, device: torch.device) -> Tensor | None:
        """The frames that a slot remembers for some pixels; ``None`` for an empty slot."""
        if slot not in self.readers:
            return super().past(slot, rows, cols, device)
        if slot not in self.windows:
            self.windows[slot] = self.readers[slot].take(self.row)
        span, window = self.windows[slot]
        return window[rows.within(span), ..., slice(*cols)].permute(1, 2, 0, 3).unsqueeze(0)

    def store(
        self, slot: int, rows: Span, cols: Span, frames: Tensor, plane: tuple[int, int]
    ) -> None:
        """Write the frames that a slot will remember for some pixels of its plane."""
        if self.row < 0:
            super().store(slot, rows, cols, frames, plane)
            return
        width = plane[1]
        band = self.bands.get(slot)
        if band is None:
            if slot in self.writers:
                self.writers[slot].close()
            size = rows.size, *frames.shape[1:3], width
            band = self.bands[slot] = frames.new_empty(size)
        band[..., slice(*cols)].copy_(frames[0].permute(2, 0, 1, 3))
        if cols.stop == width:
            self.writer(slot, frames, plane).put(rows, self.bands.pop(slot))

    def writer(self, slot: int, frames: Tensor, plane: tuple[int, int]) -> Writer:
        """What sends the rows of a slot to where the caller will find them."""
        if slot not in self.writers:
            kept = self.caches.fresh.get(slot)
            if not isinstance(kept, Tensor):
                size = self.batch, plane[0], *frames.shape[1:3], plane[1]
                memory = torch.empty(size, dtype=frames.dtype, pin_memory=self.arena.streams)
                # B H C t W -> B C t H W
                kept = self.caches.fresh[slot] = memory.permute(0, 2, 3, 1, 4)
            rows = kept[self.item].permute(2, 0, 1, 3)
            self.writers[slot] = Writer(OffloadedRows(rows, self.arena))
        return self.writers[slot]
