"""What a hook may change in the process around it: noticed, named and undone."""

from __future__ import annotations

import functools
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping, Set
from concurrent.futures import _base as futures
from concurrent.futures import thread as pools
from pathlib import Path
from types import CodeType, FrameType, MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from vae_compat.device.gpu import MIXED, told
from vae_compat.device.threads import serves_pool
from vae_compat.measure.compilers import (
    named_by_inductor,
    raised_by_inductor,
    replaced_by_dynamo,
    serves_compiler,
)
from vae_compat.measure.switches import SWITCHES

_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
)
"""Where ``torch.nn.modules.module`` keeps the hooks that apply to every module."""

_PATCHABLE: tuple[tuple[str, Any], ...] = (
    ("torch", torch),
    ("torch.Tensor", torch.Tensor),
    ("torch.nn.functional", torch.nn.functional),
    ("torch.cuda", torch.cuda),
    *(
        (f"torch.nn.{owner.__name__}", owner)
        for owner in (nn.Module, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.Linear, nn.SiLU)
    ),
)
"""Modules in which hooks replace functions for the whole process."""


_PATIENCE = 0.2
"""Seconds that a thread may take to end by itself."""
_SIGNALS = {
    f"handler of {number.name}": number
    for number in signal.Signals
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGPROF)
}
"""Signals that can be handled, by what their handlers are called here; the limit on the time of a
call has the last of those that are left out."""
_FOLDER = "working directory"
_VARIABLE = "environment variable "


@functools.cache
def _module_classes() -> tuple[type[Any], ...]:
    """The modules of ``torch.nn`` that `_PATCHABLE` does not watch whole."""
    whole = [owner for _, owner in _PATCHABLE]
    return tuple(
        owner
        for owner in vars(nn).values()
        if isinstance(owner, type) and issubclass(owner, nn.Module) and owner not in whole
    )


def running_threads() -> dict[int, str]:
    """Names of the threads that run Python, by identity.

    A progress bar's does not count, nor does the compiler's own, nor one of a pool that waits for
    work: by itself it does nothing more, and it ends with its pool. Threads that ``_thread`` starts
    are in no list of ``threading`` and have no name.
    """
    known = {thread.ident: thread for thread in threading.enumerate()}
    return {
        ident: known[ident].name if ident in known else f"number {ident}"
        for ident, frame in sys._current_frames().items()
        if not type(known.get(ident)).__module__.startswith("tqdm")
        and not serves_compiler(known.get(ident))
        and not (ident in known and serves_pool(known[ident]) and _waits(frame))
    }


_WAITING = frozenset({threading.__name__, pools.__name__, futures.__name__, queue.__name__})
"""Modules whose code alone runs in a thread of a pool that has nothing to do."""


def _waits(frame: FrameType | None) -> bool:
    """Whether a thread of a pool runs nothing that was submitted."""
    while frame is not None:
        if frame.f_globals.get("__name__") not in _WAITING:
            return False
        frame = frame.f_back
    return True


def settings_now() -> dict[str, Any]:
    """Switches, handlers of signals, working directory and environment, by their names."""
    return {
        **{name: told(get) for name, (get, _) in SWITCHES.items()},
        **{name: signal.getsignal(number) for name, number in _SIGNALS.items()},
        _FOLDER: _folder(),
        **{_VARIABLE + name: value for name, value in os.environ.items()},
    }


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "a folder that is gone"


class ProcessState:
    """The state of the process at one moment."""

    def __init__(self) -> None:
        self._settings = settings_now()
        self._functions = [dict(vars(owner)) for _, owner in _PATCHABLE]
        self._forwards = [vars(owner).get("forward") for owner in _module_classes()]
        self._hooks = [dict(getattr(nn.modules.module, name)) for name in _GLOBAL_HOOKS]
        self._threads = set(running_threads())
        self._torch_random = torch.get_rng_state()
        self._cuda_random = _cuda_random()
        self._python_random = random.getstate()
        self._numpy_random = np.random.get_state()

    def undo(self, imported: Mapping[str, Any] = MappingProxyType({})) -> tuple[str, ...]:
        """Put everything back; returns in words what had changed since.

        ``imported`` is what libraries have set as they were imported, by the names of
        `settings_now`: it is put back and not told. New names in a module are no change: importing
        a submodule makes one. Threads cannot be put back: each is named once.
        """
        now = settings_now()
        told_of = {
            name
            for name in now.keys() | self._settings.keys()
            if name not in imported or now.get(name) != imported[name]
        }
        return (
            *self._undo_switches(now, told_of),
            *self._undo_handlers(now, told_of),
            *self._undo_folder(now, told_of),
            *self._undo_functions(),
            *self._undo_forwards(),
            *self._undo_hooks(),
            *self._undo_environment(now, told_of),
            *self._new_threads(),
            *self._undo_random(),
        )

    def _undo_switches(self, now: Mapping[str, Any], told_of: Set[str]) -> list[str]:
        found = []
        for name, (get, put) in SWITCHES.items():
            value, then = now[name], self._settings[name]
            if name == "recursion limit" and raised_by_inductor(value, then):
                put(then)  # each compilation raises it anew
            elif value != then:
                if name in told_of:
                    found.append(f"{name} was changed from {_named(then)} to {_named(value)}")
                if told(get) != then and then != MIXED:  # two switches may be names of one
                    put(then)
        return found

    def _undo_handlers(self, now: Mapping[str, Any], told_of: Set[str]) -> list[str]:
        found = []
        for name, number in _SIGNALS.items():
            if not _same_code(now[name], self._settings[name]):
                if name in told_of:
                    found.append(f"{name} was replaced")
                if threading.current_thread() is threading.main_thread():
                    signal.signal(number, self._settings[name] or signal.SIG_DFL)
        return found

    def _undo_folder(self, now: Mapping[str, Any], told_of: Set[str]) -> list[str]:
        folder, then = now[_FOLDER], self._settings[_FOLDER]
        if folder == then:
            return []
        os.chdir(then)
        return [f"{_FOLDER} was changed to {folder}"] if _FOLDER in told_of else []

    def _undo_functions(self) -> list[str]:
        found = []
        for (place, owner), before in zip(_PATCHABLE, self._functions, strict=True):
            now = dict(vars(owner))
            for name, value in before.items():
                if now.get(name) is value or not callable(value):
                    continue
                if not (owner is nn.Module and replaced_by_dynamo(now.get(name))):
                    found.append(f"{place}.{name} was replaced")
                    setattr(owner, name, value)
        return found

    def _undo_forwards(self) -> list[str]:
        found = []
        for owner, before in zip(_module_classes(), self._forwards, strict=True):
            if vars(owner).get("forward") is before:
                continue
            found.append(f"torch.nn.{owner.__name__}.forward was replaced")
            if before is None:
                del owner.forward
            else:
                owner.forward = before
        return found

    def _undo_hooks(self) -> list[str]:
        found = []
        for name, before in zip(_GLOBAL_HOOKS, self._hooks, strict=True):
            now = getattr(nn.modules.module, name)
            if dict(now) != before:
                found.append(f"hooks of every module changed: torch.nn.modules.module.{name}")
                now.clear()
                now.update(before)
        return found

    def _undo_environment(self, now: Mapping[str, Any], told_of: Set[str]) -> list[str]:
        found = []
        for name in sorted(now.keys() | self._settings.keys()):
            value, then = now.get(name), self._settings.get(name)
            variable = name.removeprefix(_VARIABLE)
            if variable == name or value == then:
                continue
            if then is None and named_by_inductor(variable, value):
                continue
            if name in told_of:
                how = "set" if then is None else "removed" if value is None else "changed"
                found.append(f"{name} was {how}")
            if then is None:
                del os.environ[variable]
            else:
                os.environ[variable] = then
        return found

    def _new_threads(self) -> list[str]:
        """Threads that keep running; those that are about to end are waited for."""
        new = running_threads().keys() - self._threads
        until = time.monotonic() + _PATIENCE
        while new & running_threads().keys() and time.monotonic() < until:
            time.sleep(0.005)
        left = {ident: name for ident, name in running_threads().items() if ident in new}
        self._threads |= left.keys()
        return [f"thread {name} was left running" for name in left.values()]

    def _undo_random(self) -> list[str]:
        found = []
        if not torch.equal(torch.get_rng_state(), self._torch_random):
            found.append("torch's random number generator was moved on or seeded anew")
            torch.set_rng_state(self._torch_random)
        for generator, then in self._cuda_random:
            if not torch.equal(generator.get_state(), then):
                found.append("the random number generator of CUDA was moved on or seeded anew")
                generator.set_state(then)
        if random.getstate() != self._python_random:
            found.append("Python's random number generator was moved on or seeded anew")
            random.setstate(self._python_random)
        now = np.random.get_state()
        if not all(np.array_equal(a, b) for a, b in zip(now, self._numpy_random, strict=True)):
            found.append("numpy's random number generator was moved on or seeded anew")
            np.random.set_state(self._numpy_random)
        return found


def _cuda_random() -> list[tuple[torch.Generator, torch.Tensor]]:
    """The generators of real GPUs, of which there are none before CUDA is first used."""
    return [(generator, generator.get_state()) for generator in torch.cuda.default_generators]


def _same_code(one: Any, other: Any) -> bool:
    """Whether two handlers run the same code: a file that is executed anew makes each again."""
    codes = [getattr(handler, "__code__", handler) for handler in (one, other)]
    return codes[0] is codes[1] or (
        all(isinstance(code, CodeType) for code in codes) and codes[0] == codes[1]
    )


def _named(value: object) -> str:
    return str(value).removeprefix("torch.")
