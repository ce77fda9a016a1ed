"""Survivors that are no faults: changed code, and a hook that is as sound as before."""

from __future__ import annotations

from harness.subject.profile import KnownFailure
from reports.kill_matrix import Mutant

REVIEWED: tuple[KnownFailure, ...] = ()
"""Operator and place, with ``*`` for anything, and why it is no fault. Found by reading."""


def why_sound(mutant: Mutant) -> str:
    """What the reading of a survivor has found; empty where it wasn't read, or is a fault."""
    told = f"{mutant.hook}: {mutant.operator} {mutant.place}"
    return next((entry.reason for entry in REVIEWED if entry.matches(told)), "")
