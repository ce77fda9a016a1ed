"""The process in which a hook is loaded and run, and its channel to the judge.

Started from a clean interpreter in a session of its own. It lives as long as its judge, and is
expendable: whatever the hook does to it costs only the hook's current case.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from vae_compat.isolation import wire
from vae_compat.isolation.wire import Sort, Told


def run(asks: int, answers: int, serve: Callable[[Channel], None]) -> NoReturn:
    """Serve a judge over two pipes until it closes the first."""
    leave = os._exit  # before a hook could replace it
    faulthandler.enable()
    # Whoever interrupts a run interrupts the judge: this process has a session of its own. One
    # that comes all the same ends it like any other signal, and no `KeyboardInterrupt` turns up in
    # a hook that has nothing to do with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    channel = Channel(asks, answers)
    try:
        serve(channel)
    except BaseException as error:
        told = _told(error)
        try:
            channel.send(Sort.BROKEN, told)
        except BaseException:  # the channel is closed, but printed output is kept
            with suppress(BaseException):
                os.write(2, f"{told.detail}\n".encode("utf-8", "backslashreplace"))
        leave(1)
    leave(0)
    raise AssertionError("unreachable")


class Channel:
    """Frames over two pipes."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks = asks
        self._answers = answers
        # Taken now: a hook may replace what the modules have.
        self._read, self._write = os.read, os.write

    def receive(self) -> tuple[Sort, bytes, bytes] | None:
        """The next frame; ``None`` where the judge has closed its end."""
        header = self._exactly(wire.HEADER.size)
        if header is None:
            return None
        found = wire.announced(header)
        text, body = self._exactly(found.text), self._exactly(found.tensors)
        return None if text is None or body is None else (found.sort, text, body)

    def send(self, sort: Sort, message: object) -> None:
        """Send a frame."""
        view = memoryview(wire.pack(sort, message))
        while view:
            view = view[self._write(self._answers, view) :]

    def beat(self, seconds: float) -> None:
        """Report that an attempt begins, which may take so many CPU seconds, or that it ends."""
        self.send(Sort.BEAT, Told(seconds=seconds))

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            part = self._read(self._asks, min(count - len(parts), 2**20))
            if not part:
                return None
            parts += part
        return bytes(parts)


def _told(error: BaseException) -> Told:
    import traceback

    try:
        detail = "".join(traceback.format_exception(error)[-40:])
    except BaseException:
        detail = ""
    return Told(words=f"{type(error).__name__}: {error}", detail=detail)
