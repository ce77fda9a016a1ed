"""Kill runs at random moments: no record is lost, nothing is left behind, and runs resume.

Each round starts a small run, sends a signal to one of its processes at a seeded random moment, and
continues with ``--resume`` until the run is complete. Its records must be those of an undisturbed
run.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from vae_compat.suites.kills.runs import Given, Kill, Undisturbed, told_wrong

TARGETS = ("judge", "worker", "runner")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """0 where every round came out right, else 1."""
    parser = argparse.ArgumentParser(prog="python -m vae_compat.suites.kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        folder = Path(scratch)
        whole = Undisturbed.run(folder)
        _say(f"undisturbed: {len(whole.records)} records")
        for number in range(options.first, options.first + options.rounds):
            kill = kill_of(number, options.seed, len(whole.records))
            started = time.monotonic()
            faults = told_wrong(Given(folder / str(number), kill, whole))
            _say(f"round {number}, {time.monotonic() - started:.0f} s, {kill}: {_told(faults)}")
            wrong += bool(faults)
    _say(f"{options.rounds} kills, {wrong} with faults")
    return 1 if wrong else 0


def kill_of(number: int, seed: int, records: int) -> Kill:
    """Which process a round sends which signal to, and when. Each pair comes in turn."""
    seeded = random.Random(f"{seed} {number}")
    return Kill(
        target=TARGETS[number % 3],
        number=SIGNALS[number // 3 % 3],
        workers=1 + number % 2,
        after=seeded.randrange(records),
        delay=seeded.random() * 2,
        chosen=seeded.random(),
    )


def _told(faults: list[str]) -> str:
    return "; ".join(faults) or "right"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
