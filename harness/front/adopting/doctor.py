"""``vae-compat doctor``: what is installed here, what it can judge, and what is in the way."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata

from vae_compat.families import FAMILIES
from vae_compat.text import printable
from vae_compat.vocabulary import ExitCode


@dataclass(frozen=True)
class Fact:
    """One line of the answer."""

    subject: str
    told: str
    problem: bool = False
    """Whether nothing can be judged because of it."""


def doctor() -> int:
    """Print what is found; exit code 0, or 2 where something essential is missing."""
    problems = 0
    for title, facts in (
        ("installed", installed),
        ("machine", machine),
        ("devices", devices),
        ("families", families),
    ):
        sys.stdout.write(f"{title}\n")
        for fact in _taken(facts):
            problems += fact.problem
            mark = "MISSING " if fact.problem else ""
            sys.stdout.write(f"  {fact.subject:<18} {mark}{printable(fact.told, 500)}\n")
    if problems:
        sys.stdout.write(f"{problems} in the way: nothing can be judged before that is mended\n")
    else:
        sys.stdout.write("nothing is in the way\n")
    sys.stdout.flush()
    return ExitCode.USAGE if problems else ExitCode.HOLDS


def _taken(facts: Callable[[], Iterator[Fact]]) -> Iterator[Fact]:
    """The facts, and what kept the others from being found."""
    try:
        yield from facts()
    except Exception as error:  # whatever a broken installation raises
        yield Fact("", _raised(error), problem=True)


def _raised(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def installed() -> Iterator[Fact]:
    """Python, the package, and everything that it requires."""
    yield Fact("Python", f"{platform.python_version()} ({sys.executable})")
    try:
        required = metadata.requires("vae-compat") or []
        yield Fact("vae-compat", metadata.version("vae-compat"))
    except metadata.PackageNotFoundError:
        yield Fact("vae-compat", "not installed: pip install it", problem=True)
        return
    from packaging.requirements import Requirement

    for line in required:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _required(requirement.name, requirement.specifier.contains, line)


def _required(name: str, suffices: Callable[..., bool], line: str) -> Fact:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Fact(name, f"not installed: pip install '{line}'", problem=True)
    if not suffices(version, prereleases=True):
        return Fact(name, f"{version} is too old: pip install '{line}'", problem=True)
    return Fact(name, version)


def machine() -> Iterator[Fact]:
    """What decides how long a run takes, and what rounds as it does."""
    import psutil

    yield Fact("system", platform.platform())
    if not sys.platform.startswith("linux"):
        yield Fact("", "hooks are judged on Linux alone", problem=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Fact("cores", f"{cores} of {os.cpu_count()} for this process")
    memory = psutil.virtual_memory()
    told = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB of it available"
    yield Fact("memory", told)
    import torch

    yield Fact("CPU kernels", torch.backends.cpu.get_cpu_capability())


def devices() -> Iterator[Fact]:
    """What ``--device`` takes here."""
    import torch

    from vae_compat.device import NAMES, available_devices

    here = available_devices()
    for name in NAMES:
        if name not in here:
            built = torch.version.cuda
            why = f"CUDA {built} of torch finds none" if built else "this torch is built without it"
            yield Fact(name, f"not here: {why}")
        elif name == "cuda":
            yield Fact(name, torch.cuda.get_device_name())
        else:
            yield Fact(name, "the simulated accelerator" if name == "sim" else "no VRAM is counted")


def families() -> Iterator[Fact]:
    """What the installed diffusers has; at least one is needed."""
    from vae_compat.families.installed import left_out

    missing, there = left_out(), 0
    for name, family in FAMILIES.items():
        told = missing.get(name) or _without(family.model_class)
        there += told is None
        trained = ", with trained weights" if family.trained is not None else ""
        yield Fact(name, told or family.title + trained)
    if not there:
        yield Fact("", "diffusers has none of these: pip install -U diffusers", problem=True)


def _without(model_class: str) -> str | None:
    """Why diffusers cannot give this class, where it cannot."""
    try:
        getattr(import_module("diffusers"), model_class)
    except Exception as error:  # importing it imports much else
        return f"left out: diffusers has no {model_class} ({_raised(error)})"
    return None
