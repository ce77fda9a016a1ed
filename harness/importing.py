"""Imports that take seconds, made in less.

Every run starts several processes that import diffusers, and its classes bring in three thousand
modules.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


def imported(name: str) -> ModuleType:
    """A module that brings in many others."""
    if name in sys.modules:
        return sys.modules[name]
    with uncollected():
        if name.partition(".")[0] == "diffusers":
            _import_autoencoders()
        return import_module(name)


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without collections of garbage, which take a fifth of the time and find none.

    What is there at the end is left out of later ones as well.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()


def _import_autoencoders() -> None:
    """Import the classes of VAEs without SciPy.

    Their loader of single files imports diffusers' schedulers, and some of these SciPy where it is
    installed, which takes another fifth. No VAE calls them.
    """
    from diffusers.utils import import_utils

    installed = getattr(import_utils, "_scipy_available", False)
    import_utils._scipy_available = False
    try:
        import_module("diffusers.models.autoencoders")
    finally:
        import_utils._scipy_available = installed
