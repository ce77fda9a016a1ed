"""Streams and events of the simulated accelerator.

Work is done at once, in the order of the calls. Streams and events only change which order code may
rely on, which ``vae_compat.device.order`` tracks.
"""

# ruff: noqa: ARG001, ARG002 - the signatures are those of torch.cuda
from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from vae_compat.device.ledger import Ledger
from vae_compat.device.order import Clock
from vae_compat.device.trace import DEFAULT_STREAM, Ordered, Recorded


class Streams:
    """The streams of one device, and which of them is current on each thread."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._numbers = itertools.count(1)
        self._events = itertools.count()
        self._local = threading.local()

    @property
    def current(self) -> int:
        """The current stream of this thread."""
        return getattr(self._local, "stream", DEFAULT_STREAM)

    @current.setter
    def current(self, stream: int) -> None:
        self._local.stream = self.ledger.trace.stream = stream

    def enter_thread(self) -> None:
        """From now on this thread does the work."""
        self.ledger.trace.stream = self.current

    def new(self) -> int:
        """Another stream: from now on there is an order to keep."""
        self.ledger.watch()
        return next(self._numbers)

    def record(self, stream: int) -> tuple[int, Clock]:
        """An event in a stream: its number, and how far the streams are that come before it."""
        number = next(self._events)
        ledger = self.ledger
        ledger.trace.note(Recorded(stream, number))
        return number, {0: 1} if ledger.order is None else ledger.order.snapshot(stream)

    def order(self, stream: int, number: int, clock: Clock) -> None:
        """A stream waits for an event."""
        ledger = self.ledger
        ledger.trace.note(Ordered(stream, number))
        if ledger.order is not None:
            ledger.order.join(stream, clock)


class Stream:
    """``torch.cuda.Stream``."""

    streams: ClassVar[Streams]

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
        number = kwargs.get("stream_id")
        self.stream_id: int = self.streams.new() if number is None else number
        self.priority = priority
        self.device = torch.device("cuda", 0)
        self.device_index = 0
        self.cuda_stream = self.stream_id
        self._before: list[int] = []

    def __enter__(self) -> Stream:
        self._before.append(self.streams.current)
        self.streams.current = self.stream_id
        return self

    def __exit__(self, *exc: object) -> None:
        self.streams.current = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.stream_id == self.stream_id

    def __hash__(self) -> int:
        return hash((Stream, self.stream_id))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device=cuda:0 cuda_stream={self.stream_id:#x}>"

    def query(self) -> bool:
        """Whether all work is done: it is, and the host now knows."""
        order = self.streams.ledger.order
        if order is not None:
            order.settle_stream(self.stream_id)
        return True

    def synchronize(self) -> None:
        """The host waits for the stream."""
        self.streams.ledger.waited("synchronize", self.stream_id)

    def wait_stream(self, stream: Any) -> None:
        """What comes next in this stream waits for all that is in another."""
        self.streams.order(self.stream_id, *self.streams.record(stream.stream_id))

    def wait_event(self, event: Any) -> None:
        """What comes next in this stream waits for an event."""
        event.wait(self)

    def record_event(self, event: Any = None) -> Any:
        """An event after all that is in the stream."""
        event = torch.cuda.Event() if event is None else event  # type: ignore[no-untyped-call]
        event.record(self)
        return event


class Event:
    """``torch.cuda.Event``; the times are those of the host."""

    streams: ClassVar[Streams]

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._time = 0.0
        self._recorded: tuple[int, Clock] | None = None
        self._allocations = 0

    def record(self, stream: Any = None) -> None:
        """After all that is in a stream, by default in the current one."""
        self._time = time.perf_counter()
        streams = self.streams
        self._allocations = streams.ledger.allocations
        self._recorded = streams.record(streams.current if stream is None else stream.stream_id)

    def wait(self, stream: Any = None) -> None:
        """What comes next in a stream, by default in the current one, waits for the event."""
        if self._recorded is not None:
            streams = self.streams
            number = streams.current if stream is None else stream.stream_id
            streams.order(number, *self._recorded)

    def synchronize(self) -> None:
        """The host waits for the event."""
        if self._recorded is not None:
            ledger = self.streams.ledger
            ledger.waited("synchronize", event=self._recorded[0])
            self._happened()

    def query(self) -> bool:
        """Whether it has happened: it has, and the host now knows."""
        self._happened()
        return True

    def _happened(self) -> None:
        ledger = self.streams.ledger
        if self._recorded is not None:
            ledger.settled = max(ledger.settled, self._allocations)
            if ledger.order is not None:
                ledger.order.settle(self._recorded[1])

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds until another event."""
        return (end._time - self._time) * 1000


class StreamContext:
    """``torch.cuda.stream(...)``; of ``None`` it does nothing."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            self.stream.__enter__()

    def __exit__(self, *exc: object) -> None:
        if self.stream is not None:
            self.stream.__exit__(*exc)


def stream_answers(streams: Streams) -> dict[str, Any]:
    """Stand-ins for what ``torch.cuda`` has about streams."""
    bound = {"streams": streams}
    stream_class: type[Stream] = type("Stream", (Stream,), bound)
    event_class: type[Event] = type("Event", (Event,), bound)

    def default(device: Any = None) -> Stream:
        return stream_class(stream_id=DEFAULT_STREAM)

    def current(device: Any = None) -> Stream:
        return stream_class(stream_id=streams.current)

    def set_stream(stream: Any) -> None:
        if stream is not None:
            streams.current = stream.stream_id

    def synchronize(device: Any = None) -> None:
        streams.ledger.waited("synchronize")

    answers: dict[str, Callable[..., Any]] = {
        "Stream": stream_class,
        "Event": event_class,
        "StreamContext": StreamContext,
        "stream": StreamContext,
        "current_stream": current,
        "default_stream": default,
        "set_stream": set_stream,
        "synchronize": synchronize,
    }
    return answers
