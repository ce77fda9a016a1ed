"""Faults in the source of a hook: what a slip of the hand or a merge does to a line."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType

from vae_compat.suites.mutation.copies import Copy, file_of
from vae_compat.suites.mutation.random_faults.faults import Seen, Target

_OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_NAMES = {"min": "max", "max": "min", "height": "width", "width": "height", "rows": "cols"}
_NAMES |= {"cols": "rows", "start": "stop", "stop": "start", "before": "after", "after": "before"}


@dataclass
class SourceFault:
    """One changed expression or statement."""

    target: Target
    module: str
    function: str
    """In which it is, with its module."""
    line: int
    operator: str
    told: str
    """The line before and after."""
    code: CodeType
    acted: bool = True
    which: int = 1

    @property
    def level(self) -> str:
        """What it is a fault of."""
        return self.target.level(self.function) or ""

    @property
    def place(self) -> str:
        """Where."""
        return f"{self.function}:{self.line} {self.told}"

    def plant(self) -> Copy:
        """A copy of the target with the fault."""
        return self.target.copy({self.module: self.code})

    def reset(self) -> None:
        """Nothing to do: the source has no memory."""


def source_faults(target: Target, seen: Seen, seed: int, count: int) -> list[SourceFault]:
    """So many distinct faults on lines that were seen at work, spread over the functions."""
    chance = random.Random(seed)
    places: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for module in sorted({module for module, _ in seen.lines}):
        for number, (function, node, operator) in enumerate(
            _changes(_tree(target.package, module))
        ):
            line = getattr(node, "lineno", 0)
            known = target.level(f"{module}.{function}") is not None
            if known and (module, line) in seen.lines:
                places.setdefault((module, function), []).append((number, line, operator))
    found: list[SourceFault] = []
    while places and len(found) < count:
        module, function = chance.choice(sorted(places))
        among = places[module, function]
        number, line, operator = among.pop(chance.randrange(len(among)))
        if not among:
            del places[module, function]
        found.append(_planted(target, module, function, number, line, operator))
    return found


def _planted(
    target: Target, module: str, function: str, number: int, line: int, operator: str
) -> SourceFault:
    tree = copy.deepcopy(_tree(target.package, module))
    _, node, _ = list(_changes(tree))[number]
    before = _line_of(tree, node)
    _apply(tree, node, operator)
    ast.fix_missing_locations(tree)
    after = _line_of(tree, node)
    code = compile(tree, str(file_of(target.package, module)), "exec", dont_inherit=True)
    told = f"`{before}` -> `{after}`"
    return SourceFault(target, module, f"{module}.{function}", line, operator, told, code)


def _changes(tree: ast.Module) -> Iterator[tuple[str, ast.AST, str]]:
    """All changes that can be made inside of functions, in a fixed order."""
    yield from _inside(tree, "")


def _inside(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}" if function else child.name
            if isinstance(child, ast.FunctionDef):
                known = {each.id for each in ast.walk(child) if isinstance(each, ast.Name)}
                known |= {each.arg for each in ast.walk(child) if isinstance(each, ast.arg)}
                for statement in child.body:
                    for found in (*_operators(statement, inner), *_inside(statement, inner)):
                        if not isinstance(found[1], ast.Name) or _NAMES[found[1].id] in known:
                            yield found
            else:
                yield from _inside(child, inner)
        elif function and not isinstance(
            child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Delete
        ):
            yield from _operators(child, function)
            yield from _inside(child, function)


def _operators(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST, str]]:
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Delete():
            return
        case ast.Compare():
            yield function, node, "comparison"
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OPPOSITE:
            yield function, node, "arithmetic"
        case ast.BoolOp():
            yield function, node, "condition"
            yield function, node, "shortened"
        case ast.Constant(value=int() | bool() | float()):
            yield function, node, "constant"
        case ast.If() | ast.IfExp() | ast.While():
            yield function, node, "negated"
        case ast.Expr(value=ast.Call()):
            yield function, node, "deleted"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield function, node, "deleted"
        case ast.Slice():
            yield function, node, "slice"
        case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
            yield function, node, "swapped name"
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _NAMES:
            yield function, node, "swapped name"
    if isinstance(node, ast.Call) and len(node.args) > 1:
        yield function, node, "swapped arguments"
    if isinstance(node, ast.Call) and node.keywords:
        yield function, node, "swallowed argument"
    if isinstance(node, ast.AugAssign):
        yield function, node, "deleted"


def _apply(tree: ast.AST, node: ast.AST, operator: str) -> None:
    match operator, node:
        case "comparison", ast.Compare():
            node.ops[0] = _OPPOSITE[type(node.ops[0])]()  # type: ignore[assignment]
        case "arithmetic", ast.BinOp() | ast.AugAssign():
            node.op = _OPPOSITE[type(node.op)]()  # type: ignore[assignment]
        case "condition", ast.BoolOp():
            node.op = _OPPOSITE[type(node.op)]()  # type: ignore[assignment]
        case "shortened", ast.BoolOp():
            node.values[-1] = node.values[0]
        case "constant", ast.Constant():
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        case "negated", ast.If() | ast.IfExp() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case "slice", ast.Slice():
            if node.upper is not None:
                node.upper = ast.BinOp(node.upper, ast.Sub(), ast.Constant(1))
            else:
                node.lower = ast.BinOp(node.lower or ast.Constant(0), ast.Add(), ast.Constant(1))
        case "swapped name", ast.Name():
            node.id = _NAMES[node.id]
        case "swapped name", ast.Attribute():
            node.attr = _NAMES[node.attr]
        case "swapped arguments", ast.Call():
            node.args[0], node.args[1] = node.args[1], node.args[0]
        case "swallowed argument", ast.Call():
            node.keywords.pop()
        case "deleted", _:
            body = next(body for body in _bodies(tree) if node in body)
            body[body.index(node)] = ast.copy_location(ast.Pass(), node)


def _bodies(tree: ast.AST) -> Iterator[list[ast.AST]]:
    """All runs of statements below a node."""
    for parent in ast.walk(tree):
        yield from (value for _, value in ast.iter_fields(parent) if isinstance(value, list))


def _line_of(tree: ast.AST, node: ast.AST) -> str:
    """The innermost statement around a node, its first line."""
    line = getattr(node, "lineno", 0)
    around = [
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.stmt) and each.lineno <= line <= (each.end_lineno or line)
    ]
    inner = max(around, key=lambda each: (each.lineno, -(each.end_lineno or 0)), default=node)
    lines = ast.unparse(inner).splitlines()
    return next((text.strip() for text in lines if text.strip()), "")


@cache
def _tree(package: str, module: str) -> ast.Module:
    return ast.parse(file_of(package, module).read_text())
