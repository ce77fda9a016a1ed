"""The process between judge and runner: everything that a runner started ends with the runner.

It is the parent of the runner, and adopts every descendant whose own parent ends, so that nothing
escapes by a new session, a second fork or a cleared environment. When the runner ends, the keeper
kills all descendants and ends with the runner's status. It also kills them on request, or when the
judge ends for any reason.

The nursery forks the keeper, and the keeper forks the runner.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from vae_compat.isolation.runner import Channel, run

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_HEARD = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ROUNDS = 5000
"""How often remaining processes are killed again: one may fork while it is being killed, or wait
for a disk."""
NUMBER = struct.Struct("<i")
"""Format in which the keeper reports a number."""
_MOST_DESCRIPTORS = 65536


def keep(
    serve: Callable[[Channel], None],
    nursery: int,
    asks: int,
    answers: int,
    prints: int,
    told: int,
) -> NoReturn:
    """Start a runner that serves the judge over pipes, and end after it.

    Through ``told`` the judge hears the number of this process, and at the end the status of the
    runner, as `os.waitstatus_to_exitcode` gives it.
    """
    leave = os._exit
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    die_with(nursery, signal.SIGTERM)
    os.setsid()
    adopt()
    with suppress(ValueError, OSError):  # a crash must not write gigabytes of core
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keeper = os.getpid()
    os.write(told, NUMBER.pack(keeper))
    os.dup2(prints, 1)
    os.dup2(prints, 2)
    os.close(prints)
    runner = os.fork()
    if runner == 0:
        os.setsid()
        os.close(told)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        die_with(keeper, signal.SIGKILL)
        run(asks, answers, serve)
    _let_go(told)
    status = _watched(runner)
    _end_all()
    with suppress(OSError):
        os.write(told, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    leave(0)
    raise AssertionError("unreachable")


def adopt() -> None:
    """Become the parent of everything below this process whose own parent ends."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, by: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, for any reason."""
    _control(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # the parent ended before this call
        os._exit(1)


def _control(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _let_go(told: int) -> None:
    """Hold no end of another pipe, so that each closes with whoever uses it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.closerange(3, told)
    os.closerange(told + 1, _MOST_DESCRIPTORS)


def _watched(runner: int) -> int:
    """The status with which the runner ends, or that of one that was ended on request."""
    while True:
        if signal.sigwait(_HEARD) is not signal.SIGCHLD:
            return int(signal.SIGKILL)  # which is what comes now
        while True:  # one signal may stand for several children
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if child == runner:
                return status
            if child == 0:
                break


def _end_all() -> None:
    """Kill everything below this process until there is nothing."""
    for _ in range(_ROUNDS):
        below = _below(os.getpid())
        for number in (
            signal.SIGSTOP,
            signal.SIGKILL,
        ):  # first stop them all, so that none can fork
            for process in below:
                with suppress(OSError):
                    os.kill(process, number)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _below(process: int) -> list[int]:
    """Children and theirs, as the kernel lists them."""
    found: list[int] = []
    folder = f"/proc/{process}/task"
    with suppress(OSError):
        for thread in os.listdir(folder):  # noqa: PTH208 (as few calls as can be: it runs beside forks)
            with suppress(OSError), open(f"{folder}/{thread}/children", "rb") as listed:  # noqa: PTH123
                for child in map(int, listed.read().split()):
                    found += [child, *_below(child)]
    return found
