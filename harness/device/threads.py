"""Threads that code under test starts: PyTorch's modes belong to the thread that entered them.

A thread started while the accelerator is open works on it like the thread that started it: under
the same modes, without gradients, one operation at a time, on a current stream of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from vae_compat.device.ledger import Ledger
from vae_compat.device.patches import replace_in

Modes = Callable[[], AbstractContextManager[Any]]


def following_threads(ledger: Ledger, modes: Modes) -> ExitStack:
    """Let threads that are started from now on follow, until the stack is closed."""
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        if not isinstance(thread, threading._DummyThread):
            ledger.lock = ledger.lock or threading.RLock()
            thread.run = _under(modes, thread.run)  # type: ignore[method-assign]
        start(thread)

    with ExitStack() as stack:
        replace_in(stack, threading.Thread, "start", started)
        return stack.pop_all()


def _under(modes: Modes, run: Callable[[], None]) -> Callable[[], None]:
    def running() -> None:
        with modes():
            run()

    return running
