"""Runs of ``vae-compat run`` that many tests read: each is made once, whichever process asks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from vae_compat.front import cli
from vae_compat.front.run import gathering
from vae_compat.front.run import running as front
from vae_compat.front.run.run_folder import RunFolder
from vae_compat.judge import Record, Verdict, gate
from vae_compat.scenarios.runners import InRunners

PROFILE = """
[hook]
name = "{name}"
entry = "{entry}"
kind = "{kind}"
layout = "{layout}"
[claims]
families = {families}
directions = ["decode"]
modes = ["exact"]
cache = "{cache}"
[claims.grade]
exact = "{grade}"
"""
SOUND = "vae_compat.fixtures.specimens.resting:RestingTiler"


@dataclass(frozen=True)
class Ran:
    """How a run ended and what it left."""

    code: int
    out: str
    err: str
    folder: str
    """Its ``--out``."""

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((Path(self.folder) / "results.json").read_text())
        return found

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """Records that have all these values, ``case`` anywhere in the id."""
        part = wanted.pop("case", "")
        return [
            record
            for record in self.results["records"]
            if part in record["case"] and wanted.items() <= record.items()
        ]

    def record(self, **wanted: Any) -> dict[str, Any]:
        (found,) = self.records(**wanted)
        return found

    def verdict(self, hook: str) -> Verdict:
        """What the gate would say of one hook of the run."""
        return gate([Record(**record) for record in self.records(hook=hook)])


def profile(
    folder: Path,
    name: str,
    entry: str = SOUND,
    *,
    kind: str = "forward",
    layout: str = "ldm",
    families: Sequence[str] = ("sd",),
    cache: str = "none",
    grade: str = "exact",
    known: Sequence[str] = (),
) -> Path:
    """Write a profile and return its path."""
    text = PROFILE.format(
        name=name,
        entry=entry,
        kind=kind,
        layout=layout,
        families=json.dumps(list(families)),
        cache=cache,
        grade=grade,
    )
    for pattern in known:
        text += f'[[known_failures]]\nid = "{pattern}"\nreason = "known here"\nlink = "a:b"\n'
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def share_process_for_hooks(patch: pytest.MonkeyPatch) -> None:
    """Let all runs of this process share the one that runners come from: it takes long to start.

    No run closes it, or marks it as its own.
    """
    patch.setattr(InRunners, "close", InRunners.close_runners)
    patch.setattr(gathering, "close_shared_nursery", lambda: None)
    patch.setattr(front, "RunFolder", partial(RunFolder, inherited=False))


def here(folder: Path, *arguments: object) -> Ran:
    """Run in this process, which has everything imported; without workers unless some are given."""
    out, err = io.StringIO(), io.StringIO()
    arguments = arguments if "-n" in arguments else (*arguments, "-n", 0)
    with pytest.MonkeyPatch.context() as patch:
        # It hides the GPU from the whole process, for good.
        patch.setattr(front, "set_environment", lambda _: None)
        share_process_for_hooks(patch)
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        with one_thread(), redirect_stdout(out), redirect_stderr(err):
            code = cli.main(["run", *map(str, arguments), *_out(folder, arguments)])
    return Ran(code, out.getvalue(), err.getvalue(), str(folder))


@contextmanager
def one_thread() -> Iterator[None]:
    """As in the processes of a run, so that all round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def outside(folder: Path, *arguments: object) -> Ran:
    """Run as people do: the command, in a process of its own, from a folder of theirs."""
    command = [sys.executable, "-m", "vae_compat", "run", *map(str, arguments)]
    done = subprocess.run(
        [*command, *_out(folder, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    return Ran(done.returncode, done.stdout, done.stderr, str(folder))


def _out(folder: Path, arguments: Sequence[object]) -> list[str]:
    elsewhere = {"--resume", "--history"} & set(map(str, arguments))
    return [] if elsewhere else ["--out", str(folder)]


def once(base: Path, name: str, make: Callable[[Path], Ran]) -> Ran:
    """The run of this name, made by the first process that asks; ``base`` is shared by all."""
    folder = base / f"run-{name}"
    told = folder / "ran.json"
    with FileLock(base / f"run-{name}.lock"):
        if not told.exists():
            folder.mkdir(exist_ok=True)
            told.write_text(json.dumps(asdict(make(folder / "out"))))
    return Ran(**json.loads(told.read_text()))


def shared(factory: pytest.TempPathFactory) -> Path:
    """The folder that the processes of one test run have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
