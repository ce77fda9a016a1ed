"""Fresh copies of a package, in which functions can be replaced without affecting others.

Functions are named by the end of their dotted path, as long as it takes to tell them from others:
``Plane.write``, ``grid``, ``attention.attend``. So a name holds wherever its module is moved.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

Wrong = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a wrong function out of a right one."""

SEAM = "_wrong"
"""Under which name a module of a copy finds what is put around its calls."""

_NUMBER = itertools.count()


@dataclass(frozen=True)
class Copy:
    """A package under another name, with the modules that one entry needs."""

    name: str
    entry: str
    """Module and attribute, ``hook:VAEHook``; ``:VAEHook`` for one of the package itself."""

    @property
    def attribute(self) -> Any:
        """The copied hook."""
        module, _, attribute = self.entry.partition(":")
        return getattr(sys.modules[_joined(self.name, module)], attribute)

    def modules(self) -> dict[str, ModuleType]:
        """The copied modules, by their names inside of the package: ``rooms.planes``."""
        inside = f"{self.name}."
        return {
            name.removeprefix(inside): module
            for name, module in sys.modules.items()
            if name.startswith(inside)
        }

    def functions(self) -> Iterator[tuple[str, FunctionType]]:
        """All functions and methods written in the package: ``planes.Plane.write``."""
        for name, module in sorted(self.modules().items()):
            for owner, attribute, value in _members(module):
                function = _function(value)
                if function is not None and not _generates(function):
                    yield _joined(name, owner, attribute), function

    def replace(self, name: str, make: Wrong) -> None:
        """Put another function in the place of one, wherever modules of the copy name it.

        Raises ``LookupError`` unless exactly one function has the name.
        """
        holder, attribute, value = self.place(name)
        function = _function(value)
        assert function is not None
        if isinstance(value, property):
            setattr(holder, attribute, property(make(function)))
            return
        made = make(function)
        setattr(holder, attribute, made)
        if isinstance(holder, ModuleType):
            for other in self.modules().values():
                for alias, known in list(vars(other).items()):
                    if known is function:
                        setattr(other, alias, made)

    def place(self, name: str) -> tuple[Any, str, Any]:
        """What holds the function of a name, under which attribute, and how.

        Raises ``LookupError`` unless exactly one function has the name.
        """
        return only(name, self._places())

    def _places(self) -> Iterator[tuple[str, tuple[Any, str, Any]]]:
        for name, module in self.modules().items():
            for owner, attribute, value in _members(module):
                if _function(value) is not None:
                    holder = getattr(module, owner) if owner else module
                    yield _joined(name, owner, attribute), (holder, attribute, value)

    def forget(self) -> None:
        """Take the copy out of the process."""
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{self.name}.")]:
            del sys.modules[name]


def copied(package: str, entry: str, code: Mapping[str, CodeType] | None = None) -> Copy:
    """Load the modules of ``package`` that ``entry`` needs under a new name.

    ``code`` holds other code for some modules, by their names in the package.
    """
    folder = _folder(package)
    copy = Copy(f"copy{next(_NUMBER)}_of_{package.replace('.', '_')}", entry)
    module = entry.partition(":")[0]
    with _other_code({_joined(copy.name, name): each for name, each in (code or {}).items()}):
        if module:
            shell = ModuleType(copy.name)
            shell.__path__ = [str(folder)]
            sys.modules[copy.name] = shell
            importlib.import_module(_joined(copy.name, module))
        else:
            path = [str(folder)]
            spec = spec_from_file_location(
                copy.name, folder / "__init__.py", submodule_search_locations=path
            )
            assert spec is not None
            assert spec.loader is not None
            sys.modules[copy.name] = whole = module_from_spec(spec)
            spec.loader.exec_module(whole)
    return copy


def copied_with(package: str, entry: str, function: str, callee: str, wrong: Wrong) -> Copy:
    """A copy in which what ``function`` calls by the name ``callee`` is made wrong.

    Raises ``LookupError`` unless exactly one function has the name, and calls something so named.
    """
    module, tree = with_seam(package, function, callee)
    code = compile(tree, str(file_of(package, module)), "exec", dont_inherit=True)
    copy = copied(package, entry, {module: code})
    setattr(copy.modules()[module], SEAM, wrong)
    return copy


def with_seam(package: str, function: str, callee: str) -> tuple[str, ast.Module]:
    """A module, and its tree in which `SEAM` is called with what ``function`` calls so named."""
    module, name = only(function, written(package))
    tree = ast.parse(file_of(package, module).read_text())
    node = dict(functions(tree))[name]
    calls = [
        each for each in ast.walk(node) if isinstance(each, ast.Call) and _called(each) == callee
    ]
    if not calls:
        raise LookupError(f"{function} calls no {callee}")
    for call in calls:
        call.func = ast.Call(ast.Name(SEAM, ast.Load()), [call.func], [])
    return module, ast.fix_missing_locations(tree)


@cache
def written(package: str) -> list[tuple[str, tuple[str, str]]]:
    """The functions of a package by their dotted paths: their modules, and their names there."""
    folder = _folder(package)
    files = [file for file in sorted(folder.rglob("*.py")) if file.name != "__init__.py"]
    modules = {".".join(file.relative_to(folder).with_suffix("").parts): file for file in files}
    return [
        (_joined(module, name), (module, name))
        for module, file in modules.items()
        for name, _ in functions(ast.parse(file.read_text()))
    ]


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """All functions below a node by their qualified names: ``VAEHook.item``, ``attend.inner``."""
    for child in ast.iter_child_nodes(tree):
        name = owner
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = _joined(owner, child.name)
        if isinstance(child, ast.FunctionDef):
            yield name, child
        yield from functions(child, name)


def only(name: str, found: Iterable[tuple[str, T]]) -> T:
    """What has a dotted path that ends so. Raises ``LookupError`` unless exactly one has."""
    there = {path: each for path, each in found if f".{path}".endswith(f".{name}")}
    if len(there) != 1:
        raise LookupError(f"{name} is there {len(there)} times, not once: {', '.join(there)}")
    return next(iter(there.values()))


@contextmanager
def _other_code(code: Mapping[str, CodeType]) -> Iterator[None]:
    """Inside, modules of these names are made of this code."""
    finder = _Finder(code)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """Finds modules like the path does, and gives some of them other code."""

    def __init__(self, code: Mapping[str, CodeType]) -> None:
        self.code = code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Of a module that has other code."""
        if name not in self.code:
            return None
        file = Path(path[0]) / f"{name.rpartition('.')[2]}.py"
        return spec_from_file_location(name, file, loader=_Loader(name, file, self.code[name]))


class _Loader(SourceFileLoader):
    """Loads a module of given code."""

    def __init__(self, name: str, file: Path, code: CodeType) -> None:
        super().__init__(name, str(file))
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        """The given code."""
        return self.code


def file_of(package: str, module: str) -> Path:
    """The source of a module of a package."""
    found = find_spec(_joined(package, module))
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)


def _folder(package: str) -> Path:
    return file_of(package, "").parent


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _called(call: ast.Call) -> str:
    """The last name of what is called."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


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
    """The function behind a member that is written out in a file."""
    function = value.fget if isinstance(value, property) else value
    if not isinstance(function, FunctionType) or function.__code__.co_filename.startswith("<"):
        return None
    return function


def _generates(function: FunctionType) -> bool:
    """Whether calling it returns before its work is done."""
    return inspect.isgeneratorfunction(inspect.unwrap(function))
