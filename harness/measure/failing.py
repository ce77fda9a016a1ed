"""Exceptions from a hook, as text, so that no frame and hence no tensor is kept alive."""

from __future__ import annotations

import dis
import re
import traceback
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch

from vae_compat.isolation.limiting import Hang, limited
from vae_compat.measure.misfit import misfit
from vae_compat.measure.observation import Failure, Origin
from vae_compat.subject.settings import ModeNotOffered

_HARNESS = Path(__file__).resolve().parents[1]
_LAYOUTS = str(Path("fixtures", "layouts"))
"""Code of the fixtures that calls the coder as its users do."""
_LIBRARIES = (str(_HARNESS) + "/", "/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")
_LONGEST = 8000
"""Characters of a traceback, or of a message, that are kept: an endless recursion has many."""


def failure_of(
    error: BaseException, phase: str, seconds: float = 0.0, hook_file: str = ""
) -> Failure:
    """Describe an exception, and release everything that it holds."""
    kind = kind_of(error)
    message = _message(error)
    origin = _origin(error)
    if origin is Origin.LIMIT:
        kind, message = "TimeLimit", f"still running after {seconds:g} s of CPU time"
    try:
        with limited(_WORDING):
            frames = list(traceback.extract_tb(error.__traceback__))
            text = "".join(traceback.TracebackException.from_exception(error, limit=-40).format())
            by_raise = _raised(error.__traceback__)
            if (missing := misfit(error)) is not None:
                message = f"{message} ({missing.words})"
    except BaseException:  # out of memory or of stack, or the hook's own code, while describing
        frames, text, by_raise = [], f"{kind}: {message}", False
    where, in_hook = _place(frames, hook_file)
    refused = phase == "run" and _refuses_call(error, message, in_hook=in_hook)
    own = in_hook or phase in ("load", "put_on")  # a hook refuses through what it is built from
    on_purpose = origin is Origin.HARNESS or (by_raise and own and type(error) not in _ACCIDENTS)
    _release(error)
    return Failure(
        kind,
        message,
        where,
        text[-_LONGEST:],
        phase,
        origin,
        deliberate=on_purpose and bool(message.strip()) and not refused,
        refuses_call=refused,
        out_of_memory=_tells_of_memory(error, message),
    )


def _origin(error: BaseException) -> Origin:
    if isinstance(error, Hang):
        return Origin.LIMIT
    return Origin.HARNESS if isinstance(error, ModeNotOffered) else Origin.HOOK


_ACCIDENTS: frozenset[type[BaseException]] = frozenset(
    {
        AttributeError,
        IndexError,
        KeyError,
        NameError,
        UnboundLocalError,
        ZeroDivisionError,
        RecursionError,
        MemoryError,
        torch.OutOfMemoryError,
        TimeoutError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        StopIteration,
    }
)
"""Exceptions that tell the user of a hook nothing, even where a ``raise`` made them.

A subclass of one of these may well be a refusal.
"""


def _raised(trace: TracebackType | None) -> bool:
    """Whether an exception comes from a ``raise`` or an ``assert`` and not out of an operation."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    instruction = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    return dis.opname[instruction] == "RAISE_VARARGS"


_BINDING = re.compile(
    r"unexpected keyword argument|positional arguments? |missing \d+ required|"
    r"multiple values for|takes no arguments"
)
_CODER_ARGUMENTS = ("feat_cache", "feat_idx", "first_chunk", "final")
"""What Wan's coders are called with beyond their input (Wan2.1 wan/modules/vae.py, diffusers,
ComfyUI comfy/ldm/wan/vae.py)."""


def _refuses_call(error: BaseException, message: str, *, in_hook: bool) -> bool:
    """Whether the hooked coder could not take the arguments that it was called with.

    Not so where the hook itself makes a wrong call of a function of its own (``in_hook``), unless
    that call passes on what coders alone are given.

    Reads the words of the exception: Python tells a call that does not fit a signature by a plain
    ``TypeError`` from before the function's first instruction, with neither a frame nor an
    attribute of the function that was called.
    """
    if type(error) is not TypeError or not _BINDING.search(message):
        return False
    return not in_hook or any(f"'{name}'" in message for name in _CODER_ARGUMENTS)


def _tells_of_memory(error: BaseException, message: str) -> bool:
    """Whether an exception says that memory ran out.

    Reads the words of those that are no ``OutOfMemoryError``: CUDA's driver and its libraries raise
    a plain ``RuntimeError``, and a hook may say it in an exception of its own.
    """
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in message.lower()


_WORDING = 5.0
"""CPU seconds that an exception may take to say what it is."""


def _message(error: BaseException) -> str:
    try:
        with limited(_WORDING):
            return str(error)[:_LONGEST]
    except BaseException as second:  # it is the hook's own code that raises here
        return f"(its message cannot be read: {kind_of(second)})"


def _place(frames: list[traceback.FrameSummary], hook_file: str) -> tuple[str, bool]:
    """Where the hook failed, and whether its own code, and none that it called, raised.

    The place is the innermost frame in the hook's file or folder; without one, the innermost
    outside of libraries; else the innermost of all.
    """
    if not frames:
        return "", False
    folder = str(Path(hook_file).resolve().parent) + "/" if hook_file else ""
    own = [frame for frame in frames if folder and _path(frame).startswith(folder)]
    foreign = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    frame = (own or foreign or frames)[-1]
    ours = not own and _LAYOUTS in frame.filename
    in_hook = frame is frames[-1] and bool(own or foreign) and not ours
    return f"{frame.filename}:{frame.lineno}", in_hook


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
