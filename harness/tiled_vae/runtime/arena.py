"""Rows in pinned memory, which come and go beside the computing: streams, events, one arena."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..program.steps import Shape
from ..program.window import Span


class Arena:
    """Memory on the host that planes take turns to use, with a stream to it and one from it.

    Pinned where there are streams. Elsewhere (CPU, MPS) copies are made at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.streams = device.type == "cuda"
        self.free: list[Tensor] = []
        if self.streams:
            self.inward = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.outward = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def computing(self) -> torch.cuda.Stream:
        """The stream that tiles are computed in."""
        return torch.cuda.current_stream(self.device)

    def take(self, nbytes: int) -> Tensor:
        """The smallest free piece that is large enough, or a new one."""
        fitting = [each for each in self.free if each.numel() >= nbytes]
        if not fitting:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.streams)
        best = min(fitting, key=Tensor.numel)
        self.free = [each for each in self.free if each is not best]
        return best

    def give(self, memory: Tensor) -> None:
        """Memory of a plane that nobody reads any more."""
        self.free.append(memory)

    def arrive(self) -> None:
        """The host waits until all that was sent to it is there."""
        if self.streams:
            self.outward.synchronize()

    def settle(self) -> None:
        """What is computed from now on comes after all copies, so that buffers may be reused."""
        if self.streams:
            self.computing.wait_stream(self.inward)
            self.computing.wait_stream(self.outward)


class OffloadedRows:
    """Rows on the host, each one piece of memory."""

    def __init__(self, rows: Tensor, arena: Arena) -> None:
        self.rows, self.arena = rows, arena
        self.memory: Tensor | None = None
        """What of the arena they lie in."""
        self.sent: list[tuple[Span, torch.cuda.Event]] = []
        """Bands that were sent here, and when they have arrived."""

    @classmethod
    def of_plane(cls, shape: Shape, dtype: torch.dtype, arena: Arena) -> OffloadedRows:
        """Memory of the arena for a plane, ``H W C``."""
        nbytes = shape.elements * dtype.itemsize
        memory = arena.take(nbytes)
        rows = memory[:nbytes].view(dtype).view(shape.height, shape.width, shape.channels)
        found = cls(rows, arena)
        found.memory = memory
        return found

    def release(self) -> None:
        """Nobody will read it again."""
        if self.memory is not None:
            self.arena.give(self.memory)


class Reader:
    """Fetches spans of rows ahead of time.

    Into two buffers that take turns; or into one, which is filled again as soon as it was read.
    """

    def __init__(self, source: OffloadedRows, wants: Sequence[Span], buffers: int = 2) -> None:
        self.source, self.wants, self.arena = source, wants, source.arena
        rows = source.rows
        most = max(span.size for span in wants)
        self.buffers = [
            torch.empty((most, *rows.shape[1:]), dtype=rows.dtype, device=self.arena.device)
            for _ in range(min(buffers, len(wants)))
        ]
        self.begun = -1
        """The last span that set off."""
        self.arrived: list[torch.cuda.Event | None] = [None, None]
        self.read: list[torch.cuda.Event | None] = [None, None]
        if self.arena.streams:
            # The buffers may be memory that the computing has only just given back.
            self.arena.inward.wait_stream(self.arena.computing)
        self.start(0)

    def start(self, number: int) -> None:
        """Begin to fetch a span, unless it is on its way; what its buffer held was read."""
        if number <= self.begun or number >= len(self.wants):
            return
        self.begun = number
        span, slot = self.wants[number], number % len(self.buffers)
        target, piece = self.buffers[slot][: span.size], self.source.rows[slice(*span)]
        if not span.size:
            return
        if not self.arena.streams:
            target.copy_(piece)
            return
        stream = self.arena.inward
        read = self.read[slot]
        if read is not None:
            stream.wait_event(read)
        for band, arrival in self.source.sent:
            if band.start < span.stop and span.start < band.stop:
                stream.wait_event(arrival)
        with torch.cuda.stream(stream):
            target.copy_(piece, non_blocking=True)
            self.arrived[slot] = stream.record_event()

    def take(self, number: int) -> tuple[Span, Tensor]:
        """A span and its rows; where there are two buffers the next one sets off."""
        slot = number % len(self.buffers)
        arrived = self.arrived[slot]
        if arrived is not None:
            self.arena.computing.wait_event(arrived)
        span = self.wants[number]
        if len(self.buffers) > 1:
            self.start(number + 1)
        return span, self.buffers[slot][: span.size]

    def done(self, number: int) -> None:
        """All that reads a span has been launched."""
        if self.arena.streams:
            self.read[number % len(self.buffers)] = self.arena.computing.record_event()
        if len(self.buffers) == 1:
            self.start(number + 1)


class Writer:
    """Sends bands of rows to the host; the band before stays in memory while it is on its way."""

    def __init__(self, target: OffloadedRows) -> None:
        self.target, self.arena = target, target.arena
        self.sending: tuple[Tensor, torch.cuda.Event] | None = None

    def put(self, span: Span, rows: Tensor) -> None:
        """A band of rows, as they lie there."""
        place = self.target.rows[slice(*span)]
        if not self.arena.streams:
            place.copy_(rows)
            return
        stream = self.arena.outward
        stream.wait_event(self.arena.computing.record_event())
        with torch.cuda.stream(stream):
            place.copy_(rows, non_blocking=True)
            arrival = stream.record_event()
        self.close()
        self.sending = rows, arrival
        self.target.sent.append((span, arrival))

    def close(self) -> None:
        """Let go of the band on its way: its memory is used again after it has arrived."""
        if self.sending is not None:
            self.arena.computing.wait_event(self.sending[1])
            self.sending = None
