"""What the kernel reports about a process and its descendants.

Read straight from ``/proc``: a look at every process of the machine, as libraries take it, costs
milliseconds, and a judge looks several times a second.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_RUNS = ("R", "D")
"""States of a thread that runs, or waits for a CPU or for a disk."""


@dataclass(frozen=True)
class Look:
    """A process and its descendants at one moment."""

    cpu: float
    """CPU seconds so far, ended processes included."""
    busy: bool
    """Whether a thread runs, waits for a CPU, or for the disk."""
    memory: int
    """Bytes in memory, those of files that exist only there included."""


def look_at(process: int) -> Look:
    """The present state of a process and its descendants."""
    family = (process, *below(process))
    return Look(sum(map(cpu, family)), any(map(_busy, family)), _memory(family))


def cpu_of(process: int) -> float:
    """CPU seconds so far, of a process and of all below it."""
    return sum(map(cpu, (process, *below(process))))


def children(process: int) -> list[int]:
    """Its direct child processes, as the kernel lists them."""
    lists = (_read(f"/proc/{process}/task/{thread}/children") for thread in _threads(process))
    return [int(child) for listed in lists for child in listed.split()]


def below(process: int) -> list[int]:
    """Children and theirs."""
    return [one for child in children(process) for one in (child, *below(child))]


def cpu(process: int) -> float:
    """Seconds of a process and of those of its children that have ended."""
    fields = _stat(f"/proc/{process}/stat")
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def named(variable: str, value: str) -> list[int]:
    """Every other process that was started with this environment variable."""
    wanted, found = f"{variable}={value}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def resume(process: int) -> None:
    """Have a process go on that somebody has stopped."""
    if _state(f"/proc/{process}/stat") == "T":
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


@contextmanager
def children_resumed(every: float = 1.0) -> Iterator[None]:
    """Have the child processes of this one go on that something below them stops meanwhile.

    Whoever stops this process as well, as a terminal does, stops that too.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            for child in children(os.getpid()):
                resume(child)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def _busy(process: int) -> bool:
    threads = _threads(process)
    return any(_state(f"/proc/{process}/task/{thread}/stat") in _RUNS for thread in threads)


def _threads(process: int) -> list[str]:
    try:
        return [entry.name for entry in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return []


def _state(file: str) -> str:
    fields = _stat(file)
    return fields[0] if fields else ""


def _stat(file: str) -> list[str]:
    """The fields of a ``stat`` from the state on; none where the process is gone."""
    return _read(file).rpartition(")")[2].split()


def _memory(family: tuple[int, ...]) -> int:
    """Bytes in memory of all together, quickly read: pages that a fork shares count twice."""
    own, shared, files = 0, 0, dict[tuple[int, int], int]()
    for process in family:
        status = _numbers(f"/proc/{process}/status")
        own += status.get("RssAnon", 0)
        shared = max(shared, status.get("RssShmem", 0))
        files |= _files_in_memory(process)
    return own + max(shared, sum(files.values()))


def memory_of(process: int) -> int:
    """Bytes in memory of a process and all below it, each page counted once: takes milliseconds."""
    family, files = (process, *below(process)), dict[tuple[int, int], int]()
    own = shared = 0
    for member in family:
        pages = _numbers(f"/proc/{member}/smaps_rollup")
        own += pages.get("Pss_Anon", 0)
        shared += pages.get("Pss_Shmem", 0)
        files |= _files_in_memory(member)
    return own + max(shared, sum(files.values()))


def _numbers(file: str) -> dict[str, int]:
    """Lines ``Name:  123 kB`` as bytes by name."""
    found = {}
    for line in _read(file).splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value[:-3]) * 1024
    return found


def _files_in_memory(process: int) -> dict[tuple[int, int], int]:
    """Bytes of the open files that are kept in memory alone, by device and number."""
    found: dict[tuple[int, int], int] = {}
    with suppress(OSError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                file = descriptor.stat()
                if stat.S_ISREG(file.st_mode) and file.st_dev in _devices_in_memory():
                    found[file.st_dev, file.st_ino] = file.st_blocks * 512
    return found


@cache
def _devices_in_memory() -> frozenset[int]:
    """Device numbers of file systems that live in memory alone, that of nameless files included."""
    found = set()
    with suppress(OSError, AttributeError):
        nameless = os.memfd_create("vae-compat")
        found.add(os.fstat(nameless).st_dev)
        os.close(nameless)
    for line in _read("/proc/mounts").splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind in ("tmpfs", "ramfs"):
            with suppress(OSError):
                found.add(Path(place).stat().st_dev)
    return frozenset(found)


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
