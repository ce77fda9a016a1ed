"""What a class does, as a number: so that code is known by what it says, not by its name.

A fingerprint covers a function's source without comments, docstrings and annotations, and the
functions that it calls by name: those of its class through ``self``, and those of its own module.
It is the same for every version of Python.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch

from .known import ATTENTIONS, KNOWN

TORCH = Path(torch.__file__).resolve().parent
WARNINGS = frozenset({"deprecate"})
"""Functions that only talk."""

_sources: dict[CodeType, str | None] = {}
_torch: dict[CodeType, bool] = {}


def role(kind: type) -> str | None:
    """The published class that ``kind`` does the same as; ``None`` for code that is not known."""
    found = behaviour(kind)
    return None if found is None else KNOWN.get(found)


def is_attention(function: Any) -> bool:
    """Whether a function is known to compute plain attention of planes."""
    return fingerprint(function) in ATTENTIONS


def behaviour(kind: type) -> str | None:
    """Fingerprint of how a class is called; ``None`` where its source cannot be read."""
    called = method_of(kind, "forward") or method_of(kind, "__call__")
    return fingerprint(called, kind)


def fingerprint(function: Any, owner: type | None = None) -> str | None:
    """Fingerprint of a function, the methods of ``owner`` that it names included."""
    parts: list[str] = []
    for each in reached(function, owner):
        text = source(each.__code__) if isinstance(each, FunctionType) else None
        if text is None:
            return None
        parts.append(text)
    digest = hashlib.sha256("\n".join(sorted(parts)).encode())
    return digest.hexdigest()[:20]


def reached(function: Any, owner: type | None) -> Iterator[Any]:
    """A function and all that it calls by name, torch's own left out."""
    wanted, seen = [function], set()
    while wanted:
        each = wanted.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if not isinstance(each, FunctionType):
            continue
        for name in names(each.__code__):
            other = each.__globals__.get(name)
            if owner is not None and other is None:
                other = method_of(owner, name)
                if isinstance(other, staticmethod | classmethod):
                    other = other.__func__
            if isinstance(other, FunctionType) and name not in WARNINGS and not of_torch(other):
                wanted.append(other)


def names(code: CodeType) -> Iterator[str]:
    """All names that some code uses, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names(constant)


def of_torch(function: Any, name: str | None = None) -> bool:
    """Whether a function is torch's own, and the one of that qualified name if one is given."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or (name is not None and code.co_qualname != name):
        return False
    if code not in _torch:
        _torch[code] = Path(code.co_filename).resolve().is_relative_to(TORCH)
    return _torch[code]


def method_of(kind: type, name: str) -> Any:
    """What a class or one of its bases defines under a name; ``None`` for nothing."""
    for owner in kind.__mro__:
        if name in owner.__dict__:
            return owner.__dict__[name]
    return None


def source(code: CodeType) -> str | None:
    """The source of a function, as far as it decides what is computed."""
    if code not in _sources:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
            _sources[code] = written(tree.body[0])
        except (OSError, TypeError, SyntaxError, IndexError):
            _sources[code] = None
    return _sources[code]


def written(node: Any) -> str:
    """A syntax tree as text, without what has no effect."""
    if isinstance(node, list):
        return "[" + ",".join(written(each) for each in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign([node.target], node.value)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_comment", "type_params", "kind", "ctx"):
            continue
        if name == "body" and isinstance(node, ast.FunctionDef):
            value = [each for each in value if not is_text(each)]
        if value is None or value == []:
            continue
        fields.append(f"{name}={written(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
