"""Whether pytest's ``-k`` can leave any test of a run, told before pytest collects them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vae_compat.contracts.finding import Tier

_ATOM = re.compile(r"(?:\w|:|\+|-|\.|\[|\]|\\|/)+")
"""A name in an expression, as ``Scanner`` in pytest's ``_pytest/mark/expression.py`` reads it."""
_OPERATORS = frozenset({"and", "or", "not"})
_MARKS = "case parametrize xfail skip usefixtures xdist_group pytestmark"
"""Further names of a test that ``-k`` looks at."""


def matches_none(expression: str, names: Iterable[str], folder: Path) -> bool:
    """Whether an expression for certain leaves none of the tests with these names.

    It is not certain where a word also occurs in the names of folders and files of the suites,
    which are in ``folder``, or of marks, at which pytest looks as well, nor for names that pytest
    escapes.
    """
    from _pytest.mark.expression import Expression

    files = (file for tier in Tier for file in (folder / tier).glob("*.py"))
    further = " ".join([folder.name, _MARKS, *Tier, *(file.name for file in files)])
    atoms = {atom.lower() for atom in _ATOM.findall(expression)} - _OPERATORS
    if any(atom in further.lower() for atom in atoms):
        return False
    compiled = Expression.compile(expression)

    def leaves(name: str) -> bool:
        # pytest passes further arguments for markers alone.
        return not name.isascii() or compiled.evaluate(lambda word, /, **_: word.lower() in name)

    return not any(leaves(name.lower()) for name in names)
