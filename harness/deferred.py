"""Names that stand for a function or a class until something is done with it."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any


class Deferred:
    """A function or class whose module takes seconds to import.

    The module is imported when it is called, subclassed, asked for an attribute, or asked whether
    something is an instance of it.
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    @property
    def _itself(self) -> Any:
        module, name = self._place
        return getattr(import_module(module), name)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """What ``help`` shows."""
        doc: str | None = self._itself.__doc__
        return doc

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._itself)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what it stands for."""
        return self._itself(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._itself, name)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._itself)

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._itself)

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (self._itself,)

    def __repr__(self) -> str:
        return ".".join(self._place)
