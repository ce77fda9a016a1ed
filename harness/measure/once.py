"""Computes a value once for all who ask for it about the same observation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

Looked = TypeVar("Looked")
Found = TypeVar("Found")


class once(Generic[Looked, Found]):  # noqa: N801 (reads as a function)
    """A function of one observation whose result is kept for as long as the observation lives.

    Several checks look at the same observation, and measuring a distance or searching for
    seams takes longer than everything they do with it.
    """

    def __init__(self, function: Callable[[Looked], Found]) -> None:
        self._function = function
        self._known: WeakKeyDictionary[Looked, Found] = WeakKeyDictionary()
        functools.update_wrapper(self, function)

    def __call__(self, looked: Looked) -> Found:
        """The result for an observation, looked up by identity."""
        if looked not in self._known:
            self._known[looked] = self._function(looked)
        return self._known[looked]

    def put(self, looked: Looked, found: Found) -> None:
        """Set the result for an observation that is already known."""
        self._known[looked] = found
