"""Every defect of the list, planted alone in the reference hook, turns the default run red."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import harness

ENGINE = Path(next(iter(harness.__path__)))
HOOK = ENGINE / "tiled_vae"
PROFILE = ENGINE / "subject" / "profiles" / "reference.toml"
PACKAGE = Path("lifted", "out")
SECONDS = 600


@dataclass(frozen=True)
class Selection:
    """A part of the default matrix: there is nothing here that could ask for more."""

    families: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        return [
            word
            for name, values in vars(self).items()
            if values
            for word in (f"--{name}", ",".join(values))
        ]

    def __str__(self) -> str:
        return "-".join("+".join(values) for values in vars(self).values() if values)


@dataclass(frozen=True)
class Mutation:
    """A patch, where its defect is looked for, and the checks that fail there."""

    name: str
    file: str
    old: str
    new: str
    fails: tuple[str, ...]
    selection: Selection

    def plant(self, package: Path) -> None:
        """Raises ``ValueError`` where the source has moved on."""
        file = package / self.file
        source = file.read_text()
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has its old text {count} times, not once")
        file.write_text(source.replace(self.old, self.new))


def mutations() -> list[Mutation]:
    text = Path(__file__).with_name("mutations.toml").read_text()
    found = []
    for table in tomllib.loads(text)["mutation"]:
        narrowed = {name: tuple(table.pop(name, ())) for name in Selection.__dataclass_fields__}
        fails = tuple(table.pop("fails"))
        found.append(Mutation(**table, fails=fails, selection=Selection(**narrowed)))
    return found


MUTATIONS = mutations()


def copy_of_the_hook(folder: Path) -> Path:
    """The package alone under another name, a profile next to it; returns the profile.

    Named as a module, like the original: it is imported once a process, so that what one call
    leaves behind in it meets the next.
    """
    shutil.copytree(HOOK, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    profile = folder / "lifted.toml"
    text = PROFILE.read_text()
    for old, new in (('"harness.tiled_vae:', '"lifted.out:'), ('"reference"', '"lifted"')):
        assert text.count(old) == 1
        text = text.replace(old, new)
    profile.write_text(text)
    return profile


def judged(profile: Path, selection: Selection) -> tuple[int, list[dict[str, str]], str]:
    """Exit code, records and output of ``vae-compat run``."""
    command = [sys.executable, "-m", "harness.cli", "run", "-n", "0", "--profile", profile]
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
    failed = {record["check"] for record in records if record["status"] == "failed"}
    assert failed.issuperset(mutation.fails), failed


@pytest.mark.parametrize(
    "selection", dict.fromkeys(mutation.selection for mutation in MUTATIONS), ids=str
)
def test_the_hook_without_a_defect_is_green(selection: Selection, tmp_path: Path) -> None:
    code, records, told = judged(copy_of_the_hook(tmp_path), selection)
    assert code == 0, told
    assert records


def test_every_defect_is_another_one() -> None:
    assert len(MUTATIONS) >= 20
    for distinct in ("name", "new"):
        assert len({getattr(mutation, distinct) for mutation in MUTATIONS}) >= len(MUTATIONS) - 1


def test_a_patch_that_no_longer_fits_fails_loudly(tmp_path: Path) -> None:
    copy_of_the_hook(tmp_path)
    for old in ("no such line", "import"):
        stale = Mutation("stale", "hook.py", old, "", ("parity",), Selection())
        with pytest.raises(ValueError, match=r"stale: hook\.py has its old text \d+ times"):
            stale.plant(tmp_path / PACKAGE)
