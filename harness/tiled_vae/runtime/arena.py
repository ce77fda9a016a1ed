"""Planes in pinned memory, which come and go beside the computing: streams, events, one arena."""

from __future__ import annotations

import torch
from torch import Tensor

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

    def settle(self) -> None:
        """What is computed from now on comes after all copies, so that buffers may be reused."""
        if self.streams:
            self.computing.wait_stream(self.inward)
            self.computing.wait_stream(self.outward)


class OffloadedRows:
    """The rows of a plane on the host: ``H W C``."""

    def __init__(
        self, channels: int, height: int, width: int, dtype: torch.dtype, arena: Arena
    ) -> None:
        nbytes = height * width * channels * dtype.itemsize
        self.arena = arena
        self.memory = arena.take(nbytes)
        self.rows = self.memory[:nbytes].view(dtype).view(height, width, channels)
        self.sent: list[tuple[Span, torch.cuda.Event]] = []
        """Bands that were sent here, and when they have arrived."""

    def release(self) -> None:
        """Nobody will read it again."""
        self.arena.give(self.memory)


class Reader:
    """Fetches spans of rows one ahead of time, into two buffers that take turns."""

    def __init__(self, source: OffloadedRows, wants: list[Span]) -> None:
        self.source, self.wants, self.arena = source, wants, source.arena
        rows = source.rows
        most = max(span.size for span in wants)
        self.buffers = [
            torch.empty((most, *rows.shape[1:]), dtype=rows.dtype, device=self.arena.device)
            for _ in range(min(2, len(wants)))
        ]
        self.arrived: list[torch.cuda.Event | None] = [None, None]
        self.read: list[torch.cuda.Event | None] = [None, None]
        if self.arena.streams:
            # The buffers may be memory that the computing has only just given back.
            self.arena.inward.wait_stream(self.arena.computing)
        self.start(0)

    def start(self, number: int) -> None:
        """Begin to fetch a span; its buffer is free once the one before the last was read."""
        if number >= len(self.wants):
            return
        span, slot = self.wants[number], number % 2
        target, piece = self.buffers[slot][: span.size], self.source.rows[slice(*span)]
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
        """A span and its rows, ``1 C h W``; the next one sets off."""
        slot = number % 2
        arrived = self.arrived[slot]
        if arrived is not None:
            self.arena.computing.wait_event(arrived)
        span = self.wants[number]
        self.start(number + 1)
        return span, self.buffers[slot][: span.size].permute(2, 0, 1).unsqueeze(0)

    def done(self, number: int) -> None:
        """All that reads a span has been launched."""
        if self.arena.streams:
            self.read[number % 2] = self.arena.computing.record_event()


class Writer:
    """Sends bands of rows to the host; the band before stays in memory while it is on its way."""

    def __init__(self, target: OffloadedRows) -> None:
        self.target, self.arena = target, target.arena
        self.sending: tuple[Tensor, torch.cuda.Event] | None = None

    def put(self, span: Span, band: Tensor) -> None:
        """A band ``1 C h W``, channels innermost."""
        rows, place = band[0].permute(1, 2, 0), self.target.rows[slice(*span)]
        if not self.arena.streams:
            place.copy_(rows)
            return
        stream = self.arena.outward
        stream.wait_event(self.arena.computing.record_event())
        with torch.cuda.stream(stream):
            place.copy_(rows, non_blocking=True)
            arrival = stream.record_event()
        self.close()
        self.sending = band, arrival
        self.target.sent.append((span, arrival))

    def close(self) -> None:
        """Let go of the band on its way: its memory is used again after it has arrived."""
        if self.sending is not None:
            self.arena.computing.wait_event(self.sending[1])
            self.sending = None
