"""Threads that code under test starts: PyTorch's modes belong to the thread that entered them.

A thread started while a device is open works under the modes of that device, and so does whatever
is submitted to a pool of threads, however long ago these were started.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import thread as pools
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from vae_compat.device.patches import replace_in

Modes = Callable[[], AbstractContextManager[Any]]


def following_threads(modes: Modes) -> ExitStack:
    """Let threads and pools enter ``modes()`` for what they are given to do, until it is closed."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def started(thread: threading.Thread) -> None:
        # The threads of a pool outlive what they do.
        if not isinstance(thread, threading._DummyThread) and not serves_pool(thread):
            thread.run = _under(modes, thread.run)  # type: ignore[method-assign]
        start(thread)

    def submitted(
        pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        return submit(pool, _under(modes, work), *args, **kwargs)

    with ExitStack() as stack:
        replace_in(stack, threading.Thread, "start", started)
        replace_in(stack, ThreadPoolExecutor, "submit", submitted)
        return stack.pop_all()


def serves_pool(thread: threading.Thread) -> bool:
    """Whether this is a thread of a ``ThreadPoolExecutor``."""
    return getattr(thread, "_target", None) is pools._worker


def _under(modes: Modes, work: Callable[..., Any]) -> Callable[..., Any]:
    def working(*args: Any, **kwargs: Any) -> Any:
        with modes():
            return work(*args, **kwargs)

    return working
