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
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

ROOMS = ("vae_compat.checks", "vae_compat.measure", "vae_compat.scenarios")
"""Where what judges is written; what only words and counts is elsewhere."""
SCENES = "vae_compat.scenarios.scenes"
"""The module that says how each scenario is performed and examined."""
GRADING = ("vae_compat.checks.parity", "grade_of")
"""The function that grades a result: a statement for each grade, after what breaks any."""
BROKEN = "broken"
_NUMBER = re.compile(r"_?[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Module:
    """What stands at the top of a module, by name."""

    file: Path
    functions: Mapping[str, ast.FunctionDef]
    assigned: Mapping[str, ast.Assign | ast.AnnAssign]
    numbers: Mapping[str, tuple[ast.Assign, str]]
    """Constants with their values and with what the string below them says."""
    imported: Mapping[str, tuple[str, str]]
    """Imported names: the module that they come from, and how they are called there."""


def declared(check: str) -> str:
    """Tier, place and numbers of a check; empty where there is no such check."""
    for name in _modules_of_checks():
        module = _module(name)
        node = None if module is None else module.functions.get(f"check_{check}")
        if module is not None and node is not None:
            lines = [f"Tier {_tier(node)}, declared in {_placed(name, node)}."]
            seen: set[ast.AST] = set()
            numbers = list(_numbers(name, node, seen))
            for home, made in _scene(node):
                lines.append(f"Its scenario: {_placed(home, made)}.")
                numbers += _numbers(home, made, seen)
            return "\n".join([*lines, *_listed(dict.fromkeys(numbers))])
    return ""


def _listed(numbers: Iterable[str]) -> Iterator[str]:
    """The numbers under headings: those by which grades are told apart under the grades."""
    of_grades = _of_grades()
    groups: dict[str, list[str]] = {}
    for number in numbers:
        groups.setdefault(of_grades.get(number, ""), []).append(number)
    for grade, some in sorted(groups.items(), key=lambda group: [*_headings(), ""].index(group[0])):
        heading = f"For grade {grade}" if grade else "Numbers that it judges by"
        if grade == BROKEN:
            heading = "For any grade"
        elif not grade and len(groups) > 1:
            heading = "Further numbers"
        yield from ("", f"{heading}:", "", *some)


def _headings() -> list[str]:
    return list(dict.fromkeys(_of_grades().values()))


@functools.cache
def _of_grades() -> Mapping[str, str]:
    """The grade for which each number counts, as `GRADING` decides them, one after another."""
    home, name = GRADING
    module = _module(home)
    assert module is not None
    found: dict[str, str] = {}
    for node in module.functions[name].body:
        grades = re.findall(r"Grade\.([A-Z]+)", ast.unparse(node))
        if grades and isinstance(node, ast.If | ast.Return):
            for number in _numbers(home, node, set()):
                found.setdefault(number, grades[-1].lower())
    return found


def _numbers(module_name: str, part: ast.AST, seen: set[ast.AST]) -> Iterator[str]:
    """The constants that a part of a module and all functions that it calls use."""
    seen.add(part)
    for home, name in _named(module_name, part):
        there = _module(home)
        if there is None:
            continue
        if name in there.numbers:
            assigned, text = there.numbers[name]
            value = ast.unparse(assigned.value)
            told = textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ")
            yield f"{name} = {value} ({_placed(home, assigned)})\n{told}"
        elif name in there.functions and there.functions[name] not in seen:
            yield from _numbers(home, there.functions[name], seen)


def _named(module_name: str, part: ast.AST) -> Iterator[tuple[str, str]]:
    """The names in a part of a module, each after the module that it is of."""
    module = _module(module_name)
    imported = {} if module is None else module.imported
    for node in ast.walk(part):
        match node:
            case ast.Name(id=name):
                yield imported.get(name, (module_name, name))
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in imported:
                yield ".".join(imported[name]), attribute


def _scene(check: ast.FunctionDef) -> Iterator[tuple[str, ast.stmt]]:
    """What makes the scenario that a check is for, after its module; nothing for single calls."""
    decorators = (node for each in check.decorator_list for node in ast.walk(each))
    wanted = {ast.unparse(node) for node in decorators if isinstance(node, ast.Attribute)}
    for home, name in _named_in_tables(wanted):
        there = _module(home)
        if there is not None and home != SCENES:
            made = there.functions.get(name) or there.assigned.get(name)
            yield from () if made is None else ((home, made),)


def _named_in_tables(keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """The names beside these keys in the tables of `SCENES`."""
    scenes = _module(SCENES)
    assert scenes is not None
    for node in (node for each in scenes.assigned.values() for node in ast.walk(each)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and ast.unparse(key) in keys:
                    yield from _named(SCENES, value)


def _placed(module_name: str, part: ast.stmt) -> str:
    """``harness/checks/parity.py:12``; a whole path where it is not below the current folder."""
    module = _module(module_name)
    assert module is not None
    path = os.path.relpath(module.file)
    return f"{module.file if path.startswith(os.pardir) else path}:{part.lineno}"


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
        dict(_assigned(body)),
        dict(_constants(body)),
        {
            alias.asname or alias.name: (node.module, alias.name)
            for node in body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        },
    )


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.Assign | ast.AnnAssign]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node


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
