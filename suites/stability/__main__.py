"""Repeat a run with other seeds, worker counts and test orders.

Fails where a record changes its status from one repetition to the next, or is missing from one.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from vae_compat.reports.results import FILE_NAME, Results, read
from vae_compat.suites.stability.shuffling import ORDER

WORKERS = (2, 1, 3, 4)
"""One after the other; more than the cores as well, so that processes wait for each other."""


def main() -> int:
    """0 where all repetitions agree, 1 where they don't, 2 where one of them came to no verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_compat.suites.stability",
        description=__doc__,
        epilog="Whatever else is given goes to vae-compat run.",
    )
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="seed of the first one")
    parser.add_argument("--out", type=Path, help="keep the results of each, and go on from them")
    options, selection = parser.parse_known_args()
    if options.repetitions < 2:
        parser.error(f"--repetitions {options.repetitions} compares nothing: give 2 or more")
    with tempfile.TemporaryDirectory(prefix="vae-compat-") as scratch:
        folder = options.out or Path(scratch)
        found: dict[int, Results] = {}
        for seed in range(options.first, options.first + options.repetitions):
            room = folder / f"seed-{seed}"
            arguments = arguments_of(seed, room, selection)
            if not (room / FILE_NAME).exists() and repeated(seed, arguments) not in (0, 1):
                return 2
            found[seed] = read(room / FILE_NAME)
            if not found[seed].header.command.endswith(shlex.join(arguments)):
                parser.error(f"{room} holds the results of another run: give another --out")
    differing = sorted(differences(found.values()))
    for told in differing:
        sys.stdout.write(f"{told}\n")
    records = len(next(iter(found.values())).records)
    sys.stdout.write(f"{len(found)} repetitions, {records} records, {len(differing)} differ\n")
    return 1 if differing else 0


def arguments_of(seed: int, room: Path, selection: list[str]) -> list[str]:
    """What one repetition gives to ``vae-compat``."""
    workers = WORKERS[seed % len(WORKERS)]
    return ["run", *selection, "--seed", str(seed), "-n", str(workers), "--out", str(room)]


def repeated(seed: int, arguments: list[str]) -> int:
    """Run once; returns the exit code, negative where a signal ended the run."""
    command = [sys.executable, "-m", "vae_compat", *arguments]
    started = time.monotonic()
    environment = {"PYTEST_PLUGINS": "vae_compat.suites.stability.shuffling", ORDER: str(seed)}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    took = f"{time.monotonic() - started:.0f} s"
    judged = done.returncode in (0, 1)
    said = done.stdout.strip().splitlines() if judged else [done.stdout + done.stderr]
    sys.stdout.write(f"seed {seed}, {took}: {''.join(said[-1:])}\n")
    sys.stdout.flush()
    return done.returncode


def differences(runs: Iterable[Results]) -> Iterable[str]:
    """Records whose status is not the same in all runs, with what it is."""
    runs = list(runs)
    statuses = [
        {f"{record.hook} {record.id}": str(record.status) for record in run.records} for run in runs
    ]
    for name in set().union(*statuses):
        seen = [each.get(name, "missing") for each in statuses]
        if len(set(seen)) > 1:
            told = ", ".join(
                f"seed {run.header.seed} {status}" for run, status in zip(runs, seen, strict=True)
            )
            yield f"{name}: {told}"


if __name__ == "__main__":
    sys.exit(main())
