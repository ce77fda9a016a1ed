"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, number: int) -> None:
    """Have the system send this process a signal when its parent ends; on Linux alone."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before the system was asked
        os.kill(os.getpid(), number)
