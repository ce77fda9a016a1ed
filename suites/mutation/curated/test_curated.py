"""Every curated mutation, planted alone in the reference hook, turns the default run red."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vae_compat
from vae_compat.suites.mutation.curated.listed import Mutation, Selection, mutations

ENGINE = Path(next(iter(vae_compat.__path__)))
HOOK = ENGINE / "tiled_vae"
PROFILE = ENGINE / "subject" / "profiles" / "reference.toml"
PACKAGE = Path("lifted", "out")
SECONDS = 600


MUTATIONS = mutations()


def copy_of_the_hook(folder: Path) -> Path:
    """The package alone under another name, a profile next to it; returns the profile.

    Named as a module, like the original: it is imported once a process, so that what one call
    leaves behind in it meets the next.
    """
    shutil.copytree(HOOK, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    profile = folder / "lifted.toml"
    text = PROFILE.read_text()
    for old, new in (('"vae_compat.tiled_vae:', '"lifted.out:'), ('"reference"', '"lifted"')):
        assert text.count(old) == 1
        text = text.replace(old, new)
    profile.write_text(text)
    return profile


def judged(profile: Path, selection: Selection) -> tuple[int, list[dict[str, str]], str]:
    """Exit code, records and output of ``vae-compat run``."""
    command = [sys.executable, "-m", "vae_compat", "run", "-n", "0", "--profile", profile]
    done = subprocess.run(
        [*command, *selection.options, "--out", profile.parent / "out"],
        cwd=profile.parent,
        env=os.environ | {"PYTHONPATH": str(ENGINE.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    results = profile.parent / "out" / "results.json"
    records = json.loads(results.read_text())["records"] if results.exists() else []
    return done.returncode, records, done.stdout


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_defect_turns_the_run_red(mutation: Mutation, tmp_path: Path) -> None:
    profile = copy_of_the_hook(tmp_path)
    mutation.plant(tmp_path / PACKAGE)
    code, records, told = judged(profile, mutation.selection)
    assert code == 1, told
    red = {record["check"] for record in records if record["status"] in ("failed", "error")}
    assert red.issuperset(mutation.fails), red
    # Where nothing came out, all checks are red and say nothing.
    assert ("completes" in red) == ("completes" in mutation.fails), red


@pytest.mark.parametrize(
    "selection", dict.fromkeys(mutation.selection for mutation in MUTATIONS), ids=str
)
def test_the_hook_without_a_defect_is_green(selection: Selection, tmp_path: Path) -> None:
    code, records, told = judged(copy_of_the_hook(tmp_path), selection)
    assert code == 0, told
    assert records
