"""The list of defects keeps up with the source of the hook. Planting them has its own session."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from vae_compat.checks.registry import CHECKS
from vae_compat.suites.mutations.listed import Mutation, Selection, mutations

HOOK = Path(__file__).parents[2] / "harness" / "tiled_vae"
MUTATIONS = mutations()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_defect_fits_the_source_and_is_accused_by_known_checks(
    mutation: Mutation, tmp_path: Path
) -> None:
    shutil.copy(HOOK / mutation.file, tmp_path)
    before = ast.dump(ast.parse((tmp_path / mutation.file).read_text()))
    mutation.plant(tmp_path)
    assert ast.dump(ast.parse((tmp_path / mutation.file).read_text())) != before
    assert mutation.fails
    assert {check.name for check in CHECKS}.issuperset(mutation.fails)


def test_there_are_twenty_defects_or_more() -> None:
    assert len({(mutation.file, mutation.new) for mutation in MUTATIONS}) == len(MUTATIONS)
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20


@pytest.mark.parametrize("old", ["no such line", "import"])
def test_a_defect_that_no_longer_fits_fails_loudly(tmp_path: Path, old: str) -> None:
    shutil.copy(HOOK / "hook.py", tmp_path)
    stale = Mutation("stale", "hook.py", old, "", ("parity",), Selection())
    with pytest.raises(ValueError, match=r"stale: hook\.py has its old text \d+ times"):
        stale.plant(tmp_path)
