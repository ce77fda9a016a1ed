"""Where a check is declared, and the numbers that it judges by, read from the source.

Nothing is imported: checks import torch, which takes seconds.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

ROOMS = ("vae_compat.checks", "vae_compat.measure", "vae_compat.scenarios")
"""Where what judges is written; what only words and counts is elsewhere."""
_NUMBER = re.compile(r"_?[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Module:
    """What stands at the top of a module, by name."""

    file: Path
    functions: Mapping[str, ast.FunctionDef]
    numbers: Mapping[str, tuple[ast.Assign, str]]
    """Constants with their values and with what the string below them says."""
    imported: Mapping[str, tuple[str, str]]
    """Imported names: the module that they come from, and how they are called there."""

    def place(self, line: int) -> str:
        """``harness/checks/parity.py:12``, from where the command was called."""
        return f"{os.path.relpath(self.file)}:{line}"


def declared(check: str) -> str:
    """Tier, place and numbers of a check; empty where there is no such check."""
    function = f"check_{check}"
    for name in _modules_of_checks():
        module = _module(name)
        if module is not None and function in module.functions:
            node = module.functions[function]
            lines = [f"Tier {_tier(node)}, declared in {module.place(node.lineno)}."]
            numbers = list(dict.fromkeys(_numbers(name, function, set())))
            if numbers:
                lines += ["", "Numbers that it judges by:", "", *numbers]
            return "\n".join(lines)
    return ""


def _numbers(module_name: str, function: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The constants that a function and all that it calls use."""
    module = _module(module_name)
    if module is None or (module_name, function) in seen or function not in module.functions:
        return
    seen.add((module_name, function))
    for node in ast.walk(module.functions[function]):
        if not isinstance(node, ast.Name):
            continue
        home, name = module.imported.get(node.id, (module_name, node.id))
        there = _module(home)
        if there is not None and name in there.numbers:
            assigned, text = there.numbers[name]
            value = ast.unparse(assigned.value)
            told = textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ")
            yield f"{name} = {value} ({there.place(assigned.lineno)})\n{told}"
        yield from _numbers(home, name, seen)


def _modules_of_checks() -> Iterator[str]:
    for file in resources.files(ROOMS[0]).iterdir():
        if file.name.endswith(".py"):
            yield f"{ROOMS[0]}.{file.name.removesuffix('.py')}"


@functools.cache
def _module(name: str) -> Module | None:
    """A module of one of the `ROOMS` by its dotted name; ``None`` for any other."""
    parent, _, last = name.rpartition(".")
    if parent not in ROOMS:
        return None
    file = Path(str(resources.files(parent))) / f"{last}.py"
    if not file.is_file():
        return None
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return Module(
        file,
        {node.name: node for node in body if isinstance(node, ast.FunctionDef)},
        dict(_constants(body)),
        {
            alias.asname or alias.name: (node.module, alias.name)
            for node in body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        },
    )


def _constants(body: list[ast.stmt]) -> Iterator[tuple[str, tuple[ast.Assign, str]]]:
    for node, after in pairwise(body):
        match node, after:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if _NUMBER.fullmatch(name) and _is_number(node.value):
                yield name, (node, " ".join(inspect.cleandoc(text).split()))


def _is_number(value: ast.expr) -> bool:
    """Whether an expression is made of numbers alone."""
    known = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    return all(
        isinstance(node, known)
        and (not isinstance(node, ast.Constant) or isinstance(node.value, int | float))
        for node in ast.walk(value)
    )


def _tier(function: ast.FunctionDef) -> str:
    """What stands after ``tier=`` in the decorator."""
    for decorator in function.decorator_list:
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg == "tier":
                return ast.unparse(keyword.value).rpartition(".")[2].lower()
    raise AssertionError("unreachable")
