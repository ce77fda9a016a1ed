"""What a hook may change in the process around it: noticed, named and undone."""

from __future__ import annotations

import functools
import gc
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import _base as futures
from concurrent.futures import thread as pools
from types import FrameType
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

_SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "global default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "global grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "float32 matmul precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "autocast of the CPU": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "autocast of CUDA": (
        lambda: torch.is_autocast_enabled("cuda"),
        lambda value: torch.set_autocast_enabled("cuda", value),
    ),
    "cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "cudnn.deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    ),
    "cudnn.enabled": (
        lambda: torch.backends.cudnn.enabled,
        lambda value: setattr(torch.backends.cudnn, "enabled", value),
    ),
    "cudnn.allow_tf32": (
        lambda: torch.backends.cudnn.allow_tf32,
        lambda value: setattr(torch.backends.cudnn, "allow_tf32", value),
    ),
    "cuda.matmul.allow_tf32": (
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda value: setattr(torch.backends.cuda.matmul, "allow_tf32", value),
    ),
    "flash attention": (
        torch.backends.cuda.flash_sdp_enabled,
        torch.backends.cuda.enable_flash_sdp,
    ),
    "memory-efficient attention": (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    "plain attention": (
        torch.backends.cuda.math_sdp_enabled,
        torch.backends.cuda.enable_math_sdp,
    ),
    "cuDNN's attention": (
        torch.backends.cuda.cudnn_sdp_enabled,
        torch.backends.cuda.enable_cudnn_sdp,
    ),
    "default device": (
        lambda: getattr(_device_context(), "device", None),
        torch.set_default_device,
    ),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "garbage collection": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "umask": (lambda: _umask(), os.umask),
}
"""How to read and to set each switch."""

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


@functools.cache
def _module_classes() -> tuple[type[Any], ...]:
    """The modules of ``torch.nn`` that `_PATCHABLE` does not watch whole."""
    whole = [owner for _, owner in _PATCHABLE]
    return tuple(
        owner
        for owner in vars(nn).values()
        if isinstance(owner, type) and issubclass(owner, nn.Module) and owner not in whole
    )


def _device_context() -> Any:
    """What ``torch.set_default_device`` leaves behind on this thread; ``None`` without."""
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _umask() -> int:
    """The umask can only be read by setting it."""
    now = os.umask(0o077)
    os.umask(now)
    return now


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


class ProcessState:
    """The state of the process at one moment."""

    def __init__(self) -> None:
        self._switches = {name: told(get) for name, (get, _) in _SWITCHES.items()}
        self._functions = [dict(vars(owner)) for _, owner in _PATCHABLE]
        self._forwards = [vars(owner).get("forward") for owner in _module_classes()]
        self._hooks = [dict(getattr(nn.modules.module, name)) for name in _GLOBAL_HOOKS]
        self._environment = dict(os.environ)
        self._threads = set(running_threads())
        self._torch_random = torch.get_rng_state()
        self._python_random = random.getstate()
        self._numpy_random = np.random.get_state()

    def undo(self) -> tuple[str, ...]:
        """Put everything back; returns in words what had changed since.

        New names in a module are no change: importing a submodule makes one. Threads cannot be
        put back: each is named once.
        """
        found: list[str] = []
        changed = {name: told(get) for name, (get, _) in _SWITCHES.items()}
        for name, (get, put) in _SWITCHES.items():
            now, then = changed[name], self._switches[name]
            if name == "recursion limit" and raised_by_inductor(now, then):
                put(then)  # each compilation raises it anew
            elif now != then:
                found.append(f"{name} was changed from {_named(then)} to {_named(now)}")
                if told(get) != then and then != MIXED:  # two switches may be names of one
                    put(then)
        for (place, owner), before in zip(_PATCHABLE, self._functions, strict=True):
            now = dict(vars(owner))
            for name, value in before.items():
                if now.get(name) is value or not callable(value):
                    continue
                if not (owner is nn.Module and replaced_by_dynamo(now.get(name))):
                    found.append(f"{place}.{name} was replaced")
                    setattr(owner, name, value)
        return (
            *found,
            *self._undo_forwards(),
            *self._undo_hooks(),
            *self._undo_environment(),
            *self._new_threads(),
            *self._undo_random(),
        )

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

    def _undo_environment(self) -> list[str]:
        found = []
        for name in sorted({*os.environ, *self._environment}):
            now, then = os.environ.get(name), self._environment.get(name)
            if now == then or (then is None and named_by_inductor(name, now)):
                continue
            if then is None:
                found.append(f"environment variable {name} was set")
                del os.environ[name]
            else:
                found.append(
                    f"environment variable {name} was {'removed' if now is None else 'changed'}"
                )
                os.environ[name] = then
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
        if random.getstate() != self._python_random:
            found.append("Python's random number generator was moved on or seeded anew")
            random.setstate(self._python_random)
        now = np.random.get_state()
        if not all(np.array_equal(a, b) for a, b in zip(now, self._numpy_random, strict=True)):
            found.append("numpy's random number generator was moved on or seeded anew")
            np.random.set_state(self._numpy_random)
        return found


def _named(value: object) -> str:
    return str(value).removeprefix("torch.")
