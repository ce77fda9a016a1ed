"""How a runner interrupts the hook when it has used its CPU time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_set_timer, _set_handler = signal.setitimer, signal.signal
"""Taken now: a hook may replace what the module has."""


class Hang(BaseException):
    """Raised inside a hook that takes too long.

    Not an ``Exception``, so that a hook that catches those to fall back does not swallow it.
    """


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Hang` inside after some CPU seconds, again every further one until it gets through.

    It counts the CPU time of the process, all threads together, so other load makes no difference.
    Works in the main thread alone, elsewhere there is no limit. A hook that is stuck in C, or that
    waits and uses no CPU, is ended by the process that watches this one; `BEAT` reports when an
    attempt begins and ends. A timer that was set before is set again afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    armed = True

    def expire(_signal: int, _frame: FrameType | None) -> None:
        if armed:
            raise Hang

    beat = BEAT.get()
    beat(seconds)
    before = _set_handler(signal.SIGPROF, expire)
    left, interval = _set_timer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        armed = False
        unspent, _ = _set_timer(signal.ITIMER_PROF, 0)
        _set_handler(signal.SIGPROF, before)
        if left:
            left = max(left - (seconds - unspent), 0.01)
            _set_timer(signal.ITIMER_PROF, left, interval)
        beat(left)


def _unheard(_seconds: float) -> None:
    """Used where no process watches."""


BEAT: ContextVar[Callable[[float], None]] = ContextVar("beat", default=_unheard)
"""Called with the CPU seconds that a stretch of the hook may take where one begins, and with what
is left of the surrounding one, or 0, where one ends."""
