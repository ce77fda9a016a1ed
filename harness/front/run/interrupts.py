"""Requests to stop: one orderly end, whichever signal asks for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vae_compat.vocabulary import ExitCode

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
IMPATIENCE = 3
"""Requests after which a process leaves at once."""


def ignore_requests() -> None:
    """Let none end this process any more: its exit code is told, and it only has to end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Interrupts:
    """Turns SIGINT, SIGTERM and SIGHUP into one ``KeyboardInterrupt`` in the main thread.

    Work that must not be interrupted halfway is done under ``held``. After the first request has
    been raised, further ones are only counted, so that cleaning up is not interrupted.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """Name of the first signal that came."""
        self._count = 0
        self._depth = 0
        self._raised = False
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """What happened, as part of a sentence; ``None`` where there was no request."""
        if self.asked is None:
            return None
        return "interrupted" if self.asked == "SIGINT" else f"stopped by {self.asked}"

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # What was ignored when the process started (nohup, background jobs) stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.asked = self.asked or signal.Signals(number).name
        self._count += 1
        if self._count >= IMPATIENCE:
            os._exit(ExitCode.HARNESS)
        if not self._depth:
            self._raise()

    def _raise(self) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt(self.asked)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Code inside runs to its end; a request that came meanwhile is raised afterwards."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self.asked and not self._depth:
            self._raise()

    def check(self) -> None:
        """Raise again a request that other code may have swallowed."""
        if self.asked:
            raise KeyboardInterrupt(self.asked)

    def close(self) -> None:
        """Only count requests from now on, because the process is ending anyway."""
        self._raised = True
