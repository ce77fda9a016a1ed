"""Judge known-bad hooks and random faults, write the kill matrix, fail where it does not hold."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from vae_compat.checks.registry import CHECKS
from vae_compat.reports.kill_matrix import Matrix, to_markdown, to_text
from vae_compat.reports.results import DEFAULT_FOLDER, write_text
from vae_compat.suites.mutation.random_faults.mutants import LEVELS, Plan, on_trial
from vae_compat.suites.mutation.random_faults.targets import targets
from vae_compat.suites.mutation.specimens import all_trials

KILLED = 0.98
"""Share of the mutants that are not equivalent."""
NAMED = 0.9
"""Share of the specimens with a single mechanism for which that one is named."""


def main() -> int:
    """0 where the matrix holds, 1 where it does not."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_compat.suites.mutation", description=__doc__
    )
    parser.add_argument("--seed", type=int, default=20, help="draws the random faults")
    parser.add_argument("--mutants", type=int, default=220, help="about how many")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one a core"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="for kill_matrix.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="vae-compat-"))
    started = time.monotonic()
    try:
        matrix = tried(folder, options.seed, options.mutants, options.processes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_text(options.out / "kill_matrix.md", to_markdown(matrix))
    sys.stdout.write(to_text(matrix))
    sys.stdout.write(f"{options.out / 'kill_matrix.md'} ({time.monotonic() - started:.0f} s)\n")
    return 0 if holds(matrix) else 1


def tried(folder: Path, seed: int, mutants: int, processes: int) -> Matrix:
    """Specimens, and random faults: two thirds in the hook that ships here, the rest in another."""
    plans = [
        Plan(targets()["reference"], dict.fromkeys(LEVELS, mutants // 15), mutants * 4 // 15),
        Plan(targets()["resting"], dict.fromkeys(LEVELS, mutants // 25), mutants // 10),
    ]
    return Matrix(
        checks=[check.name for check in CHECKS],
        trials=all_trials(folder, processes),
        mutants=[one for plan in plans for one in on_trial(plan, folder, seed, processes)],
        seed=seed,
        informing=frozenset(check.name for check in CHECKS if check.informs),
    )


def holds(matrix: Matrix) -> bool:
    """Whether all are killed that should be and nobody else, and every check has killed."""
    return (
        len(matrix.killed) == len(matrix.broken)
        and not matrix.false_alarms
        and not matrix.never_failed
        and matrix.kill_rate >= KILLED
        and len(matrix.rightly_diagnosed) >= NAMED * len(matrix.diagnosed)
    )


if __name__ == "__main__":
    sys.exit(main())
