"""What libraries set in the process as they are imported, in the middle of a call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import PurePath
from types import ModuleType
from typing import Any

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders in which libraries are."""


class Imports(MetaPathFinder):
    """Notes what changes while a library is imported for the first time.

    It would have changed at the head of the hook's file as well, where the same import is nobody's
    side effect. Modules of the hook's own are no libraries.
    """

    def __init__(self, look: Callable[[], Mapping[str, Any]]) -> None:
        self._look = look
        self._busy = False
        self.set: dict[str, Any] = {}
        """What imports have set, by name."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Imports inside are watched."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            if self in sys.meta_path:
                sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find; a library's module runs under watch."""
        if self._busy:
            return None
        for finder in sys.meta_path:
            watches = isinstance(finder, Imports)
            find = None if watches else getattr(finder, "find_spec", None)
            if find is None or (spec := find(fullname, path, target)) is None:
                continue
            if spec.loader is not None and _INSTALLED & set(PurePath(spec.origin or "").parts):
                spec.loader = _Watched(spec.loader, self)
            found: ModuleSpec = spec
            return found
        return None

    @contextmanager
    def importing(self) -> Iterator[None]:
        """A library is imported inside, with all that it imports itself."""
        before, self._busy = self._look(), True
        try:
            yield
        finally:
            self._busy = False
            now = self._look()
            self.set |= {
                name: now.get(name) for name in {*now, *before} if now.get(name) != before.get(name)
            }


class _Watched(Loader):
    """A module's loader, which gives way to the real one before the module runs."""

    def __init__(self, loader: Any, imports: Imports) -> None:
        self._loader, self._imports = loader, imports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real one makes it, which may look at the specification."""
        spec.loader = self._loader
        made: ModuleType | None = self._loader.create_module(spec)
        spec.loader = self
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        with self._imports.importing():
            self._loader.exec_module(module)
