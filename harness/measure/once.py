"""What is worked out once for everybody who looks at the same thing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

Looked = TypeVar("Looked")
Found = TypeVar("Found")


class once(Generic[Looked, Found]):  # noqa: N801 (reads as a function)
    """A function of one observation that is worked out once for as long as that lives.

    Several checks look at the same observation, and a distance or a search for seams takes longer
    than all they do with it.
    """

    def __init__(self, function: Callable[[Looked], Found]) -> None:
        self._function = function
        self._known: WeakKeyDictionary[Looked, Found] = WeakKeyDictionary()
        functools.update_wrapper(self, function)

    def __call__(self, looked: Looked) -> Found:
        """The result for an observation, which is told apart by identity."""
        if looked not in self._known:
            self._known[looked] = self._function(looked)
        return self._known[looked]

    def put(self, looked: Looked, found: Found) -> None:
        """Give the result for an observation, where somebody knows it already."""
        self._known[looked] = found
