"""Fresh copies of a package, in which functions can be replaced without affecting others."""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from vae_compat.suites.mutation.syntax import module_file

_NUMBER = itertools.count()


@dataclass(frozen=True)
class Copy:
    """A package under another name, with the modules that one entry needs."""

    name: str
    entry: str
    """Module and attribute, ``hook:VAEHook``."""

    @property
    def attribute(self) -> Any:
        """The copied hook."""
        module, _, attribute = self.entry.partition(":")
        return getattr(sys.modules[f"{self.name}.{module}"], attribute)

    def modules(self) -> dict[str, ModuleType]:
        """The copied modules by their own names, whatever room of the package they are in."""
        inside = f"{self.name}."
        return {
            name.rpartition(".")[2]: module
            for name, module in sys.modules.items()
            if name.startswith(inside) and not hasattr(module, "__path__")
        }

    def functions(self) -> Iterator[tuple[str, FunctionType]]:
        """All functions and methods written in the package: ``planes.Plane.write``."""
        for name, module in sorted(self.modules().items()):
            for owner, attribute, value in _members(module):
                function = _function(value)
                if function is not None:
                    yield ".".join(filter(None, (name, owner, attribute))), function

    def replace(self, name: str, make: Callable[[FunctionType], Callable[..., Any]]) -> None:
        """Put another function in the place of one, wherever modules of the copy name it."""
        module, *owner, attribute = name.split(".")
        holder: Any = self.modules()[module]
        for part in owner:
            holder = getattr(holder, part)
        value = inspect.getattr_static(holder, attribute)
        function = _function(value)
        assert function is not None, name
        if isinstance(value, property):
            setattr(holder, attribute, property(make(function)))
            return
        made = make(function)
        setattr(holder, attribute, made)
        if not owner:
            for other in self.modules().values():
                for alias, known in list(vars(other).items()):
                    if known is function:
                        setattr(other, alias, made)

    def forget(self) -> None:
        """Take the copy out of the process."""
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{self.name}.")]:
            del sys.modules[name]


def copied(package: str, entry: str, code: Mapping[str, CodeType] | None = None) -> Copy:
    """Load the modules of ``package`` that ``entry`` needs under a new name.

    ``code`` holds other code for some modules, by their own names. They must not be imported by
    what they import.
    """
    found = find_spec(package)
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent
    copy = Copy(f"copy{next(_NUMBER)}_of_{package.replace('.', '_')}", entry)
    shell = ModuleType(copy.name)
    shell.__path__ = [str(folder)]
    sys.modules[copy.name] = shell
    for name, changed in (code or {}).items():
        file = module_file(folder, name)
        rooms = file.relative_to(folder).parent.parts
        room = importlib.import_module(".".join((copy.name, *rooms)))
        spec = spec_from_file_location(f"{room.__name__}.{name}", file)
        assert spec is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        setattr(room, name, module)
        exec(changed, vars(module))
    importlib.import_module(f"{copy.name}.{entry.partition(':')[0]}")
    return copy


def _members(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    for name, value in sorted(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield "", name, value
        elif inspect.isclass(value):
            for attribute, member in sorted(vars(value).items()):
                yield name, attribute, member


def _function(value: Any) -> FunctionType | None:
    """The function behind a member that is written out in a file and returns when called."""
    function = value.fget if isinstance(value, property) else value
    if not isinstance(function, FunctionType) or function.__code__.co_filename.startswith("<"):
        return None
    return None if inspect.isgeneratorfunction(inspect.unwrap(function)) else function
