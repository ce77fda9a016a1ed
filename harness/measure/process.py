"""What a hook may change in the process around it: noticed, named and undone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

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
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
}
"""How to read and to set each switch."""

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
"""Where hooks replace functions for all the world to see."""


class ProcessState:
    """The state of the process at one moment."""

    def __init__(self) -> None:
        self._switches = {name: get() for name, (get, _) in _SWITCHES.items()}
        self._functions = [dict(vars(owner)) for _, owner in _PATCHABLE]
        self._torch_random = torch.get_rng_state()
        self._python_random = random.getstate()
        self._numpy_random = np.random.get_state()

    def undo(self) -> tuple[str, ...]:
        """Put everything back; returns in words what had changed since.

        New names in a module are no change: importing a submodule makes one.
        """
        found: list[str] = []
        for name, (get, put) in _SWITCHES.items():
            now, then = get(), self._switches[name]
            if now != then:
                found.append(f"{name} was changed from {_named(then)} to {_named(now)}")
                put(then)
        for (place, owner), before in zip(_PATCHABLE, self._functions, strict=True):
            now = dict(vars(owner))
            for name, value in before.items():
                if now.get(name) is not value and callable(value):
                    found.append(f"{place}.{name} was replaced")
                    setattr(owner, name, value)
        return (*found, *self._undo_random())

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
