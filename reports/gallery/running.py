"""Runs the hooks of the gallery as anybody would: with the command, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from vae_compat.errors import StoppedError
from vae_compat.vocabulary import ExitCode

from .bugs import FAMILY, Bug


def run(bugs: Iterable[Bug], folder: Path) -> Path:
    """Judge the hooks of these bugs on a photograph; returns the folder of the run.

    Raises ``StoppedError`` where the run came to no verdict.
    """
    profiles: list[str] = []
    for bug in bugs:
        file = folder / f"{bug.hook}.toml"
        file.write_text(bug.profile, encoding="utf-8")
        profiles += ["--profile", str(file)]
    out = folder / "out"
    selected = ["--families", FAMILY, "--directions", "decode", "--scale", "trained"]
    command = [sys.executable, "-m", "vae_compat", "run", *profiles, *selected]
    done = subprocess.run(
        [*command, "--tier", "recommended", "-n", "0", "--out", str(out)],
        capture_output=True,
        text=True,
    )
    if done.returncode not in (ExitCode.HOLDS, ExitCode.FAILS):
        raise StoppedError(f"the hooks of the gallery could not be judged: {done.stderr.strip()}")
    return out
