"""Resumes an interrupted run, if options, hooks and versions are still the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vae_compat.errors import UsageError

if TYPE_CHECKING:
    from vae_compat.reports.log import Key, Log
    from vae_compat.reports.results import Header

_ALIKE = {
    "selection": "the selection",
    "shard": "the shard",
    "device": "the device",
    "seed": "the seed",
    "version": "vae-compat",
    "commit": "vae-compat's commit",
    "torch": "torch",
    "diffusers": "diffusers",
    "inputs": "the weights or the picture",
    "gpu": "the GPU or its software",
}
"""What must be unchanged, with its name in messages."""


def resumed(folder: Path, header: Header) -> Log:
    """The log to append to. Raises ``UsageError`` where it belongs to another run."""
    from vae_compat.reports.log import read_log

    log = read_log(folder)
    for what, before, now in differences(log.header, header):
        raise UsageError(
            f"--resume {folder}: {what} was {before} and is {now}: start a new run with --out"
        )
    return log


def differences(before: Header, now: Header) -> Iterator[tuple[str, object, object]]:
    """What two runs were asked for, or ran with, that makes them different runs."""
    names = [", ".join(hook.name for hook in header.hooks) for header in (before, now)]
    if names[0] != names[1]:
        yield "the hook", names[0], names[1]
        return
    for old, new in zip(before.hooks, now.hooks, strict=True):
        if (old.entry, old.kind, old.layout) != (new.entry, new.kind, new.layout):
            yield f"the entry of hook {old.name}", old.entry, new.entry
        if old.sha256 != new.sha256:
            yield (
                f"the code of hook {old.name}",
                (old.sha256 or "not found")[:12],
                (new.sha256 or "not found")[:12],
            )
        if old.claims != new.claims:
            yield f"the profile of hook {old.name}", old.claims, new.claims
    for name, words in _ALIKE.items():
        was, is_now = getattr(before, name), getattr(now, name)
        if was != is_now:
            yield words, repr(was), repr(is_now)


def finished(log: Log) -> frozenset[Key]:
    """The records that need not be run again: all except failures of the harness."""
    return frozenset(key for key, entry in log.entries.items() if not entry.harness)
