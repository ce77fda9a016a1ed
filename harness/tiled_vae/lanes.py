"""Copies between host and device beside the computing: streams, events, pinned memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .window import Span


class Lanes:
    """One stream in, one stream out, and pinned memory that planes take turns to use.

    On a device without streams copies are made at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.apart = device.type == "cuda"
        self.free: list[Tensor] = []
        if self.apart:
            self.inward = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.outward = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def take(self, nbytes: int) -> Tensor:
        """Memory on the host: the smallest free piece that is large enough, or a new one."""
        fitting = [each for each in self.free if each.numel() >= nbytes]
        if fitting:
            best = min(fitting, key=Tensor.numel)
            self.free = [each for each in self.free if each is not best]
            return best
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.apart)

    def give(self, memory: Tensor) -> None:
        """Memory of a plane that is done with."""
        self.free.append(memory)

    def settle(self) -> None:
        """What is computed from now on comes after all copies: buffers may go back."""
        if self.apart:
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(self.inward)
            now.wait_stream(self.outward)


class HostRows:
    """Rows of a plane, channels innermost, on the host. ``rows`` is ``H W C``."""

    def __init__(
        self, channels: int, height: int, width: int, dtype: torch.dtype, lanes: Lanes
    ) -> None:
        count = height * width * channels
        self.lanes = lanes
        self.memory = lanes.take(count * dtype.itemsize)
        flat = self.memory[: count * dtype.itemsize].view(dtype)
        self.rows = flat.view(height, width, channels)
        self.written: torch.cuda.Event | None = None
        """After all rows that have been sent so far."""

    def release(self) -> None:
        """Nobody will read it again."""
        self.lanes.give(self.memory)


class Reader:
    """Fetches spans of rows one ahead of time, into two buffers that take turns."""

    def __init__(self, source: HostRows, wants: list[Span]) -> None:
        self.source, self.wants, self.lanes = source, wants, source.lanes
        rows = source.rows
        most = max(span.size for span in wants)
        self.buffers = [
            torch.empty((most, *rows.shape[1:]), dtype=rows.dtype, device=self.lanes.device)
            for _ in range(min(2, len(wants)))
        ]
        self.arrived: list[torch.cuda.Event | None] = [None, None]
        self.read: list[torch.cuda.Event | None] = [None, None]
        if self.lanes.apart:
            # The buffers may be memory that the computing has only just given back.
            self.lanes.inward.wait_stream(torch.cuda.current_stream(self.lanes.device))
        self.start(0)

    def start(self, number: int) -> None:
        """Begin to fetch a span; its buffer is free once the one before the last was read."""
        if number >= len(self.wants):
            return
        span, slot = self.wants[number], number % 2
        target, piece = self.buffers[slot][: span.size], self.source.rows[slice(*span)]
        if not self.lanes.apart:
            target.copy_(piece)
            return
        stream = self.lanes.inward
        with torch.cuda.stream(stream):
            for event in (self.read[slot], self.source.written):
                if event is not None:
                    stream.wait_event(event)
            target.copy_(piece, non_blocking=True)
            self.arrived[slot] = stream.record_event()

    def take(self, number: int) -> tuple[Span, Tensor]:
        """A span and its rows, ``1 C h W``; the next one sets off."""
        slot = number % 2
        arrived = self.arrived[slot]
        if arrived is not None:
            torch.cuda.current_stream(self.lanes.device).wait_event(arrived)
        span = self.wants[number]
        self.start(number + 1)
        return span, self.buffers[slot][: span.size].permute(2, 0, 1).unsqueeze(0)

    def done(self, number: int) -> None:
        """All that reads a span has been asked for."""
        if self.lanes.apart:
            stream = torch.cuda.current_stream(self.lanes.device)
            self.read[number % 2] = stream.record_event()


class Writer:
    """Sends bands of rows to the host, from two buffers that take turns."""

    def __init__(self, target: HostRows, most: int, bands: int) -> None:
        self.target, self.lanes = target, target.lanes
        rows = target.rows
        self.count = 0
        self.buffers = [
            torch.empty((most, *rows.shape[1:]), dtype=rows.dtype, device=self.lanes.device)
            for _ in range(min(2, bands) if self.lanes.apart else 0)
        ]
        self.sent: list[torch.cuda.Event | None] = [None, None]

    def put(self, span: Span, band: Tensor) -> None:
        """A band ``1 C h W``."""
        rows, place = band[0].permute(1, 2, 0), self.target.rows[slice(*span)]
        if not self.lanes.apart:
            place.copy_(rows)
            return
        slot, stream = self.count % 2, self.lanes.outward
        self.count += 1
        now = torch.cuda.current_stream(self.lanes.device)
        sent = self.sent[slot]
        if sent is not None:
            now.wait_event(sent)
        buffer = self.buffers[slot][: span.size]
        buffer.copy_(rows)
        stream.wait_event(now.record_event())
        with torch.cuda.stream(stream):
            place.copy_(buffer, non_blocking=True)
            self.sent[slot] = self.target.written = stream.record_event()

    def close(self) -> None:
        """The buffers go back to the computing, after what is still on its way."""
        now = torch.cuda.current_stream(self.lanes.device) if self.lanes.apart else None
        for event in self.sent:
            if now is not None and event is not None:
                now.wait_event(event)
