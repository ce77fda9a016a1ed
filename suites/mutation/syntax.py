"""Syntax trees of Python: functions by their qualified names, and nodes in the place of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Neighbouring nodes in a field of their parent, such as statements of a body; often one."""

    parent: ast.AST
    field: str
    start: int
    nodes: Sequence[ast.AST]

    def put(self, new: Sequence[ast.AST]) -> None:
        """Have other nodes there."""
        held = getattr(self.parent, self.field)
        if isinstance(held, list):
            held[self.start : self.start + len(self.nodes)] = new
        else:
            (only,) = new
            setattr(self.parent, self.field, only)


def module_file(package: Path, name: str) -> Path:
    """The file of a module of a package, in whatever room of it; no two have the same name."""
    return next(package.rglob(f"{name}.py"), package / f"{name}.py")


def places(tree: ast.AST, length: int = 1) -> Iterator[Place]:
    """Every run of so many neighbours below a node."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            nodes = value if isinstance(value, list) else [value]
            if all(isinstance(node, ast.AST) for node in nodes):
                for start in range(len(nodes) - length + 1):
                    yield Place(parent, field, start, nodes[start : start + length])


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """All functions below a node by their qualified names: ``VAEHook.item``, ``attend.inner``."""
    for child in ast.iter_child_nodes(tree):
        name = owner
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{owner}.{child.name}" if owner else child.name
        if isinstance(child, ast.FunctionDef):
            yield name, child
        yield from functions(child, name)


def changed(source: str, function: str, old: str, new: str) -> str:
    """A module's source in which the code ``new`` stands for ``old`` in one of its functions.

    Both are expressions, or both are statements; of a ``def`` its parameters count alone. Code is
    the same where its syntax tree is, whatever its layout.

    Raises ``ValueError`` where the module has no such function or the function not exactly one
    such piece of code.
    """
    tree = ast.parse(source)
    homes = [node for name, node in functions(tree) if name == function]
    if len(homes) != 1:
        raise ValueError(f"{function!r} is there {len(homes)} times, not once")
    before, after = ast.parse(old).body, ast.parse(new).body
    wanted, other = _parts(before, after), _parts(after, before)
    dumps = list(map(ast.dump, wanted))
    found = [
        place
        for place in places(homes[0], len(wanted))
        if list(map(ast.dump, place.nodes)) == dumps
    ]
    if len(found) != 1:
        raise ValueError(f"{function!r} has {old!r} {len(found)} times, not once")
    found[0].put(other)
    return ast.unparse(ast.fix_missing_locations(tree))


def _parts(code: Sequence[ast.stmt], beside: Sequence[ast.stmt]) -> Sequence[ast.AST]:
    """The nodes that code is about, next to the code that it is exchanged with."""
    match code, beside:
        case [ast.FunctionDef(args=parameters)], _:
            return [parameters]
        case [ast.Expr(value=value)], [ast.Expr()]:
            return [value]
    return code
