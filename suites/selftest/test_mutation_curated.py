"""Curated mutations fit the source of the hook. A session of its own plants them."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vae_compat.checks.registry import CHECKS
from vae_compat.suites.mutation.curated.listed import Mutation, Selection, mutations
from vae_compat.suites.mutation.syntax import changed, module_file

HOOK = Path(__file__).parents[2] / "harness" / "tiled_vae"
MUTATIONS = mutations()
SOURCE = """
class Box:
    def area(self, scale=1):
        # as a picture has it
        side = self.side * scale
        return (side *
                side)

    def twice(self):
        return self.area() + self.area()
"""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_fits_the_source_and_is_accused_by_known_checks(
    mutation: Mutation, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(module_file(HOOK, mutation.within.partition(".")[0]), tmp_path))
    before = ast.dump(ast.parse(copy.read_text()))
    mutation.plant(tmp_path)
    assert ast.dump(ast.parse(copy.read_text())) != before
    assert mutation.fails
    assert {check.name for check in CHECKS}.issuperset(mutation.fails)


def test_there_are_twenty_mutations_or_more() -> None:
    changes = {(mutation.within, mutation.old, mutation.new) for mutation in MUTATIONS}
    assert len(changes) == len(MUTATIONS)
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20


@pytest.mark.parametrize(
    ("stale", "match"),
    [
        ({"old": "self.no_such_name"}, r"hook\.py: 'VAEHook.item' has .* 0 times"),
        ({"old": "self"}, r"hook\.py: 'VAEHook.item' has 'self' \d+ times"),
        ({"within": "hook.item"}, r"hook\.py: 'item' is there 0 times"),
        ({"within": "hooks.VAEHook.item"}, r"No such file"),
    ],
)
def test_mutation_that_no_longer_fits_fails_loudly(
    tmp_path: Path, stale: dict[str, str], match: str
) -> None:
    shutil.copy(HOOK / "hook.py", tmp_path)
    mutation = Mutation("stale", "hook.VAEHook.item", "True", "False", ("parity",), Selection())
    before = (tmp_path / "hook.py").read_text()
    with pytest.raises(ValueError, match=f"stale: .*{match}"):
        replace(mutation, **stale).plant(tmp_path)
    assert (tmp_path / "hook.py").read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("side * side", "side", "return side\n"),
        ("return side*side", "return 0", "return 0\n"),
        ("side = self.side * scale", "pass", "pass\n"),
        ("side=self.side*scale\nreturn side * side", "return scale", ":\n        return scale\n"),
        ("side = self.side * scale", "a = 1\nside = a", "a = 1\n        side = a\n"),
        ("def _(self, scale=1): ...", "def _(self, scale=2): ...", "def area(self, scale=2):\n"),
    ],
    ids=["expression", "statement", "deleted", "several", "more", "parameters"],
)
def test_code_is_found_by_what_it_means_in_the_function_that_is_named(
    old: str, new: str, expected: str
) -> None:
    found = changed(SOURCE, "Box.area", old, new)
    assert expected in found
    assert "self.area() + self.area()" in found


def test_code_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="2 times"):
        changed(SOURCE, "Box.twice", "self.area()", "0")
