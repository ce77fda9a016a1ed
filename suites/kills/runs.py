"""A small run of the command, watched from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vae_compat.isolation.processes import below, children

PROFILE = """
[hook]
name = "resting"
entry = "vae_compat.fixtures.specimens.resting:RestingTiler"
kind = "forward"
layout = "ldm"
[claims]
families = ["sd"]
directions = ["encode", "decode"]
modes = ["exact"]
"""
NARROW = ("--families=sd", "--scale=mock", "-k", "float32 and (10x10 or 17x17 or 44x12 or 44x20)")
PATIENCE = 900.0
"""Seconds after which a run that should have ended is called stuck."""
CLEANING = 90.0
"""Seconds that what is left of a killed run may take to end."""
Key = tuple[str, str]


@dataclass(frozen=True)
class Kill:
    """A signal to a process of a run."""

    target: str
    """``judge`` (the process of the command), ``worker`` or ``runner`` (or what is above it)."""
    number: signal.Signals
    workers: int
    after: int
    """Records that are written down by then."""
    delay: float
    """Seconds after that."""
    chosen: float
    """Which of the processes there are, from 0 to 1."""

    def __str__(self) -> str:
        when = f"after {self.after} records and {self.delay:.1f} s"
        return f"-n {self.workers}, {self.number.name} to a {self.target} {when}"


class Started:
    """A run under way."""

    def __init__(self, folder: Path, workers: int, *, resume: bool = False) -> None:
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "resting.toml").write_text(PROFILE)
        self.folder, self.mark = folder, f"TMPDIR={folder / 'tmp'}".encode()
        where = ("--resume" if resume else "--out", "out")
        more = ("-n", str(workers), *where, "--profile", "resting.toml")
        with (folder / "printed").open("w") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vae_compat", "run", *NARROW, *more],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")},
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell has background jobs ignore interrupts, and what they start inherits that.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )

    def records(self) -> dict[Key, dict[str, Any]]:
        """The records so far, by case and check; a later record replaces an earlier one."""
        file = self.folder / "out" / "records.jsonl"
        found: dict[Key, dict[str, Any]] = {}
        text = file.read_bytes() if file.exists() else b""
        for line in text.splitlines(keepends=True):
            if line.endswith(b"\n") and (record := json.loads(line).get("record")):
                found[record["case"], record["check"]] = record
        return found

    def targets(self, kind: str) -> list[int]:
        """The processes of the run that a kill may be for."""
        if kind == "judge":
            return [self.process.pid]
        started = children(self.process.pid)
        workers = [child for child in started if b"eval(sys.stdin" in _line(child)]
        if kind == "worker":
            return workers
        return [process for worker in workers for process in below(worker)]

    def left(self) -> tuple[list[int], list[str]]:
        """Processes of the run that live, and what lies in its folder for temporary files."""
        processes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        mine = [process for process in processes if self.mark in _environment(process)]
        return mine, sorted(path.name for path in (self.folder / "tmp").iterdir())

    def ended(self) -> int | None:
        """The exit code; ``None`` where it does not end."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return None

    @property
    def printed(self) -> str:
        """All that it has printed."""
        return (self.folder / "printed").read_text(errors="replace")


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run."""

    records: Mapping[Key, dict[str, Any]]

    @classmethod
    def run(cls, folder: Path) -> Undisturbed:
        """Run it. Raises ``RuntimeError`` where it fails."""
        made = Started(folder / "undisturbed", 1)
        if made.ended() != 0:
            raise RuntimeError(f"the run fails without being disturbed:\n{made.printed}")
        return cls(made.records())


@dataclass(frozen=True)
class Given:
    """A round."""

    folder: Path
    kill: Kill
    whole: Undisturbed


def told_wrong(given: Given) -> list[str]:
    """Do a round; returns what went wrong, in words."""
    made = Started(given.folder, given.kill.workers)
    try:
        before = _disturb(made, given.kill)
        faults = _end(made, before)
        for _ in range(2):  # what the harness failed in is run once more
            made = _going_on(made, given.kill.workers)
            before = made.records()
            code = made.ended()
            faults += _end(made, before)
            if code == 0:
                break
        else:
            faults.append(f"it ended with {code} at last: {made.printed[-2000:]}")
        faults += _differences(made.records(), given.whole.records)
    finally:
        if made.process.poll() is None:
            os.killpg(made.process.pid, signal.SIGKILL)
            made.process.wait()
    if not faults:
        shutil.rmtree(given.folder)
    return faults


def _going_on(made: Started, workers: int) -> Started:
    """With what was found; from the start where the run ended before it had written anything."""
    known = (made.folder / "out" / "records.jsonl").exists()
    return Started(made.folder, workers, resume=known)


def _disturb(made: Started, kill: Kill) -> dict[Key, dict[str, Any]]:
    """Send the signal; returns what was found by then."""

    def over() -> bool:
        return made.process.poll() is not None

    _until(lambda: over() or len(made.records()) >= kill.after)
    time.sleep(kill.delay)
    _until(lambda: over() or bool(made.targets(kill.target)))
    before = made.records()
    if not over() and (there := made.targets(kill.target)):
        with suppress(ProcessLookupError):
            os.kill(there[int(kill.chosen * len(there))], kill.number)
    return before


def _end(made: Started, before: Mapping[Key, dict[str, Any]]) -> list[str]:
    """Wait for the end of a run; what is wrong then."""
    code = made.ended()
    faults = []
    if code is None:
        faults.append(f"it did not end: {made.printed[-2000:]}")
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()
    elif code not in (0, 3, -signal.SIGKILL):
        faults.append(f"it ended with {code}: {made.printed[-2000:]}")
    _until(lambda: made.left() == ([], []), CLEANING)
    processes, files = made.left()
    if processes:
        faults.append(f"left running: {[_line(process) for process in processes]}")
    if files:
        faults.append(f"left behind: {files}")
    lost = before.keys() - made.records().keys()
    if lost:
        faults.append(f"{len(lost)} records lost: {sorted(lost)[:3]}")
    return faults


def _differences(
    found: Mapping[Key, dict[str, Any]], wanted: Mapping[Key, dict[str, Any]]
) -> list[str]:
    """Where records are not those of the undisturbed run."""
    faults = []
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)
        if one is None or other is None:
            faults.append(f"{key} is {'missing' if one is None else 'not in the undisturbed run'}")
        elif one != other:
            names = [name for name in other if one.get(name) != other[name]]
            faults.append(f"{key} differs: {[(one.get(n), other[n]) for n in names]}"[:500])
    return faults[:3]


def _until(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    until = time.monotonic() + patience
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)


def _line(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
    return b""


def _environment(process: int) -> list[bytes]:
    with suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return []
