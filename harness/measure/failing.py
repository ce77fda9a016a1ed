"""Exceptions that come out of a hook, as text: no frame, and so no tensor, is kept alive."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch

from vae_compat.measure.observation import Failure, Origin

_HARNESS = Path(__file__).resolve().parents[1]
_LIBRARIES = (str(_HARNESS) + "/", "/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")
_LONGEST = 8000
"""Characters of a traceback, or of a message, that are kept: an endless recursion has many."""


class Hang(BaseException):
    """Raised inside a hook that takes too long.

    No ``Exception``, so that a hook that catches those to fall back does not swallow it.
    """


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Hang` inside after some CPU seconds, again every further one until it gets through.

    CPU time of the process, all threads together: what else the machine does makes no difference.
    Works in the main thread alone, elsewhere there is no limit. A hook that is stuck in C, or that
    waits and uses no CPU, is for whoever watches the process; `BEAT` tells when a stretch begins
    and ends. A timer that was set before is set again afterwards.
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
    before = signal.signal(signal.SIGPROF, expire)
    left, interval = signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        armed = False
        unspent, _ = signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        if left:
            left = max(left - (seconds - unspent), 0.01)
            signal.setitimer(signal.ITIMER_PROF, left, interval)
        beat(left)


def _unheard(_seconds: float) -> None:
    """Where nobody watches."""


BEAT: ContextVar[Callable[[float], None]] = ContextVar("beat", default=_unheard)
"""Called with the CPU seconds that a stretch of the hook may take where one begins, and with what
is left of the surrounding one, or 0, where one ends."""


def failure_of(
    error: BaseException, phase: str, seconds: float = 0.0, hook_file: str = ""
) -> Failure:
    """Describe an exception, and let go of all that it holds."""
    kind = kind_of(error)
    message = _message(error)
    origin = Origin.HOOK
    if isinstance(error, Hang):
        kind, message = "TimeLimit", f"still running after {seconds:g} s of CPU time"
        origin = Origin.LIMIT
    try:
        frames = list(traceback.extract_tb(error.__traceback__))
        text = "".join(traceback.TracebackException.from_exception(error, limit=-40).format())
    except BaseException:  # out of memory or of stack, or the hook's own code, while describing
        frames, text = [], f"{kind}: {message}"
    where = _where(frames, hook_file)
    _release(error)
    return Failure(kind, message, where, text[-_LONGEST:], phase, origin)


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_LONGEST]
    except BaseException as second:  # it is the hook's own code that raises here
        return f"(its message cannot be read: {kind_of(second)})"


def _where(frames: list[traceback.FrameSummary], hook_file: str) -> str:
    """The innermost frame of the hook: of its file or folder, else of no library; else of all."""
    if not frames:
        return ""
    folder = str(Path(hook_file).resolve().parent) + "/" if hook_file else ""
    own = [frame for frame in frames if folder and _path(frame).startswith(folder)]
    foreign = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    frame = (own or foreign or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _path(frame: traceback.FrameSummary) -> str:
    return str(Path(frame.filename).resolve())


def _release(error: BaseException) -> None:
    """Drop the frames of an exception and of those it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if one.__traceback__ is not None:
            traceback.clear_frames(one.__traceback__)
            one.__traceback__ = None


def returned_kind(result: object) -> str:
    """What a hook returned, in words: ``Tensor``, ``list of 2 Tensor``, ``None``.

    Runs no code of the object: what a hook made may raise, or end the process, when it is shown.
    """
    kind = type(result)
    if issubclass(kind, torch.Tensor):
        return "Tensor"
    if result is None:
        return "None"
    if issubclass(kind, dict):
        keys = list(islice(dict.__iter__(cast("dict[object, object]", result)), 4))
        names = ", ".join(key if type(key) is str else kind_of(key) for key in keys)
        return f"dict with keys {names}"
    for plain in (list, tuple):
        if issubclass(kind, plain):
            items = list(plain.__iter__(cast("Any", result)))
            inside = kind_of(items[0]) if items else "nothing"
            return f"{kind_of(result)} of {len(items)} {inside}"
    return kind_of(result)


def kind_of(thing: object) -> str:
    """Name of its type. Runs no code of that either, nor of its metaclass."""
    return str(type.__dict__["__name__"].__get__(type(thing)))
